"""New interactions and items, joined with the data set of a run (``recbole-lite update``).

The result is a data set of its own, in three parts (``benchmark_filename``)::

    NAME.known.inter   what the run was trained on
    NAME.train.inter   what it held out, and the new interactions
    NAME.test.inter    the newest new interaction of each user who has an earlier one
    NAME.item          known items as they are, new ones behind them
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_lite.data.atomic_reader import read_atomic, read_header
from recbole_lite.data.column_roles import FIELDS, NONE, Source, guess_id, guess_interactions
from recbole_lite.data.frames import frame_source
from recbole_lite.data.sources.dataset_stats import codes
from recbole_lite.data.sources.import_tables import file_source, write_rows
from recbole_lite.data.sources.prepare_dataset import locked, temporary_folder, write_receipt
from recbole_lite.data.table_conversion import convert_descriptions, convert_interactions
from recbole_lite.utils.dataset_names import check_name, part_file
from recbole_lite.utils.errors import DataError, listed

PARTS = ("known", "train", "test")
ROLES = (*FIELDS, "item_id")  # columns that a user can name; item_id: in the table of items
_HELD_OUT = {"valid_and_test": 2, "valid_only": 1, "test_only": 1}
_TEXT = ("token", "token_seq")


@dataclass(frozen=True)
class Joined:
    """What a join has written."""

    rows: dict[str, int]  # of each of `PARTS`
    new: int  # interactions among them
    notes: list[str] = field(default_factory=list)  # what was left out or is unusual, with counts


def join_tables(
    config,
    name: str,
    interactions: Any,
    items: Any = None,
    columns: Mapping[str, str] | None = None,
    text_fields: Sequence[str] | None = None,
) -> Joined:
    """Write the data set `name` beside that of a run.

    Parameters
    ----------
    config : LiteConfig
        Of the run.
    name : str
    interactions, items : str, Path, data frame, list of dicts or dict of lists
        Paths as :func:`~recbole_lite.data.source_tables.read_source_table` takes them.
    columns : mapping, optional
        One of `ROLES` -> column; others have the names of the run's data set, or are guessed.
    text_fields : sequence of str, optional
        Fields of ``.item`` of which every new item needs one; empty: any text. None: new items
        need none.

    Raises
    ------
    DataError
        A table cannot be read or lacks a column, there is nothing new or nothing to test, new
        items have no text, or the data set exists.
    """
    folder = Path(config.settings["data_path"]) / check_name(name)
    if folder.exists():
        raise DataError("this path exists; choose another name (--name)", folder)
    old = _OldData(config)
    notes: list[str] = []
    new = _new_interactions(old, interactions, columns or {}, notes)
    table = _joined_items(old, items, columns or {}, notes)
    item = old.fields["item"]
    added = pd.Index(new[item].unique()).difference(pd.Index(old.frame[item].unique()))
    if text_fields is not None:
        _check_texts(old, table, added, list(text_fields))
    users = new[old.fields["user"]]
    repeats = users.duplicated(keep=False) | users.isin(old.frame[old.fields["user"]].unique())
    tested = (_from_end(new, old) == 0) & repeats.to_numpy()
    if not tested.any():
        raise DataError("no user of the new interactions has an earlier one: nothing to test")
    held_out = old.held_out()
    parts = {
        "known": old.frame[~held_out],
        "train": pd.concat([old.frame[held_out].astype(new.dtypes), new[~tested]]),
        "test": new[tested],
    }
    sources = [Path(given) for given in (interactions, items) if isinstance(given, (str, Path))]
    with locked(name, folder.parent), temporary_folder(folder) as temporary:
        for part, frame in parts.items():
            write_rows(temporary / part_file(name, part), old.types, frame)
        if table is not None:
            write_rows(temporary / f"{name}.item", old.item_types, table)
        if (old.folder / f"{old.name}.user").is_file():
            shutil.copyfile(old.folder / f"{old.name}.user", temporary / f"{name}.user")
        write_receipt(temporary, name, sources)
        os.rename(temporary, folder)
    return Joined({part: len(frame) for part, frame in parts.items()}, len(new), notes)


class _OldData:
    """Tables of a run's data set, with the columns that the run reads."""

    def __init__(self, config):
        self.config, self.name = config, config["dataset"]
        self.folder = Path(config["data_path"])
        self.fields = {role: config[key] for role, key in FIELDS.items()}
        self.format = {
            "separator": config["field_separator"],
            "encoding": config["encoding"] or "utf-8",
        }
        self.parts = list(config["benchmark_filename"] or [])
        files = [part_file(self.name, part) for part in self.parts] or [f"{self.name}.inter"]
        ids = [self.fields["user"], self.fields["item"]]
        tables = []
        for path in (self.folder / file for file in files):
            if not path.is_file():
                raise DataError(
                    "there is no such file, and an update needs the data set of the run; set "
                    "data_path, or, if the run was given data frames, train it on files",
                    path,
                )
            names = self._columns_of(path)
            tables.append(self._read(path, names, ids))
        self.types = tables[0].types
        if ids[1] + config["LIST_SUFFIX"] in self.types:
            raise DataError("update: rows that are histories cannot be continued", path)
        self.part = np.repeat(np.arange(len(tables)), [len(table.frame) for table in tables])
        self.frame = pd.concat([table.frame for table in tables], ignore_index=True)
        self.items, self.item_types = None, {}
        path = self.folder / f"{self.name}.item"
        if path.is_file():
            table = self._read(path, list(read_header(path, **self.format)), ids[1:])
            self.items, self.item_types = table.frame, table.types

    def _read(self, path: Path, columns: list[str], required: list[str]):
        separator = self.config["seq_separator"]
        return read_atomic(
            path, columns=columns, required=required, seq_separator=separator, **self.format
        )

    def _columns_of(self, path: Path) -> list[str]:
        load, unload = (self.config[key] or {} for key in ("load_col", "unload_col"))
        header = read_header(path, **self.format)
        wanted = load.get("inter", "*")
        left_out = unload.get("inter") or []
        return [f for f in header if (wanted == "*" or f in wanted) and f not in left_out]

    def held_out(self) -> np.ndarray:
        """Rows that the run was not trained on, ``[n]``; filters of the run are not looked at."""
        if self.parts:
            return self.part > (self.config["replay"] is not None)
        users = codes(self.frame[self.fields["user"]])
        count = np.bincount(users)[users]
        [(how, value)] = self.config["eval_args"]["split"].items()
        if how == "LS":
            n = np.minimum(_HELD_OUT[value], np.maximum(count - 2, 0))
        else:
            n = count * sum(value[1:]) / sum(value)
        return _from_end(self.frame, self) < n


def _from_end(frame: pd.DataFrame, old: _OldData) -> np.ndarray:
    """Number of later rows of the same user, ``[n]``."""
    user, time = old.fields["user"], old.fields["time"]
    users = frame[[user, time]].sort_values(time, kind="stable").groupby(user, observed=True)
    return users.cumcount(ascending=False).sort_index().to_numpy()


# -- new interactions -------------------------------------------------------------------------


def _source(given: Any, name: str) -> Source:
    flags = {role: f"--{role}" for role in FIELDS} if name == "interactions" else {}
    flags = flags or {"item": "--item_id"}
    if isinstance(given, (str, Path)):
        source = file_source(Path(given), flags)
    else:
        source = replace(frame_source(name, given)[0], flags=flags)
    return replace(source, time_flag="", keeps_names=True)


def _new_interactions(old: _OldData, given: Any, columns: Mapping, notes: list) -> pd.DataFrame:
    source = _source(given, "interactions")
    present, fields = source.table.column_names, old.fields
    named = {role: fields[role] if fields[role] in present else None for role in FIELDS}
    named |= {role: column for role, column in columns.items() if role in FIELDS and column}
    if fields["rating"] not in old.types:
        named["rating"] = NONE
    roles = guess_interactions(source, named)
    keep = [name for name in old.types if name not in fields.values()]
    found = {fields[role] for role in roles} | set(keep).intersection(present)
    absent = [name for name in old.types if name not in found]
    if absent:
        raise source.error(
            f"no column {absent[0]!r}, which the run reads (load_col); columns are "
            + ", ".join(present)
        )
    made = convert_interactions(source, roles, fields, keep=keep)
    new = _with_types(source, made, old.types)
    return _check_new(source, new, old, notes)


def _with_types(source: Source, made, types: Mapping[str, str]) -> pd.DataFrame:
    """Columns in the types of the run's data set; those that are absent are empty."""
    frame = {}
    for name, kind in types.items():
        found = made.types.get(name)
        values = made.columns.get(name, pd.Series([None] * len(made.frame), dtype=object))
        if found == "token" and kind == "float":
            values = pd.to_numeric(values.astype(object), errors="coerce")
        elif found not in (None, kind) and kind not in _TEXT:
            raise source.error(
                f"column {name!r} has the type {found}; in the run's data set it is {kind}"
            )
        frame[name] = values.to_numpy(dtype=float if kind == "float" else object)
    return pd.DataFrame(frame)


def _check_new(source: Source, new: pd.DataFrame, old: _OldData, notes: list) -> pd.DataFrame:
    """Leave out what the run knows; state, or refuse, what is older than the run's data."""
    keys = [old.fields[role] for role in ("user", "item", "time")]
    times = new[keys[2]]
    recent = old.frame.loc[old.frame[keys[2]].to_numpy() >= times.min(), keys].astype(object)
    known = pd.MultiIndex.from_frame(new[keys]).isin(pd.MultiIndex.from_frame(recent))
    if known.any():
        notes.append(f"{int(known.sum()):,} interactions are in the run's data set already")
    new = new[~known].reset_index(drop=True)
    if new.empty:
        raise source.error("nothing new: the run's data set has all of these interactions")
    newest = old.frame[keys[2]].max()
    older = int((new[keys[2]] < newest).sum())
    if older == len(new):
        raise source.error(
            f"all interactions are older than the newest of the run ({keys[2]} {newest:.0f}); "
            "give newer ones, with times in the same unit"
        )
    if older:
        notes.append(
            f"{older:,} of {len(new):,} new interactions are older than the newest of the run; "
            "they follow what it knows of their users"
        )
    return new


# -- items ------------------------------------------------------------------------------------


def _joined_items(old: _OldData, given: Any, columns: Mapping, notes: list) -> pd.DataFrame | None:
    if given is None:
        return old.items
    source = _source(given, "items")
    if old.items is None:
        raise source.error(
            f"the run's data set has no {old.name}.item, and nothing reads items; leave them out"
        )
    name = old.fields["item"]
    column = guess_id(source, "item", columns.get("item_id"), [name])
    made = convert_descriptions(source, column, "item", name, {})
    unread = [
        role.column for role in made.roles if role.field.partition(":")[0] not in old.item_types
    ]
    if unread:
        notes.append(f"columns of items that the run's data set does not have: {listed(unread)}")
    new = _with_types(source, made, old.item_types)
    again = new[name].isin(old.items[name].unique())
    if again.any():
        notes.append(f"{int(again.sum()):,} items are known; their descriptions stay as they are")
    return pd.concat([old.items.astype(new.dtypes), new[~again]], ignore_index=True)


def _check_texts(
    old: _OldData, table: pd.DataFrame | None, added: pd.Index, fields: list[str]
) -> None:
    """Refuse new items that the model could not read."""
    item = old.fields["item"]
    texts = [name for name, kind in old.item_types.items() if kind in _TEXT and name != item]
    texts = fields or texts
    described: pd.Index = pd.Index([])
    if table is not None:
        cells = table[[name for name in texts if name in table]].astype(object).fillna("")
        described = pd.Index(table[item][(cells.astype(str) != "").any(axis=1)])
    without = added.difference(described)
    if len(without):
        raise DataError(
            f"{len(without):,} new items have no text ({listed(list(without))}), which this model "
            f"reads: give a table with {item} and {' or '.join(texts) or 'text'} (--items)"
        )
