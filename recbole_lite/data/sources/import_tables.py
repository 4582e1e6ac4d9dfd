"""``recbole-lite data import``: foreign tables as a data set of atomic files."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recbole_lite.data.column_roles import Source, guess_id, guess_interactions, roles_table
from recbole_lite.data.interaction_filters import drop_repeated_pairs, filter_interactions
from recbole_lite.data.source_tables import JSON_LINES, PARQUET, file_ending, read_source_table
from recbole_lite.data.sources.acquire import DEFAULT_DATA_PATH
from recbole_lite.data.sources.check_dataset import check
from recbole_lite.data.sources.dataset_meta import find_meta
from recbole_lite.data.sources.dataset_stats import codes
from recbole_lite.data.sources.prepare_dataset import (
    RECEIPT,
    locked,
    temporary_folder,
    write_receipt,
)
from recbole_lite.data.table_conversion import (
    CANONICAL,
    Converted,
    check_overlap,
    convert_descriptions,
    convert_interactions,
)
from recbole_lite.utils.dataset_names import check_name
from recbole_lite.utils.errors import ConfigError, DataError

CHUNK_ROWS = 1_000_000  # written at a time
_SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_TITLES = ("title", "name", "movie_title", "product_title", "item_name", "product_name")


@dataclass(frozen=True)
class ImportOptions:
    """Options of the command line, under the names of its flags."""

    user: str | None = None
    item: str | None = None
    time: str | None = None
    rating: str | None = None
    item_id: str | None = None
    user_id: str | None = None
    text: tuple[str, ...] | None = None
    keep: tuple[str, ...] = ()
    k_core: int = 0
    min_rating: float | None = None
    deduplicate: str | None = None
    deduplicate_items: str | None = None
    session_gap: str | None = None
    time_format: str | None = None
    separator: str | None = None
    overwrite: bool = False
    dry_run: bool = False


def import_tables(
    name: str,
    data_path: str | Path,
    interactions: str | Path,
    items: str | Path | None = None,
    users: str | Path | None = None,
    options: ImportOptions | None = None,
    *,
    log: Callable[[str], None] = print,
) -> bool:
    """Make ``<data_path>/<name>`` from tables, check it, and say how to train on it.

    Parameters
    ----------
    name : str
        Of the data set.
    data_path : str or Path
        Folder of the data sets.
    interactions, items, users : str or Path
        CSV, TSV, JSON lines or Parquet, see
        :func:`~recbole_lite.data.source_tables.read_source_table`.
    options : ImportOptions
    log : callable
        Takes lines for the user.

    Returns
    -------
    bool
        Whether the data set is sound, as ``data check`` understands it.

    Raises
    ------
    DataError, ConfigError
        A table cannot be read or understood, or the data set exists; the message names file and
        line, or the flag to set.
    """
    options, data_path = options or ImportOptions(), Path(data_path)
    gap = _seconds(options.session_gap)
    files = {"inter": interactions, "item": items, "user": users}
    _check_flags(files, options)
    _check_target(name, data_path, options)
    paths = {ending: Path(path) for ending, path in files.items() if path is not None}
    tables = _convert(paths, options)
    for ending, path in paths.items():
        log(f"{path}\n{roles_table(tables[ending].roles)}\n")
    frame = tables["inter"].frame
    if gap is not None:
        frame = _split_sessions(frame, gap)
    kept = _filter(frame, options)
    notes = [f".{ending}: {note}" for ending, table in tables.items() for note in table.notes]
    for line in (*notes, *_described(len(tables["inter"].frame), frame, kept, options)):
        log(line)
    if options.dry_run:
        log("dry run: nothing was written")
        return True
    _write(data_path / name, paths.values(), tables, kept)
    report = check(name, data_path)
    log(f"\n{report.render()}\n")
    log(_next_step(name, data_path, tables))
    return report.ok


# -- checks before anything is read -----------------------------------------------------------


def _check_flags(files: Mapping[str, str | Path | None], options: ImportOptions) -> None:
    """Refuse flags about a file that is not given."""
    for flag, ending in (("text", "item"), ("item_id", "item"), ("user_id", "user")):
        if getattr(options, flag) is not None and files[ending] is None:
            raise ConfigError(f"--{flag} needs --{ending}s")


def _check_target(name: str, data_path: Path, options: ImportOptions) -> None:
    folder = data_path / check_name(name)
    if find_meta(name, data_path):
        raise DataError(
            f"{name} is the name of a known data set (recbole-lite data list), whose settings "
            "would be used; choose another one with --name"
        )
    there = [f"{name}.{ending}" for ending in ("inter", "item", "user")]
    there = [file for file in there if (folder / file).exists()]
    if there and not options.overwrite and not options.dry_run:
        raise DataError(
            f"{there[0]} already exists; nothing was changed. Replace the data set with "
            "--overwrite, or choose another --name",
            folder,
        )


def _seconds(span: str | None) -> float | None:
    """Length of a time such as 30m."""
    if span is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", span)
    if not found or not float(found[1]):
        raise ConfigError(f"--session_gap must be a time such as 30m, 45s, 2h or 1d, found {span}")
    return float(found[1]) * _SPANS[found[2]]


# -- reading and converting -------------------------------------------------------------------


def file_source(path: Path, flags: Mapping[str, str], separator: str | None = None) -> Source:
    """Read a table with the lines of its rows; `flags`: see :class:`.Source`.

    Raises
    ------
    DataError
        As :func:`~recbole_lite.data.source_tables.read_source_table`.
    """
    table = read_source_table(path, separator=separator)
    ending = file_ending(path)
    first_line = None if ending in PARQUET else 1 if ending in JSON_LINES else 2
    return Source(table, str(path), flags, first_line)


def _convert(paths: dict[str, Path], options: ImportOptions) -> dict[str, Converted]:
    """Tables by the ending of their file."""
    flags = {role: f"--{role}" for role in CANONICAL}
    inter = file_source(paths["inter"], flags, options.separator)
    given = {role: getattr(options, role) for role in CANONICAL}
    roles = guess_interactions(inter, given)
    for name in options.keep:
        inter.check_column(name, "--keep")
    if options.min_rating is not None and "rating" not in roles:
        raise inter.error("--min_rating needs ratings; name their column with --rating=COLUMN")
    if options.session_gap is not None and "time" not in roles:
        raise inter.error("--session_gap needs times; name their column with --time=COLUMN")
    keep = [name for name in options.keep if name not in roles.values()]
    made = convert_interactions(inter, roles, time_format=options.time_format, keep=keep)
    tables, taken = {"inter": made}, dict.fromkeys(made.types, "inter")
    for role, given_id in (("item", options.item_id), ("user", options.user_id)):
        if role in paths:  # the role is the file's ending, too
            source = file_source(paths[role], {role: f"--{role}_id"}, options.separator)
            column = guess_id(source, role, given_id, [roles[role], CANONICAL[role]])
            tables[role] = convert_descriptions(
                source,
                column,
                role,
                CANONICAL[role],
                taken,
                options.text if role == "item" else (),
                options.deduplicate_items == "first",
            )
            taken |= dict.fromkeys(tables[role].types, role)
            check_overlap(source, column, role, made, tables[role])
    return tables


# -- sessions and filters ---------------------------------------------------------------------


def _split_sessions(frame: pd.DataFrame, gap: float) -> pd.DataFrame:
    """Make each session a user (user_1, user_2 ...); a pause longer than `gap` begins a session."""
    times, users = frame["timestamp"].to_numpy(), codes(frame["user_id"])
    order = np.lexsort((times, users))
    first = np.ones(len(frame), dtype=bool)  # of a session, in this order
    same = users[order[1:]] == users[order[:-1]]
    first[1:] = ~same | (np.diff(times[order]) > gap)
    session = np.cumsum(first) - 1
    owner = users[order[first]]
    number = np.arange(len(owner)) - np.searchsorted(owner, owner) + 1  # they are sorted
    names = pa.array(frame["user_id"].cat.categories.astype(object)).take(pa.array(owner))
    names = pc.binary_join_element_wise(names, pa.array(number).cast(pa.string()), "_")
    of_rows = np.empty(len(frame), dtype=np.int64)
    of_rows[order] = session
    sessions = pd.Categorical.from_codes(of_rows, pd.Index(names.to_pylist(), dtype=str))
    return frame.assign(user_id=sessions)


def _filter(frame: pd.DataFrame, options: ImportOptions) -> pd.DataFrame:
    if options.deduplicate:
        frame = drop_repeated_pairs(frame, "user_id", "item_id", "timestamp", options.deduplicate)
    kept = filter_interactions(frame, options.k_core, options.k_core, options.min_rating)
    if kept.empty:
        raise ConfigError(f"{_used_filters(options)}: no interaction is left; set lower values")
    return kept


def _used_filters(options: ImportOptions) -> str:
    """Flags of the filters that are set."""
    flags = {
        "deduplicate": options.deduplicate,
        "min_rating": options.min_rating,
        "k_core": options.k_core or None,
    }
    return ", ".join(f"--{key}={value}" for key, value in flags.items() if value is not None)


def _described(
    read: int, frame: pd.DataFrame, kept: pd.DataFrame, options: ImportOptions
) -> Iterable[str]:
    """Effects of sessions and filters."""
    if options.session_gap:
        sessions = len(frame["user_id"].cat.categories)
        yield f"sessions: {sessions:,}, a pause of more than {options.session_gap} begins a new one"
    if len(kept) < read:
        used = _used_filters(options)
        yield f"filters: {len(kept):,} of {read:,} interactions are left ({used})"


# -- what the user sees -----------------------------------------------------------------------


def _next_step(name: str, data_path: Path, tables: dict[str, Converted]) -> str:
    """Commands that train on the data set."""
    run = ["recbole-lite", "run", f"--dataset={name}"]
    if data_path != Path(DEFAULT_DATA_PATH):
        run.append(f"--data_path={data_path}")
    text = _text_settings(tables["item"]) if "item" in tables else []
    if "timestamp" not in tables["inter"].types:
        choices = [["--model=BPR", "--eval_args={order: RO}"]]
    elif not text:
        choices = [["--model=ItemLM"], ["--model=SASRec"]]
    else:
        choices = [
            ["--model=ItemLM", "--item_init=text", *text],
            ["--model=LiteLLM4Rec", "--rec_llm_init=scratch", *text],
        ]
    return "Next:\n  " + "\nor:\n  ".join(shlex.join(run + choice) for choice in choices)


def _text_settings(items: Converted) -> list[str]:
    """Flags that let a model read the items' texts."""
    if not items.text_fields:
        return []
    flags = ["--item_llm=minilm", f"--item_text_fields=[{', '.join(items.text_fields)}]"]
    titles = (field for field in items.text_fields if field.lower() in _TITLES)
    title = next(titles, items.text_fields[0])
    _, *others = (field for field, kind in items.types.items() if kind.startswith("token"))
    return flags if title == others[0] else [*flags, f"--title_field={title}"]


# -- writing ----------------------------------------------------------------------------------


def _write(
    folder: Path, sources: Iterable[Path], tables: dict[str, Converted], kept: pd.DataFrame
) -> None:
    """Write all files to a temporary folder, then move them; other files of `folder` stay."""
    name = folder.name
    with locked(name, folder.parent), temporary_folder(folder) as temporary:
        for ending, table in tables.items():
            frame = kept if ending == "inter" else table.frame
            write_rows(temporary / f"{name}.{ending}", table.types, frame)
        write_receipt(temporary, name, sources)
        folder.mkdir(exist_ok=True)
        for ending in ("user", "item"):
            if ending not in tables:  # of the data set that is replaced
                (folder / f"{name}.{ending}").unlink(missing_ok=True)
        for file in (*(f"{name}.{ending}" for ending in reversed(tables)), RECEIPT):
            os.replace(temporary / file, folder / file)


def write_rows(path: Path, types: dict[str, str], frame: pd.DataFrame) -> None:
    """Write an atomic file, a part at a time, without a loop over rows.

    The file must not have a reader yet. `types` has the order of the fields; the columns are those
    that :mod:`recbole_lite.data.table_conversion` makes, without tabs or line ends.
    """
    with path.open("wb") as file:
        header = "\t".join(f"{field}:{kind}" for field, kind in types.items())
        file.write(header.encode() + b"\n")
        for start in range(0, len(frame), CHUNK_ROWS):
            part = frame.iloc[start : start + CHUNK_ROWS]
            cells = [_cells(part[field], kind) for field, kind in types.items()]
            rows = pc.binary_join_element_wise(*cells, _large("\t"))
            lines = pc.binary_join_element_wise(rows, _large(""), _large("\n"))
            _, offsets, data = lines.buffers()
            ends = np.frombuffer(offsets, dtype=np.int64)
            file.write(memoryview(data)[ends[0] : ends[len(lines)]])


def _large(text: str) -> pa.Scalar:
    """Text of the type whose columns may be longer than 2 GB."""
    return pa.scalar(text, pa.large_string())


def _cells(column: pd.Series, kind: str) -> pa.Array:
    """Cells in the form of the file."""
    if kind == "float_seq":
        values = pa.array(column.tolist(), type=pa.list_(pa.float64()))
        cells = pc.binary_join(values.cast(pa.list_(pa.string())), " ")
    else:
        cells = pa.array(column, from_pandas=True)
        if isinstance(cells, pa.ChunkedArray):  # of joined columns of strings
            cells = cells.combine_chunks()
    return pc.fill_null(cells.cast(pa.large_string()), "")
