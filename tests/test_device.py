"""The tests on the pretend accelerator (tests/device), in a process of their own.

torch takes a backend for the whole process, and before its first backward pass.
"""

import os
import subprocess
import sys
from pathlib import Path

import pretend_device
import pytest


@pytest.mark.skipif(pretend_device.MISSING is not None, reason=str(pretend_device.MISSING))
def test_on_the_pretend_device():
    command = [sys.executable, "-m", "pytest", "-m", "device", "-q", "-p", "no:cacheprovider"]
    folder = Path(__file__).parent / "device"
    done = subprocess.run(
        [*command, str(folder)],
        cwd=folder.parents[1],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, f"{' '.join(command)} {folder}\n{done.stdout}{done.stderr}"
    assert " passed" in done.stdout
