"""Recommendations for a file of histories, in bounded memory."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from recbole_lite.inference.recommender import Recommender, named_unknown
from recbole_lite.utils.errors import DataError
from recbole_lite.utils.files import STANDARD, is_stream, open_stream, spooled, write_atomically

INPUT_COLUMNS = ("user_id", "history")
OUTPUT_COLUMNS = ("user_id", "rank", "item_id", "title", "score")
_READ_AHEAD = 16  # batches that are sorted by length, so that a batch has little padding
_SHOWN = 5


@dataclass
class Summary:
    """What became of a file.

    Attributes
    ----------
    users, rows : int
        Histories read, recommendations written.
    unknown : int
        Ids left out because the catalogue does not have them.
    strangers : list of str
        The first of these ids.
    without : int
        Histories of unknown ids alone: nothing was recommended.
    without_users : list of str
        The first of their users.
    """

    users: int = 0
    rows: int = 0
    unknown: int = 0
    strangers: list[str] = field(default_factory=list)
    without: int = 0
    without_users: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"{self.users:,} histories, {self.rows:,} recommendations"
        if self.unknown:
            text += (
                f"; left out: {self.unknown:,} ids not in the catalogue "
                f"({', '.join(map(repr, self.strangers))}{', ...' * (self.unknown > _SHOWN)})"
            )
        if self.without:
            text += (
                f"; nothing for {self.without:,} users with unknown items alone "
                f"({', '.join(self.without_users)}{', ...' * (self.without > _SHOWN)})"
            )
        return text


def recommend_file(
    recommender: Recommender,
    source: str | Path,
    target: str | Path,
    k: int = 10,
    exclude_seen: bool = True,
    candidates: list[str] | None = None,
    unknown: str = "warn",
    separator: str = ";",
    batch_size: int = 256,
    show_progress: bool | None = None,
) -> Summary:
    """Recommend for every row of a CSV file.

    The file is read twice: a first time to check all of it, so that a mistake in the last line
    costs seconds; then in batches. A stream is copied into a temporary file first. What is in
    memory does not grow with the file. An output file appears under its name when it is complete;
    a stream gets each batch as soon as it is ranked.

    Parameters
    ----------
    recommender : Recommender
    source : str or Path
        CSV in UTF-8 with the columns ``user_id`` and ``history`` (others are ignored); a history
        is raw item ids, the earliest first, joined by `separator`. ``-`` is standard input; pipes
        are taken as well.
    target : str or Path
        CSV with the columns ``user_id, rank, item_id, title, score``, one row for each
        recommendation, users in the order of `source`. ``-`` is standard output; pipes and
        devices are written to.
    k, exclude_seen, candidates, unknown
        See :meth:`Recommender.recommend`. With ``warn``, users of whom no item is known get no
        rows, and are counted.
    separator : str
        Between the ids of a history.
    batch_size : int
        Histories scored together.
    show_progress : bool, optional
        Whether to show a bar; default: where the output is a terminal.

    Returns
    -------
    Summary

    Raises
    ------
    DataError
        With the line: not UTF-8, no such columns, too many or few cells, an empty history; with
        ``unknown="error"`` also an id that the catalogue does not have.
    RequestError
        `k` or `candidates` are wrong.
    """
    target = Path(target)
    _check_target(target, Path(source))
    recommender.check_k(k)
    among = recommender.among(candidates)
    summary = Summary()
    shown = "standard input" if str(source) == STANDARD else source
    with spooled(source) as file:
        read = partial(_resolved, recommender, file, separator, unknown, shown)
        for _, _, strangers in read():
            summary.users += 1
            summary.unknown += len(strangers)
            room = _SHOWN - len(summary.strangers)
            new = [s for s in dict.fromkeys(strangers) if s not in summary.strangers]
            summary.strangers += new[:room]

        def write(out: TextIO) -> None:
            rows, table = read(), csv.writer(out, lineterminator="\n")
            hidden = None if show_progress is None else not show_progress
            table.writerow(OUTPUT_COLUMNS)
            with tqdm(total=summary.users, unit="user", disable=hidden) as bar:
                while chunk := list(islice(rows, batch_size * _READ_AHEAD)):
                    ranked = _rank(recommender, chunk, batch_size, k, exclude_seen, among, bar)
                    _write_rows(table, recommender, chunk, ranked, summary)
                    out.flush()

        _write_to(target, write)
    return summary


def _check_target(target: Path, source: Path) -> None:
    """Refuse, before anything is ranked, an output that would be lost or destroy the input."""
    if target.is_dir():
        raise DataError("is a folder; name a file for the output", target)
    if target.is_file() and source.is_file() and target.samefile(source):
        raise DataError("the output would replace the input; give another name", target)


def _write_to(target: Path, write: Callable[[TextIO], None]) -> None:
    def write_file(path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="") as file:
            write(file)

    if not is_stream(target):
        write_atomically(target, write_file)
        return
    with (
        open_stream(target) as stream,
        io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True) as text,
    ):
        write(text)


def _rank(recommender, chunk, batch_size, k, exclude_seen, among, bar) -> list:
    """Ranked items and scores of each row of a chunk; None where nothing is known."""
    ranked: list = [None] * len(chunk)
    order = [i for i, (_, known, _) in enumerate(chunk) if known]
    order.sort(key=lambda i: len(chunk[i][1]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        found = recommender.rank([chunk[i][1] for i in batch], k, exclude_seen, among)
        for i, items in zip(batch, found, strict=True):
            ranked[i] = items
        bar.update(len(batch))
    bar.update(len(chunk) - len(order))
    return ranked


def _write_rows(out, recommender, chunk, ranked, summary) -> None:
    for (user, _, _), found in zip(chunk, ranked, strict=True):
        if found is None:
            summary.without += 1
            summary.without_users += [user][: _SHOWN - len(summary.without_users)]
            continue
        rows = recommender.describe(*found)
        summary.rows += len(rows)
        out.writerows(
            (user, rank, item, title, f"{score:.6g}")
            for rank, (item, title, score) in enumerate(rows, 1)
        )


def _resolved(recommender, source, separator, unknown, shown) -> Iterator[tuple[str, list, list]]:
    """User, known internal ids and unknown raw ids of each row."""
    for line, user, history in _read(source, separator, shown):
        known, strangers = recommender.catalogue.resolve(history)
        if strangers and unknown == "error":
            raise DataError(f"{named_unknown(strangers)} (user {user})", shown, line)
        yield user, known, strangers


def _read(source: Path, separator: str, shown: str | Path) -> Iterator[tuple[int, str, list[str]]]:
    """Line, user and history of each row; errors name the file `shown`."""
    reader = None
    try:
        with source.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            absent = [name for name in INPUT_COLUMNS if name not in header]
            if absent:
                raise DataError(
                    f"no column {absent[0]!r}; the header must name user_id and history, it has "
                    f"{', '.join(header) or 'nothing'}",
                    shown,
                    1,
                )
            user_at, history_at = (header.index(name) for name in INPUT_COLUMNS)
            for row in reader:
                if not row:
                    continue  # an empty line, as at the end of many files
                if len(row) != len(header):
                    raise DataError(
                        f"{len(row)} cells, the header has {len(header)}", shown, reader.line_num
                    )
                history = [i for part in row[history_at].split(separator) if (i := part.strip())]
                if not history:
                    raise DataError(
                        f"the history of user {row[user_at]!r} is empty", shown, reader.line_num
                    )
                yield reader.line_num, row[user_at], history
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", shown) from None
    except UnicodeDecodeError as error:
        line = reader.line_num + 1 if reader else 1
        raise DataError(
            f"not UTF-8 text (byte {error.object[error.start]:#04x} in line {line} or after); "
            "convert it, e.g. with iconv",
            shown,
        ) from None
    except csv.Error as error:
        raise DataError(f"not valid CSV: {error}", shown, reader.line_num) from None
