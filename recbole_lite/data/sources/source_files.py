"""Source files on disk: plain, gzipped, inside a zip, or in a folder."""

from __future__ import annotations

import gzip
import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

from recbole_lite.utils.errors import DataError

if TYPE_CHECKING:
    from recbole_lite.data.sources.dataset_meta import Source

REPLACED = (
    "If the publisher has replaced it, put a copy of the data set's dataset_meta file, with the "
    "new size and checksum, into a folder dataset_meta inside the data path."
)
MAGIC = {".gz": b"\x1f\x8b", ".zip": b"PK"}
MAX_MEMBER_BYTES = 8 << 30  # the largest file of ml-25m has 0.7 GB
MAX_RATIO = 200  # text shrinks about tenfold; a member that shrinks more is a trap
_RATIO_COUNTS_FROM = 1 << 20
_LINK = 0o120000


def mismatches(path: Path, source: Source) -> list[str]:
    """Differences of a file from its known size and checksums, a sentence each."""
    size = path.stat().st_size
    if source.size is not None and size != source.size:
        return [f"{size:,} bytes, expected {source.size:,}"]
    return _wrong_kind(path, source.file) or _wrong_sums(path, source)


def _wrong_kind(path: Path, name: str) -> list[str]:
    """Tell a page of a login or of an error from the archive that was asked for."""
    with path.open("rb") as handle:
        start = handle.read(2)
    expected = MAGIC.get(Path(name).suffix, start)
    return [] if start == expected else [f"it begins with {start!r}: no {Path(name).suffix} file"]


def _wrong_sums(path: Path, source: Source) -> list[str]:
    found = []
    for algorithm in ("sha256", "md5"):
        expected = getattr(source, algorithm)
        if not expected:
            continue
        with path.open("rb") as handle:
            actual = hashlib.file_digest(handle, algorithm).hexdigest()
        if actual != expected:
            recorded = f" ({source.checksum_from})" if source.checksum_from else ""
            found.append(f"{algorithm} {actual}, expected {expected}{recorded}")
    return found


def _check_zip(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse an archive that could fill the disk, or that no publisher has packed."""
    for member in archive.infolist():
        problem = _problem(member)
        if problem:
            raise DataError(
                f"the archive's member {member.filename!r} {problem}. This is not an archive "
                "of the data set's publisher; delete it and fetch it again.",
                path,
            )


def _problem(member: zipfile.ZipInfo) -> str:
    name = PurePosixPath(member.filename.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts or (name.parts and ":" in name.parts[0]):
        return "points outside the archive"
    if (member.external_attr >> 16) & 0o170000 == _LINK:
        return "is a link"
    if member.file_size > MAX_MEMBER_BYTES:
        return f"unpacks to {member.file_size:,} bytes (limit {MAX_MEMBER_BYTES:,})"
    shrunk = member.file_size > MAX_RATIO * max(member.compress_size, 1)
    if shrunk and member.file_size > _RATIO_COUNTS_FROM:
        return f"unpacks from {member.compress_size:,} to {member.file_size:,} bytes"
    return ""


class SourceFiles:
    """Reads the source files of one data set by name.

    Parameters
    ----------
    paths : list of Path
        Files as downloaded, and folders with such files or with an unpacked archive.
    """

    def __init__(self, paths: list[Path]):
        self.paths = paths

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Open a file for reading bytes; what is gzipped is unpacked on the way.

        `name` is that of a downloaded file, or of a member of a downloaded zip, without its folder.
        ``name.gz`` may stand unpacked as ``name``.

        Raises
        ------
        DataError
            There is no such file, or it is damaged.
        """
        place = self.place(name)
        try:
            with self._stream(*place) as stream:
                yield stream
        except (EOFError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(
                f"the file is damaged or incomplete ({error}); delete it and fetch it again",
                place[0],
            ) from error

    def place(self, name: str) -> tuple[Path, str | None]:
        """Path of a file (`name` as in `open`), or of the zip that holds it and the member's name.

        Raises
        ------
        DataError
            There is no such file.
        """
        wanted = [name, name.removesuffix(".gz")]
        for path in self.paths:
            if path.is_dir():
                found = _in_folder(path, wanted)
                if found:
                    return found, None
            elif path.name in wanted:
                return path, None
            elif zipfile.is_zipfile(path):
                member = _in_zip(path, wanted)
                if member:
                    return path, member
        places = ", ".join(str(path) for path in self.paths) or "no file"
        raise DataError(f"no {name} in {places}; it belongs to the data set's source files")

    @contextmanager
    def _stream(self, path: Path, member: str | None) -> Iterator[BinaryIO]:
        if member is not None:
            with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
                yield stream
        elif _is_gzip(path):
            with gzip.open(path, "rb") as stream:
                yield stream
        else:
            with path.open("rb") as stream:
                yield stream


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(2) == b"\x1f\x8b"


def _in_folder(folder: Path, wanted: list[str]) -> Path | None:
    """Look in the folder and in its subfolders, one level deep."""
    for name in wanted:
        for path in [folder / name, *sorted(folder.glob(f"*/{name}"))]:
            if path.is_file():
                return path
    return None


def _in_zip(path: Path, wanted: list[str]) -> str | None:
    with zipfile.ZipFile(path) as archive:
        _check_zip(archive, path)
        names = [n for n in archive.namelist() if not n.startswith("__MACOSX/")]
    found = [n for n in names if PurePosixPath(n).name in wanted]
    return min(found, key=lambda n: (n.count("/"), n)) if found else None
