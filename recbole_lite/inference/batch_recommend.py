"""Recommendations for a CSV file of histories, in bounded memory."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from recbole_lite.inference.history_inputs import describe_unknown, resolve_excluded, share
from recbole_lite.inference.recommender import Recommender
from recbole_lite.utils.errors import DataError
from recbole_lite.utils.files import STANDARD, is_stream, open_stream, spooled, write_atomically

INPUT_COLUMNS = ("user_id", "history")
OUTPUT_COLUMNS = ("user_id", "rank", "item_id", "title", "score")
_READ_AHEAD = 16  # batches sorted by length together, so that a batch has little padding
_SHOWN = 5


@dataclass(frozen=True)
class BatchOptions:
    """Options of :func:`recommend_file`.

    Attributes
    ----------
    k, exclude_seen, candidates, unknown, where, exclude, diversity, probabilities
        See :meth:`Recommender.recommend`. With ``unknown="warn"``, users without a known item get
        no rows and are counted.
    separator : str
        Between the ids of a history.
    batch_size : int
        Histories scored together.
    show_progress : bool, optional
        Whether to show a progress bar; default: if the output is a terminal.
    """

    k: int = 10
    exclude_seen: bool | None = None
    candidates: list[str] | None = None
    unknown: str = "warn"
    separator: str = ";"
    batch_size: int = 256
    show_progress: bool | None = None
    where: Mapping[str, Any] | None = None
    exclude: list[str] | None = None
    diversity: float = 0.0
    probabilities: bool = False


@dataclass
class BatchSummary:
    """Counts of what was read, written and left out.

    Attributes
    ----------
    users, rows : int
        Histories read, recommendations written.
    unknown : int
        Ids left out because they are not in the catalogue.
    unknown_ids : list of str
        The first of these ids.
    unserved : int
        Users without a known item, who got no recommendation.
    unserved_users : list of str
        The first of these users.
    """

    users: int = 0
    rows: int = 0
    unknown: int = 0
    unknown_ids: list[str] = field(default_factory=list)
    unserved: int = 0
    unserved_users: list[str] = field(default_factory=list)

    def add_unknown(self, ids: list[str]) -> None:
        """Count unknown ids of a history, and keep the first distinct ones."""
        self.unknown += len(ids)
        self.unknown_ids = list(dict.fromkeys(self.unknown_ids + ids))[:_SHOWN]

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
        return text


def recommend_file(
    recommender: Recommender,
    source: str | Path,
    target: str | Path,
    options: BatchOptions | None = None,
) -> BatchSummary:
    """Recommend for every row of a CSV file.

    The file is read twice: first to check all of it, so that an error in the last line is found
    in seconds; then in batches. A stream is copied to a temporary file first. Memory use does not
    depend on the size of the file. An output file appears under its name when it is complete; a
    stream gets each batch as soon as it is ranked.

    Parameters
    ----------
    recommender : Recommender
    source : str or Path
        CSV in UTF-8 with the columns ``user_id`` and ``history`` (others are ignored); a history
        consists of raw item ids, oldest first, joined by ``options.separator``. ``-`` is standard
        input; pipes work as well.
    target : str or Path
        CSV with the columns ``user_id, rank, item_id, title, score``, one row for each
        recommendation, users in the order of `source`. ``-`` is standard output; pipes and
        devices work as well.
    options : BatchOptions, optional

    Returns
    -------
    BatchSummary

    Raises
    ------
    DataError
        With the line: not UTF-8, missing columns, a wrong number of cells, an empty history; with
        ``unknown="error"`` also an id that is not in the catalogue.
    RequestError
        An option is invalid.
    """
    target, options = Path(target), options or BatchOptions()
    _check_target(target, Path(source))
    recommender.check_k(options.k)
    share(options.diversity, "diversity")
    if options.probabilities:
        recommender.check_probabilities()
    choice = {
        "candidates": recommender.choices(options.candidates, options.where, 1),
        "exclude": resolve_excluded(recommender.catalogue, options.exclude, 1)[0],
    }
    summary = BatchSummary()
    shown = "standard input" if str(source) == STANDARD else source
    with spooled(source) as file:
        read = partial(_resolved, recommender, file, options, shown)
        for _, _, unknown in read():
            summary.users += 1
            summary.add_unknown(unknown)
        rows = read()
        _write_to(
            target,
            lambda out: _write_batches(out, rows, recommender, options, choice, summary),
        )
    return summary


def _write_batches(out: TextIO, rows, recommender, options, choice, summary) -> None:
    """Rank the resolved rows batch by batch, and write the lines of each."""
    table = csv.writer(out, lineterminator="\n")
    hidden = None if options.show_progress is None else not options.show_progress
    table.writerow(OUTPUT_COLUMNS)
    with tqdm(total=summary.users, unit="user", disable=hidden) as bar:
        while chunk := list(islice(rows, options.batch_size * _READ_AHEAD)):
            ranked = _rank(recommender, chunk, options, choice, bar)
            _write_rows(table, recommender, chunk, ranked, summary)
            out.flush()


def _check_target(target: Path, source: Path) -> None:
    """Refuse an output that is a folder or the input file, before anything is ranked."""
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


def _rank(recommender, chunk, options: BatchOptions, choice: dict[str, Any], bar) -> list:
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


def _resolved(recommender, source, options, shown) -> Iterator[tuple[str, list, list]]:
    """User, known internal ids and unknown raw ids of each row."""
    for line, user, history in _read(source, options.separator, shown):
        known, unknown = recommender.catalogue.resolve(history)
        if unknown and options.unknown == "error":
            raise DataError(f"{describe_unknown(unknown)} (user {user})", shown, line)
        yield user, known, unknown


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
        line = reader.line_num if reader else 1
        raise DataError(f"not valid CSV: {error}", shown, line) from None
