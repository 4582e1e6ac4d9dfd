"""Downloading one file over HTTP: resumes after a cut, and never leaves a half file in its place.

The bytes go into ``<file>.part``, which gets the file's name when it is complete and has the right
size and checksums.
"""

from __future__ import annotations

import http.client
import os
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm import tqdm

from recbole_lite.data.sources.dataset_meta import Source
from recbole_lite.data.sources.source_files import REPLACED, mismatches
from recbole_lite.utils.errors import DownloadError, one_line

BLOCK = 1 << 16
RETRIED = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class RetryPolicy:
    """How long to wait and how often to try."""

    timeout: float = 20.0  # seconds without a connection or without a byte
    tries: int = 4  # attempts in a row without a new byte
    pause: float = 1.0  # seconds before the second attempt; doubles with each further one


class _CutError(Exception):
    """The transfer stopped before its end; another attempt may help."""


class _FinalError(Exception):
    """No further attempt will help."""


def download_file(
    source: Source, folder: Path, advice: str, retries: RetryPolicy | None = None
) -> Path:
    """Download a file into `folder`, unless it is there already, and return its path.

    It is complete; size and checksums are those of `source` where it has them. `advice`, how to get
    the file without this network, ends every error message.

    Raises
    ------
    DownloadError
        No connection, an answer other than the file, or a file that is not the expected one.
    """
    target = folder / source.file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{source.file}.lock"):
            if not target.exists():
                part = _Part(target.with_name(f"{target.name}.part"), source)
                if not part.is_complete:
                    _download(part, retries or RetryPolicy())
                os.replace(part.path, target)
            elif wrong := mismatches(target, source):
                raise DownloadError(
                    f"{target} is not the file of {source.url}: {'; '.join(wrong)}. "
                    f"Delete it and run the command again.\n{advice}"
                )
    except _FinalError as error:
        raise DownloadError(f"{source.url}: {error}\n{advice}") from error
    except OSError as error:
        raise DownloadError(f"{folder}: cannot write: {error}\n{advice}") from error
    return target


class _Part:
    """The bytes that have arrived; their file has the time that the server names for the whole.

    That time tells the server in a later run which file they are of. Where a checksum will tell
    in the end, they are used without.
    """

    def __init__(self, path: Path, source: Source):
        self.path, self.source = path, source
        self.checkable = bool(source.sha256 or source.md5)
        self.resumed = self.size > 0
        self.validator: str | None = None
        if self.resumed and not self.checkable:
            self.validator = formatdate(path.stat().st_mtime, usegmt=True)

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def is_complete(self) -> bool:
        """Whether all bytes came before an earlier run was stopped, which a checksum tells."""
        return self.resumed and self.checkable and not mismatches(self.path, self.source)

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)


def _download(part: _Part, retries: RetryPolicy) -> None:
    failures, furthest = 0, part.size
    while True:
        try:
            _attempt(part, retries.timeout)
        except _CutError as cut:
            failures = 0 if part.size > furthest else failures + 1
            furthest = max(furthest, part.size)
            if failures >= retries.tries:
                kept = f"{part.size:,} bytes are kept; the next run continues from there"
                raise _FinalError(f"{cut}; gave up after {failures} attempts ({kept})") from cut
            time.sleep(retries.pause * 2 ** max(failures - 1, 0))
            continue
        wrong = mismatches(part.path, part.source)
        if not wrong:
            return
        part.clear()
        if not part.resumed:  # a resumed file may be made of two files: then one fresh start
            found = "; ".join(wrong)
            raise _FinalError(f"the server sent another file than expected: {found}. {REPLACED}")
        part.resumed, furthest = False, 0


def _attempt(part: _Part, timeout: float) -> None:
    """Send one request and receive its body."""
    offset = part.size
    request = urllib.request.Request(part.source.url, headers={"User-Agent": "recbole-lite"})
    if offset and (part.validator or part.checkable):
        request.add_header("Range", f"bytes={offset}-")
        if part.validator:
            request.add_header("If-Range", part.validator)
    with _open(request, part, timeout) as response:
        if response.status == 206:
            if not (response.headers.get("Content-Range") or "").startswith(f"bytes {offset}-"):
                part.clear()
                raise _CutError("the server answered with another part of the file than asked for")
            part.resumed = True
        else:
            offset = 0
        total = _total(response, offset, part)
        etag, modified = (response.headers.get(key) or "" for key in ("ETag", "Last-Modified"))
        part.validator = etag if etag.startswith('"') else modified  # a weak one allows other bytes
        try:
            _receive(response, part, offset, total)
        finally:
            if modified:
                time_of_file = parsedate_to_datetime(modified).timestamp()
                os.utime(part.path, (time_of_file, time_of_file))
    if total is not None and part.size != total:
        raise _CutError(f"the connection was cut after {part.size:,} of {total:,} bytes")


def _open(request: urllib.request.Request, part: _Part, timeout: float) -> Any:
    try:
        # a new opener, since the shared one keeps the proxies of its first use
        return urllib.request.build_opener().open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # the part does not fit the file: it changed, or is complete
            part.clear()
            raise _CutError("the server refused to continue the download") from error
        kind = _CutError if error.code in RETRIED else _FinalError
        raise kind(f"the server answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise _FinalError(f"no connection ({error.reason})") from error
    except (OSError, http.client.HTTPException) as error:
        raise _CutError(f"no answer ({one_line(error)})") from error


def _total(response: Any, offset: int, part: _Part) -> int | None:
    """Size of the whole file, where the server tells it."""
    expected = part.source.size
    if response.length is not None:
        total = offset + response.length
        if expected is not None and total != expected:
            raise _FinalError(f"the server offers {total:,} bytes, expected {expected:,}")
        return total
    if not response.chunked and expected is None and not part.checkable:
        raise _FinalError(
            "the server does not tell the file's size, so that a cut would go unnoticed"
        )
    return expected


def _receive(response: Any, part: _Part, offset: int, total: int | None) -> None:
    progress = tqdm(
        total=total, initial=offset, unit="B", unit_scale=True, desc=part.source.file, disable=None
    )
    with part.path.open("ab" if offset else "wb") as out, progress:
        try:
            while block := _read(response):
                out.write(block)
                progress.update(len(block))
        finally:
            out.flush()
            os.fsync(out.fileno())


def _read(response: Any) -> bytes:
    try:
        return response.read1(BLOCK)
    except (OSError, http.client.HTTPException) as error:
        raise _CutError(f"the transfer stopped ({one_line(error)})") from error
