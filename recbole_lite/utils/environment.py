"""Versions and machine with which figures were measured."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import recbole_lite

PACKAGES = ("torch", "transformers", "recbole", "numpy", "scipy")


def environment() -> dict[str, Any]:
    """Describe the software and the machine of this process.

    Returns
    -------
    dict
        ``python``, ``recbole_lite``, one key per name in `PACKAGES` (None: not installed),
        ``commit`` (of this project's checkout, with ``-dirty`` where tracked files were changed;
        None outside of one), ``system``, ``processor``, ``cores``, ``threads`` (that torch uses),
        ``gpu`` (name, or None).
    """
    import torch

    return {
        "python": platform.python_version(),
        "recbole_lite": recbole_lite.__version__,
        **{name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    root = Path(recbole_lite.__file__).resolve().parents[1]
    if not (root / ".git").exists():  # installed: a repository further up is another project's
        return None
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(
            [*command, "--exclude=*"], cwd=root, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
