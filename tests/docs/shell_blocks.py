"""Shell blocks of Markdown pages."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

SHELL = ("sh", "bash", "shell", "console")


def blocks(page: Path) -> list[list[list[str]]]:
    """Commands of each shell block, as words.

    A block counts if it is marked as shell, or unmarked and begins with a command.
    """
    found = []
    text = page.read_text(encoding="utf-8")
    for kind, block in re.findall(r"^ *```(\w*)\n(.*?)^ *```", text, re.M | re.S):
        is_shell = kind in SHELL
        if not is_shell and not (
            kind == "" and re.match(r" *(\$ )?(recbole-lite|python|make|pip) ", block)
        ):
            continue
        lines = block.replace("\\\n", " ").splitlines()
        words = (shlex.split(line.strip().removeprefix("$ "), comments=True) for line in lines)
        found.append([line for line in words if line])
    return found


def commands(page: Path) -> list[list[str]]:
    """Commands of all shell blocks of a page."""
    return [words for block in blocks(page) for words in block]
