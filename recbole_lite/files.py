"""Writing files so that a kill at any moment leaves the old one or the new one, whole."""

from __future__ import annotations

import glob
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence, Set
from datetime import date
from decimal import Decimal
from numbers import Real
from operator import methodcaller
from pathlib import Path
from typing import Any


def write_atomically(path: str | Path, write: Callable[[Path], None]) -> None:
    """Write a file under a temporary name, flush it to disk, then rename it into place.

    Parameters
    ----------
    path : str or Path
        Where the file shall be; its folder is made if need be.
    write : callable
        Writes the file at the path that it is given.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # the user's; safetensors makes files that only they read
        write(temporary)
        temporary.chmod(mode)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def leftovers(path: str | Path) -> list[Path]:
    """Temporary files that killed processes have left of `path`, or of any file in a folder.

    Only who holds the path alone may remove them: they may be another process's at work.
    """
    path = Path(path)
    folder, name = (path, "*") if path.is_dir() else (path.parent, glob.escape(path.name))
    return sorted(folder.glob(f".{name}.*.tmp"))


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# -- JSON -------------------------------------------------------------------------------------


# Types, before those that they are kinds of -> how they become plain; members of enumerations and
# NumPy's strings are instances of these that YAML does not know.
_SCALARS: dict[type, Callable[[Any], Any]] = {
    type(None): lambda value: None,
    bool: bool,
    int: int,
    str: str.__str__,
    date: methodcaller("isoformat"),
    os.PathLike: os.fspath,
}


def to_plain(value: Any, finite: bool = True, unknown: Callable[[Any], Any] = str) -> Any:
    """Turn a value that a metric, a user or a library brings into what JSON has.

    Parameters
    ----------
    value : object
        Numbers, arrays and tensors of NumPy and torch become numbers and lists, tuples and sets
        lists, dates their ISO form.
    finite : bool
        Whether NaN and infinity, which JSON has not, become None.
    unknown : callable
        Called with a value of any other type.
    """
    if isinstance(value, float):  # also NumPy's float64
        return float(value) if math.isfinite(value) or not finite else None
    for kind, convert in _SCALARS.items():
        if isinstance(value, kind):
            return convert(value)
    if isinstance(value, Mapping):
        return {
            key if isinstance(key, (str, int)) else str(key): to_plain(entry, finite, unknown)
            for key, entry in value.items()
        }
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray, memoryview)):
        return [to_plain(entry, finite, unknown) for entry in value]
    if isinstance(value, Set):
        return to_plain(sorted(value, key=str), finite, unknown)
    if hasattr(value, "tolist"):  # NumPy, torch, pandas
        return to_plain(value.tolist(), finite, unknown)
    is_number = isinstance(value, (Real, Decimal))
    return to_plain(float(value), finite, unknown) if is_number else unknown(value)


def to_json(content: Any, indent: int | None = None, finite: bool = True) -> str:
    """Text of `content` as JSON, whatever types its values have (:func:`to_plain`).

    Settings are written with `finite` False, as they are read back: JSON's null is no infinity.
    """
    return json.dumps(to_plain(content, finite), indent=indent, ensure_ascii=False)


def write_json(path: str | Path, content: Any, indent: int | None = 1, finite: bool = True) -> None:
    """Write a JSON file (:func:`to_json`), which a person can read unless `indent` is None."""
    text = to_json(content, indent, finite) + "\n"
    write_atomically(path, lambda name: name.write_text(text, encoding="utf-8"))
