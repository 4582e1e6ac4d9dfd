"""The Python of the documentation runs."""

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path):
    return re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.integration
def test_the_examples_of_extending_run_in_order(workdir):
    """On ml-100k, as one script, from the root of a checkout (properties/ is beside it)."""
    (workdir / "properties").symlink_to(ROOT / "properties")
    code = "\n".join(blocks(ROOT / "docs" / "extending.md"))
    assert len([line for line in code.splitlines() if line.strip()]) < 75
    (workdir / "example.py").write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "example.py"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    recall, report = done.stdout.splitlines()[-1].split()
    # Chance would find 20 of 1,682 items; so much better is a model that has learned.
    assert float(recall) > 4 * 20 / 1682
    assert Path(report).is_file()


def test_each_example_of_extending_has_thirty_lines_or_so():
    for code in blocks(ROOT / "docs" / "extending.md"):
        assert len([line for line in code.splitlines() if line.strip()]) <= 36


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_of_the_pages_imports_what_exists(page):
    for code in blocks(page):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("recbole_lite"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{page.name}: {alias.name}"
