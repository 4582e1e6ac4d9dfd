"""Fetching one file over HTTP: resumes after a cut, and never leaves a half file in its place.

The bytes go into ``<file>.part``; beside it ``<file>.part.json`` remembers what the server said
of the file, so that a resumed download continues the same file. Only a part that is complete
and has the right size and checksums gets the file's name.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm import tqdm

from recbole_lite.data.sources.dataset_meta import Source
from recbole_lite.data.sources.source_files import REPLACED, mismatches
from recbole_lite.utils.errors import DownloadError

BLOCK = 1 << 16
RETRIED = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class RetryPolicy:
    """How long to wait and how often to try.

    Parameters
    ----------
    timeout : float
        Seconds without a connection or without a byte.
    tries : int
        Attempts in a row that bring no new byte.
    pause : float
        Seconds before the second attempt; doubles with each further one.
    """

    timeout: float = 20.0
    tries: int = 4
    pause: float = 1.0


class _CutError(Exception):
    """The transfer stopped before its end; another attempt may help."""


class _FinalError(Exception):
    """No further attempt will help."""


def fetch(source: Source, folder: Path, advice: str, retries: RetryPolicy | None = None) -> Path:
    """Download a file, unless it is there already.

    Parameters
    ----------
    source : Source
        What to fetch.
    folder : Path
        Where to put it.
    advice : str
        How to bring the file by hand; ends every error message.
    retries : RetryPolicy, optional
        Waiting times.

    Returns
    -------
    Path
        The file, complete; size and checksums are those of `source` where it has them.

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
                _download(source, _Part(target), retries or RetryPolicy())
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
    """The bytes that have arrived, and what is known of the file that they belong to."""

    def __init__(self, target: Path):
        self.target = target
        self.path = target.with_name(target.name + ".part")
        self.notes = target.with_name(target.name + ".part.json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def recall(self, source: Source) -> dict[str, Any]:
        """Read what was noted; nothing, if it was of another URL."""
        try:
            notes = json.loads(self.notes.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return notes if notes.get("url") == source.url else {}

    def remember(self, source: Source, headers: Any, total: int | None) -> None:
        etag = headers.get("ETag") or ""
        strong = etag if etag.startswith('"') else None
        validator = strong or headers.get("Last-Modified")
        notes = {"url": source.url, "validator": validator, "total": total}
        self.notes.write_text(json.dumps(notes), encoding="utf-8")

    def validator(self, source: Source) -> str | None:
        """Choose the If-Range: "" where a checksum will tell; None: start over."""
        notes = self.recall(source)
        unchecked = "" if notes and (source.sha256 or source.md5) else None
        return notes.get("validator") or unchecked

    def is_complete(self, source: Source) -> bool:
        """Whether all bytes came before the last run was stopped."""
        return self.size > 0 and self.size == self.recall(source).get("total")

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)

    def finish(self) -> None:
        os.replace(self.path, self.target)
        self.notes.unlink(missing_ok=True)
        _sync_folder(self.target.parent)


def _download(source: Source, part: _Part, retries: RetryPolicy) -> None:
    resumed = part.size > 0
    failures, furthest = 0, part.size
    while True:
        try:
            if not part.is_complete(source):
                resumed = _attempt(source, part, retries.timeout) or resumed
        except _CutError as cut:
            failures = 0 if part.size > furthest else failures + 1
            furthest = max(furthest, part.size)
            if failures >= retries.tries:
                kept = f"{part.size:,} bytes are kept and the next run goes on from there"
                raise _FinalError(f"{cut}; gave up after {failures} attempts ({kept})") from cut
            time.sleep(retries.pause * 2 ** max(failures - 1, 0))
            continue
        wrong = mismatches(part.path, source)
        if not wrong:
            return part.finish()
        part.clear()
        if not resumed:  # a resumed file may be made of two files: then one fresh start
            found = "; ".join(wrong)
            raise _FinalError(f"the server sent another file than expected: {found}. {REPLACED}")
        resumed, furthest = False, 0


def _attempt(source: Source, part: _Part, timeout: float) -> bool:
    """Send one request and receive its body; true when it went on from an earlier cut."""
    offset = part.size
    validator = part.validator(source) if offset else None
    request = urllib.request.Request(source.url, headers={"User-Agent": "recbole-lite"})
    if validator is not None:
        request.add_header("Range", f"bytes={offset}-")
        if validator:
            request.add_header("If-Range", validator)
    with _open(request, part, timeout) as response:
        resumes = response.status == 206
        if resumes and not _continues(response, offset):
            part.clear()
            raise _CutError("the server answered with another part of the file than asked for")
        if not resumes:
            offset = 0
        total = _total(response, offset, source)
        part.remember(source, response.headers, total)
        _receive(response, part, offset, total, source.file)
    if total is not None and part.size != total:
        raise _CutError(f"the connection was cut after {part.size:,} of {total:,} bytes")
    return resumes


def _open(request: urllib.request.Request, part: _Part, timeout: float) -> Any:
    try:
        # a new opener, since the shared one keeps the proxies of its first use
        return urllib.request.build_opener().open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # the part does not fit the file: it changed, or is complete
            part.clear()
            raise _CutError("the server refused to go on from the bytes received") from error
        kind = _CutError if error.code in RETRIED else _FinalError
        raise kind(f"the server answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise _FinalError(f"no connection ({error.reason})") from error
    except (OSError, http.client.HTTPException) as error:
        raise _CutError(f"no answer ({_named(error)})") from error


def _continues(response: Any, offset: int) -> bool:
    return (response.headers.get("Content-Range") or "").startswith(f"bytes {offset}-")


def _total(response: Any, offset: int, source: Source) -> int | None:
    """Size of the whole file, where the server tells it."""
    if response.length is not None:
        total = offset + response.length
        if source.size is not None and total != source.size:
            raise _FinalError(f"the server offers {total:,} bytes, expected {source.size:,}")
        return total
    checkable = source.size is not None or source.sha256 or source.md5
    if not response.chunked and not checkable:
        raise _FinalError(
            "the server does not tell the file's size, so that a cut would go unnoticed"
        )
    return source.size


def _receive(response: Any, part: _Part, offset: int, total: int | None, name: str) -> None:
    progress = tqdm(total=total, initial=offset, unit="B", unit_scale=True, desc=name, disable=None)
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
        raise _CutError(f"the transfer stopped ({_named(error)})") from error


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut; not every system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
