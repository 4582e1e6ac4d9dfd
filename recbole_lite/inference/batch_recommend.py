"""Recommendations for files of histories, in bounded memory."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from recbole_lite.inference.history_files import PARQUET, history_files, read_histories
from recbole_lite.inference.history_inputs import (
    UNKNOWN,
    describe_unknown,
    one_of,
    resolve_excluded,
    share,
    whole_number,
)
from recbole_lite.inference.recommender import Recommender
from recbole_lite.utils.errors import DataError
from recbole_lite.utils.files import is_stream, open_stream, write_atomically

Row = tuple[str, list[int], list[str]]  # user, known internal ids, unknown raw ids
OUTPUT_COLUMNS = ("user_id", "rank", "item_id", "title", "score")
READ_AHEAD = 16  # batches sorted by length together, so that a batch has little padding
_SHOWN = 5


@dataclass(frozen=True)
class BatchOptions:
    """Options of :func:`recommend_file`; those without a comment: :meth:`Recommender.recommend`."""

    k: int = 10
    exclude_seen: bool | None = None
    candidates: list[str] | None = None
    unknown: str = "warn"  # users without a known item get no rows and are counted
    separator: str = ";"  # between the ids of a history
    batch_size: int = 256  # histories scored together
    show_progress: bool | None = None  # default: if the output is a terminal
    where: Mapping[str, Any] | None = None
    exclude: list[str] | None = None
    diversity: float = 0.0
    probabilities: bool = False

    def __post_init__(self) -> None:
        one_of(self.unknown, "unknown", UNKNOWN)


@dataclass
class BatchSummary:
    """Counts of what was read, written and left out."""

    users: int = 0  # histories read
    rows: int = 0  # recommendations written
    unknown: int = 0  # ids left out because they are not in the catalogue
    unknown_ids: list[str] = field(default_factory=list)  # the first of these
    unserved: int = 0  # users without a known item, who got no recommendation
    unserved_users: list[str] = field(default_factory=list)  # the first of these
    kept: int = 0  # parts of a folder that an earlier call has written

    def add_unknown(self, ids: list[str]) -> None:
        """Count unknown ids of a history, and keep the first distinct ones."""
        self.unknown += len(ids)
        self.unknown_ids = list(dict.fromkeys(self.unknown_ids + ids))[:_SHOWN]

    def add_ranked(self, part: BatchSummary) -> None:
        """Count what was written for a part of the users."""
        self.rows += part.rows
        self.unserved += part.unserved
        self.unserved_users = [*self.unserved_users, *part.unserved_users][:_SHOWN]

    def __str__(self) -> str:
        text = f"{self.users:,} histories, {self.rows:,} recommendations"
        if self.unknown:
            text += (
                f"; left out: {self.unknown:,} ids not in the catalogue "
                f"({', '.join(map(repr, self.unknown_ids))}{', ...' * (self.unknown > _SHOWN)})"
            )
        if self.unserved:
            text += (
                f"; nothing for {self.unserved:,} users with unknown items alone "
                f"({', '.join(self.unserved_users)}{', ...' * (self.unserved > _SHOWN)})"
            )
        if self.kept:
            text += f"; {self.kept:,} parts were there already, their rows are not counted"
        return text


def recommend_file(
    recommender: Recommender,
    source: str | Path,
    target: str | Path,
    options: BatchOptions | None = None,
) -> BatchSummary:
    """Recommend for every row of a file of histories.

    The input is read twice: first to check all of it, so that an error in the last line is found
    in seconds; then in batches. A stream is copied to a temporary file first. Memory use does not
    depend on the size of the input. An output file appears under its name when it is complete; a
    stream gets each batch as soon as it is ranked.

    Parameters
    ----------
    recommender : Recommender
    source : str or Path
        CSV or Parquet with the columns ``user_id`` and ``history``
        (:func:`~recbole_lite.inference.history_files.read_histories`), a history oldest first; or
        a folder, pattern or URL of such files. ``-`` is standard input; pipes work as well.
    target : str or Path
        CSV with the columns ``user_id, rank, item_id, title, score``, one row for each
        recommendation, users in the order of `source`. ``-`` is standard output; pipes and
        devices work as well.
    options : BatchOptions, optional

    Raises
    ------
    DataError
        With the file and line or column, see :func:`resolved`.
    RequestError
        An option is invalid.
    """
    options = options or BatchOptions()
    _check_target(Path(target), Path(source))
    choice = check_options(recommender, options)
    summary = BatchSummary()
    with history_files(source) as (files, shown):
        read = partial(resolved, recommender, files, options, shown)
        for _, _, unknown in read():
            summary.users += 1
            summary.add_unknown(unknown)
        rows = read()
        _write_to(
            Path(target),
            lambda out: write_batches(out, rows, recommender, options, choice, summary),
        )
    return summary


def check_options(recommender: Recommender, options: BatchOptions) -> dict[str, Any]:
    """Candidates and excluded items of every user, in internal ids.

    Raises
    ------
    RequestError
        An option is invalid.
    """
    recommender.check_k(options.k)
    whole_number(options.batch_size, "batch_size", 1)
    share(options.diversity, "diversity")
    if options.probabilities:
        recommender.check_probabilities()
    return {
        "candidates": recommender.choices(options.candidates, options.where, 1),
        "exclude": resolve_excluded(recommender.catalogue, options.exclude, 1)[0],
    }


def write_batches(
    out: TextIO,
    rows: Iterator[Row],
    recommender: Recommender,
    options: BatchOptions,
    choice: Mapping[str, Any],
    summary: BatchSummary,
) -> None:
    """Rank the resolved rows batch by batch, and write a header and the lines of each.

    Lines depend on the batches by rounding alone; parts of ``batch_size * READ_AHEAD`` rows have
    the batches that the whole has.
    """
    table = csv.writer(out, lineterminator="\n")
    hidden = None if options.show_progress is None else not options.show_progress
    table.writerow(OUTPUT_COLUMNS)
    with tqdm(total=summary.users, unit="user", disable=hidden) as bar:
        while chunk := list(islice(rows, options.batch_size * READ_AHEAD)):
            ranked = _rank(recommender, chunk, options, choice, bar)
            _write_rows(table, recommender, chunk, ranked, summary)
            out.flush()


def _check_target(target: Path, source: Path) -> None:
    """Refuse an output that is a folder or the input file, before anything is ranked."""
    if target.is_dir():
        raise DataError("is a folder; name a file for the output, or DIR/ for parts", target)
    if target.suffix.lower() in PARQUET:
        raise DataError("a file of recommendations is CSV; Parquet needs a folder: DIR/", target)
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


def _rank(recommender, chunk, options: BatchOptions, choice: Mapping[str, Any], bar) -> list:
    """Ranked items and scores of each row of a chunk; None for a user without a known item."""
    ranked: list = [None] * len(chunk)
    order = [i for i, (_, known, _) in enumerate(chunk) if known]
    order.sort(key=lambda i: len(chunk[i][1]))
    for start in range(0, len(order), options.batch_size):
        batch = order[start : start + options.batch_size]
        histories = [chunk[i][1] for i in batch]
        found = recommender.rank(
            histories,
            options.k,
            options.exclude_seen,
            choice["candidates"],
            [choice["exclude"]] * len(batch),
            options.diversity,
            options.probabilities,
        )
        for i, items in zip(batch, found, strict=True):
            ranked[i] = items
        bar.update(len(batch))
    bar.update(len(chunk) - len(order))
    return ranked


def _write_rows(out, recommender, chunk, ranked, summary) -> None:
    for (user, _, _), found in zip(chunk, ranked, strict=True):
        if found is None:
            summary.unserved += 1
            summary.unserved_users += [user][: _SHOWN - len(summary.unserved_users)]
            continue
        rows = recommender.describe(*found)
        summary.rows += len(rows)
        out.writerows(
            (user, rank, item, title, f"{score:.6g}")
            for rank, (item, title, score) in enumerate(rows, 1)
        )


def resolved(
    recommender: Recommender, files: Sequence[str], options: BatchOptions, shown: str | None
) -> Iterator[Row]:
    """User, known internal ids and unknown raw ids of each row.

    Raises
    ------
    DataError
        See :func:`~recbole_lite.inference.history_files.read_histories`; with ``unknown="error"``
        also an id that is not in the catalogue.
    """
    for name, line, user, history in read_histories(files, options.separator, shown):
        known, unknown = recommender.catalogue.resolve(history)
        if unknown and options.unknown == "error":
            raise DataError(f"{describe_unknown(unknown)} (user {user})", name, line)
        yield user, known, unknown
