"""Names that become part of paths."""

from __future__ import annotations

import re
from pathlib import Path

from recbole_lite.utils.errors import DataError

MAX_BYTES = 200  # file systems allow 255 for a file, and a log's name holds more than the data set

USUAL_PARTS = ("train", "valid", "test")


def part_file(name: str, part: str) -> str:
    """Name of the file of a part."""
    return f"{name}.{part}.inter"


def find_parts(folder: str | Path, name: str) -> list[str]:
    """Names of the parts in a data set's folder: train, valid, test, then others."""
    start, end = f"{name}.", ".inter"
    found = {
        path.name[len(start) : -len(end)]
        for path in Path(folder).glob(f"*{end}")
        if path.name.startswith(start) and len(path.name) > len(start) + len(end)
    }
    return [part for part in USUAL_PARTS if part in found] + sorted(found.difference(USUAL_PARTS))


def check_name(name: str) -> str:
    """Return a user's name of a data set, unless it is not the plain name of a folder.

    Raises
    ------
    DataError
        The name could lead out of its folder, or no file could have it.
    """
    if not name or name.startswith((".", "_")) or re.search(r"[/\\:]|\.\.", name):
        raise DataError(
            f"{name!r} is not a data set name: it must be the plain name of a folder inside the "
            "data path, without '/', '\\', ':' or '..', and not begin with '.' or '_'. "
            "A folder elsewhere goes into --data_path."
        )
    if not name.isprintable() or len(name.encode("utf-8", "replace")) > MAX_BYTES:
        raise DataError(
            f"{name[:60]!r} is not a data set name: no control characters, at most {MAX_BYTES} "
            f"bytes"
        )
    return name
