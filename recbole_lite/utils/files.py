"""Writing files so that a kill at any moment leaves the old one or the new one, whole."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import math
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from numbers import Real
from operator import methodcaller
from pathlib import Path
from typing import Any, BinaryIO

from recbole_lite.utils.errors import ConfigError

STANDARD = "-"  # standard input or output, where a path is expected
# Its entries open what a process has open already: a replaced file would be another one.
_DESCRIPTORS = re.compile(r"/dev/fd|/proc/(?:\d+|self)(?:/task/\d+)?/fd")


def write_atomically(path: str | Path, write: Callable[[Path], None]) -> None:
    """Write a file under a temporary name, flush it to disk, then rename it into place.

    A link is followed. What is no regular file (a device, a pipe, ``/dev/stdout``) is never
    replaced: the content is written to it when it is complete.

    Parameters
    ----------
    path : str or Path
        Where the file shall be; its folder is made if need be.
    write : callable
        Writes the file at the path that it is given.

    Raises
    ------
    OSError
        With `path` as its file name where the place cannot be written.
    """
    if is_stream(path):
        with tempfile.TemporaryDirectory() as folder:
            complete = Path(folder, "content")
            write(complete)
            with open_stream(path) as stream, complete.open("rb") as content:
                shutil.copyfileobj(content, stream)
        return
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        mode = _begin(temporary, target)
        write(temporary)
        temporary.chmod(mode)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _begin(temporary: Path, target: Path) -> int:
    """Make the temporary file; the mode that the file shall have, the old one's or the user's."""
    try:
        temporary.touch()
    except OSError as error:
        error.filename = str(target)
        raise
    mode = (target if target.exists() else temporary).stat().st_mode
    return stat.S_IMODE(mode)  # safetensors makes files that only their owner reads


def is_stream(path: str | Path) -> bool:
    """Whether a path is ``-`` or leads to what is no regular file, nor a place for one."""
    path = Path(path)
    if str(path) == STANDARD or _descriptor(path) is not None:
        return True
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _descriptor(path: Path) -> int | None:
    """Number of the open file that a path such as ``/dev/stdout`` or ``/dev/fd/63`` stands for."""
    for _ in range(40):  # as many links as Linux follows
        if _DESCRIPTORS.fullmatch(os.path.realpath(path.parent)) and path.name.isdigit():
            return int(path.name)
        if not path.is_symlink():
            break
        path = path.parent / os.readlink(path)
    return None


@contextmanager
def open_stream(path: str | Path) -> Iterator[BinaryIO]:
    """Open what :func:`is_stream` names for writing.

    Raises
    ------
    OSError
        With `path` as its file name; `BrokenPipeError` where nobody reads any more.
    """
    number = 1 if str(path) == STANDARD else _descriptor(Path(path))
    try:
        if number is None:
            with open(path, "wb") as file:
                yield file
        else:
            sys.stdout.flush()
            with os.fdopen(os.dup(number), "wb") as file:
                yield file
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextmanager
def spooled(path: str | Path, suffix: str = "") -> Iterator[Path]:
    """A file that can be read several times: the path itself, or a copy of a stream.

    Parameters
    ----------
    path : str or Path
        ``-`` is standard input.
    suffix : str
        Of a copy's name, for readers that go by it.
    """
    path = Path(path)
    if not is_stream(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        name = "standard input" if str(path) == STANDARD else path.name
        copy = Path(folder, name + suffix)
        source = sys.stdin.buffer if str(path) == STANDARD else path.open("rb")
        with source, copy.open("wb") as file:
            shutil.copyfileobj(source, file)
        yield copy


def check_folder(path: str | Path, name: str) -> None:
    """Refuse a path that cannot be a folder to write into.

    Raises
    ------
    ConfigError
        It is ``-``, a file, a device or a pipe; `name` is the flag.
    """
    if str(path) == STANDARD or (Path(path).exists() and not Path(path).is_dir()):
        raise ConfigError(f"{name}: {path} is a file; name a folder")


def leftovers(path: str | Path) -> list[Path]:
    """Temporary files that killed processes have left of `path`, or of any file in a folder.

    Only who holds the path alone may remove them: they may be another process's at work.
    """
    path = Path(os.path.realpath(path))
    folder, name = (path, "*") if path.is_dir() else (path.parent, glob.escape(path.name))
    return sorted(folder.glob(f".{name}.*.tmp"))


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8 (:func:`write_atomically`)."""
    write_atomically(path, lambda name: name.write_text(text, encoding="utf-8"))


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
    write_text(path, to_json(content, indent, finite) + "\n")
