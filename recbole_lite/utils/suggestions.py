"""Names that a misspelt one may stand for."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def near(name: str, known: Iterable[str], cutoff: float = 0.6) -> list[str]:
    """Up to three known names like `name`, nearest first; upper and lower case are the same."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    return [by_lower[m] for m in difflib.get_close_matches(name.lower(), by_lower, 3, cutoff)]


def suggest(name: str, known: Iterable[str]) -> str:
    """``; did you mean ...?`` with the known names like `name`, or nothing."""
    names = near(name, known)
    return f"; did you mean {' or '.join(names)}?" if names else ""
