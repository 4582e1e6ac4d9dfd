"""Writing files so that a kill at any moment leaves the old one or the new one, whole."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Callable
from pathlib import Path


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
