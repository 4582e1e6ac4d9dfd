"""Data frames of pandas, polars or pyarrow and lists of dicts, in place of atomic files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import narwhals.stable.v1 as nw
import numpy as np
import pandas as pd
import pyarrow as pa

from recbole_lite.data.arrow_columns import decoded
from recbole_lite.data.atomic_reader import AtomicTable
from recbole_lite.data.column_roles import (
    FIELDS,
    Source,
    guess_id,
    guess_interactions,
    roles_table,
)
from recbole_lite.data.raw_values import id_text
from recbole_lite.data.table_conversion import (
    Converted,
    check_overlap,
    convert_descriptions,
    convert_interactions,
)
from recbole_lite.utils.errors import ConfigError, DataError, one_line

DATASET = "frames"  # name of a data set that has no other


@dataclass(frozen=True)
class FrameTables:
    """A data set in memory."""

    tables: dict[str, AtomicTable]  # by the ending that their file would have: inter, item, user
    mapping: str  # what the columns of the frames became, for the log
    item_id_type: str  # int or str; anything else is known by its text alone


def read_frames(config, interactions: Any, items: Any = None, users: Any = None) -> FrameTables:
    """Take data frames for a run.

    A column whose name is that of ``USER_ID_FIELD``, ``ITEM_ID_FIELD``, ``RATING_FIELD`` or
    ``TIME_FIELD`` has this role; where there is none, the role is guessed as by
    ``recbole-lite data import``.

    Parameters
    ----------
    config : LiteConfig
    interactions, items, users : data frame, or list of dicts, or dict of lists
        The latter two are optional.

    Raises
    ------
    DataError
        A frame lacks a column, has no rows, or holds an id or a time that cannot be used.
    ConfigError
        The settings name files.
    """
    name = config["dataset"]
    if config["benchmark_filename"] is not None:
        raise ConfigError("benchmark_filename names files, and the data are given as frames")
    if Path(config["data_path"], f"{name}.inter").is_file():
        raise ConfigError(
            f"the data set {name} exists in {config['data_path']}, and interactions are given, "
            "too: leave one out, or give dataset another name"
        )
    names = {role: config[key] for role, key in FIELDS.items()}
    source, id_types = frame_source("interactions", interactions)
    named = {role: names[role] if _has(source, config, role) else None for role in FIELDS}
    roles = guess_interactions(source, named)
    _check_times(source, config, roles)
    wanted = (config["load_col"] or {"inter": "*"}).get("inter")
    keep = [
        column
        for column in source.table.column_names
        if column not in roles.values() and (wanted == "*" or column in wanted)
    ]
    made = {"inter": convert_interactions(source, roles, names, keep=keep)}
    for role, table in (("item", items), ("user", users)):  # the role is the file's ending, too
        if table is not None:
            source, _ = frame_source(f"{role}s", table)
            column = guess_id(source, role, None, [names[role], roles[role]])
            made[role] = convert_descriptions(source, column, role, names[role], {})
            check_overlap(source, column, role, made["inter"], made[role])
    return FrameTables(
        {
            ending: AtomicTable(Path(_ARGUMENTS[ending]), table.types, table.frame)
            for ending, table in made.items()
        },
        "\n".join(_mapping(_ARGUMENTS[ending], table) for ending, table in made.items()),
        id_types[roles["item"]],
    )


_ARGUMENTS = {"inter": "interactions", "item": "items", "user": "users"}


def _has(source: Source, config, role: str) -> bool:
    """Whether the frame has the column that the settings name; one that a run names must exist."""
    key = FIELDS[role]
    if key in config.origins:
        source.check_column(config[key], key)
    return config[key] in source.table.column_names


def _check_times(source: Source, config, roles: Mapping[str, str]) -> None:
    sequential = config["MODEL_TYPE"].name == "SEQUENTIAL"
    if "time" not in roles and (sequential or config["eval_args"]["order"] == "TO"):
        hint = "" if sequential else """, or set eval_args={"order": "RO"} to split at random"""
        raise source.error(
            "no column looks like the time, which gives the order of the interactions; columns "
            f"are {', '.join(source.table.column_names)}: name one with TIME_FIELD{hint}"
        )


def _mapping(name: str, made: Converted) -> str:
    return "\n".join([roles_table(made.roles, name), *(f"{name}: {note}" for note in made.notes)])


# -- from any library to Arrow ----------------------------------------------------------------


def frame_source(name: str, table: Any) -> tuple[Source, dict[str, str]]:
    """Table in Arrow's form, and the type of each column's values: int, str or other.

    `table` is a data frame, list of dicts, or dict of lists; messages call it `name`.

    Raises
    ------
    DataError
        It is no table, has no rows, or one column holds values that would be written alike.
    """
    frame = _narwhals(name, table)
    if not frame.columns or not len(frame):
        raise DataError(f"{name}: the table has no rows")
    columns, types = {}, {}
    for column in frame.columns:
        columns[column], types[column] = _arrow(name, frame[column])
    source = Source(pa.table(columns), name, FIELDS, first_row=0, time_flag="", keeps_names=True)
    return source, types


def frame_rows(name: str, table: Any) -> list[dict[str, Any]]:
    """Rows of a table as dicts.

    Raises
    ------
    DataError
        It is no table.
    """
    return list(_narwhals(name, table).iter_rows(named=True))


def _narwhals(name: str, table: Any) -> nw.DataFrame:
    try:
        if isinstance(table, (Mapping, Sequence)) and not isinstance(table, (str, bytes)):
            table = pd.DataFrame(table if isinstance(table, Mapping) else list(table))
        frame = nw.from_native(table)
        frame = frame.collect() if isinstance(frame, nw.LazyFrame) else frame
        if not all(isinstance(column, str) for column in frame.columns):
            raise TypeError(f"names of columns must be text, found {frame.columns}")
        return frame
    except (TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{name}: neither a data frame of pandas, polars or pyarrow, nor a list of dicts or "
            f"a dict of lists ({one_line(error)})"
        ) from None


def _arrow(name: str, series: nw.Series) -> tuple[pa.ChunkedArray, str]:
    """Values in Arrow's form; of objects that it does not have, their text."""
    if series.dtype not in (nw.Object, nw.Unknown):
        found = series.to_arrow()
        found = decoded(found if isinstance(found, pa.ChunkedArray) else pa.chunked_array([found]))
        if pa.types.is_string_view(found.type):
            found = found.cast(pa.large_string())
        if not isinstance(found.type, pa.ExtensionType):
            return found, _id_type(found.type)
    values = np.fromiter(series.to_list(), dtype=object, count=len(series))
    kinds = set(map(type, values[~pd.isna(values)]))
    try:
        if any(kinds <= family for family in _ARROW_FAMILIES):
            array = pa.array(values.tolist(), from_pandas=True)
            return pa.chunked_array([array]), _id_type(array.type)
        return _texts(name, series.name, values)
    except (pa.ArrowException, TypeError) as error:
        raise DataError(f"{name}: column {series.name!r}: {one_line(error)}") from None


# Types of Python objects that Arrow converts; one set: those that one column can mix.
_ARROW_FAMILIES: tuple[set[type], ...] = (
    {str, np.str_},
    {bytes},
    {bool},
    {int, float, np.int64, np.float64},
    {datetime, pd.Timestamp},
    {date},
    {list, np.ndarray},
    {dict},
)


def _id_type(kind: pa.DataType) -> str:
    return "int" if pa.types.is_integer(kind) or pa.types.is_floating(kind) else "str"


def _texts(name: str, column: str, values: np.ndarray) -> tuple[pa.ChunkedArray, str]:
    """Text of each hashable value; two values of one text would become one id."""
    codes, distinct = pd.factorize(values)
    texts = list(map(id_text, distinct))
    if len(set(texts)) < len(texts):
        again = int(pd.Index(texts).duplicated().argmax())
        one, other = distinct[texts.index(texts[again])], distinct[again]
        raise DataError(
            f"{name}: column {column!r} holds {one!r} and {other!r}, which are written alike; "
            "convert the column to one type"
        )
    rows = pa.array(codes, type=pa.int64(), mask=codes < 0)
    return pa.chunked_array([pa.array(texts, type=pa.string()).take(rows)]), "other"
