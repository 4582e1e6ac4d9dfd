"""Tables and ids of any type, told apart without the libraries that they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any


def is_frame(value: Any) -> bool:
    """Whether a value is a table: of a library, a list of dicts, or a dict of lists."""
    if isinstance(value, Mapping) or hasattr(value, "columns") or hasattr(value, "collect_schema"):
        return True
    return isinstance(value, Sequence) and bool(value) and isinstance(value[0], Mapping)


def id_text(value: Any) -> str:
    """Text that stands for an id of any hashable type."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    whole = isinstance(value, Real) and not isinstance(value, bool) and value % 1 == 0
    return str(int(value)) if whole else str(value)
