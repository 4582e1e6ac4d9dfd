"""Foreign tables as the columns of atomic files: ids, ratings, exact times, text."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recbole_lite.data.arrow_columns import (
    DECIMAL,
    WHOLE,
    decoded,
    is_id,
    is_list,
    is_number,
    is_text,
    is_time,
    sample_matches,
    whole_numbers,
)
from recbole_lite.data.atomic_columns import categories
from recbole_lite.data.column_roles import ColumnRole, Source, examples
from recbole_lite.data.timestamps import parse_times
from recbole_lite.utils.errors import DataError

CANONICAL = {"user": "user_id", "item": "item_id", "rating": "rating", "time": "timestamp"}
PADDING = "[PAD]"  # RecBole's token for internal id 0
_UNWRITABLE = r"[\t\n\r\x00]"  # in atomic files
_URL = r"^https?://\S+$"


@dataclass
class Converted:
    """Columns of an atomic file by field, with values as `read_atomic` gives them."""

    types: dict[str, str] = field(default_factory=dict)
    columns: dict[str, pd.Series] = field(default_factory=dict)
    roles: list[ColumnRole] = field(default_factory=list)  # of each column of the source
    notes: list[str] = field(default_factory=list)  # what was changed or left out, with counts
    text_fields: list[str] = field(default_factory=list)  # fields that hold text
    ids: dict[str, pd.Index] = field(default_factory=dict)  # different ones, by role

    @property
    def frame(self) -> pd.DataFrame:
        """The columns as a frame."""
        return pd.DataFrame(self.columns)

    def add(self, source: Source, column: str, role: str, name: str, kind: str, values) -> None:
        """Add a field."""
        self.types[name] = kind
        self.columns[name] = pd.Series(values)
        if role in ("user", "item"):
            self.ids[role] = self.columns[name].cat.categories
        shown = examples(source.table[column])
        self.roles.append(ColumnRole(column, role, f"{name}:{kind}", shown))


def convert_interactions(
    source: Source,
    roles: Mapping[str, str],
    names: Mapping[str, str] = CANONICAL,
    time_format: str | None = None,
    keep: Collection[str] = (),
) -> Converted:
    """Convert a table of interactions.

    Parameters
    ----------
    source : Source
    roles : mapping
        Role -> column, see :func:`~recbole_lite.data.column_roles.guess_interactions`.
    names : mapping
        Role -> name of the field.
    time_format : str, optional
        See :func:`~recbole_lite.data.timestamps.parse_times`.
    keep : collection of str
        Other columns to take over.

    Raises
    ------
    DataError
        An id or a time is missing or impossible, with its line.
    """
    made = Converted()
    for role in ("user", "item"):
        column = roles[role]
        made.add(source, column, role, names[role], "token", to_ids(source, column))
    if "rating" in roles:
        column = roles["rating"]
        values = _numbers(source, column)
        made.add(source, column, "rating", names["rating"], "float", values)
        empty = int(pd.isna(values).sum())
        if empty:
            made.notes.append(f"{empty:,} ratings are empty")
    if "time" in roles:
        column = roles["time"]
        fail = _fail_at(source, column)
        times = parse_times(source.table[column], fail, time_format, source.time_flag)
        made.add(source, column, "time", names["time"], "float", times.seconds)
        made.notes.append(f"times: {times.form}")
    for column in keep:
        _carry(made, source, column, {}, as_text=False)
    used = {*roles.values(), *keep}
    for column in source.table.column_names:
        if column not in used:
            shown = examples(source.table[column])
            made.roles.append(ColumnRole(column, "left out", "", shown))
    return made


def convert_descriptions(
    source: Source,
    id_column: str,
    role: str,
    name: str,
    taken: Mapping[str, str],
    text: Collection[str] | None = None,
    first_of_repeated: bool = False,
) -> Converted:
    """Convert a table of items or users, one row each, with all its columns.

    Parameters
    ----------
    source : Source
    id_column, role, name : str
        Column of the ids, ``item`` or ``user``, and name of the field of the ids.
    taken : mapping
        Field of another file -> ending of that file; such a name gets a prefix here.
    text : collection of str, optional
        Columns that are text; default: those of strings (of items).
    first_of_repeated : bool
        Whether to keep the first of several rows with one id, which are an error otherwise.

    Raises
    ------
    DataError
        An id is missing or repeats, or a column of `text` has none; with its line.
    """
    for column in text or ():
        source.check_column(column, "--text")
    made = Converted()
    ids = to_ids(source, id_column)
    source, ids = _without_repeats(source, id_column, ids, first_of_repeated, made)
    made.add(source, id_column, role, name, "token", ids)
    for column in source.table.column_names:
        if column != id_column:
            as_text = role == "item" if text is None else column in text
            _carry(made, source, column, taken, as_text, demanded=column in (text or ()))
    if made.text_fields:
        texts = [made.columns[field] for field in made.text_fields]
        filled = [(column.astype(object).fillna("") != "").to_numpy() for column in texts]
        has_text = np.logical_or.reduce(filled)
        if not has_text.all():
            made.notes.append(f"{int((~has_text).sum()):,} {role}s have no text")
    return made


def check_overlap(source: Source, column: str, role: str, made: Converted, table: Converted):
    """Refuse descriptions of none of the items or users: their ids are of another kind.

    Raises
    ------
    DataError
        With the setting that names the column of ids.
    """
    used, described = made.ids[role], table.ids[role]
    if not used.isin(described).any():
        raise source.error(
            f"none of the {len(used):,} {role}s of the interactions (the first: {used[0]!r}) "
            f"stands in column {column!r} (the first: {described[0]!r}); name the right column "
            f"with {source.flags[role]}=COLUMN"
        )


# -- ids --------------------------------------------------------------------------------------


def to_ids(source: Source, column: str) -> pd.Categorical:
    """Ids as categories of strings, in order of first appearance.

    Raises
    ------
    DataError
        An id is missing, or an atomic file cannot hold it; with its line.
    """
    ids = _as_categories(source, column)
    fail = _fail_at(source, column)
    missing = ids.codes < 0
    if missing.any():
        raise fail("the id is missing; fill it in or remove the row", int(missing.argmax()))
    distinct = pa.array(ids.categories, pa.string())
    blank = pc.or_(
        pc.equal(pc.utf8_trim_whitespace(distinct), ""), pc.equal(distinct, PADDING)
    ).to_numpy(False)
    bad = blank | pc.match_substring_regex(distinct, _UNWRITABLE).to_numpy(False)
    if bad.any():
        code = int(bad.argmax())
        found = distinct[code].as_py()
        what = f"{found[:60]!r} cannot be an id" if found.strip() else "the id is empty"
        raise fail(f"{what}; change it or remove the row", int((ids.codes == code).argmax()))
    return ids


def _as_categories(source: Source, column: str) -> pd.Categorical:
    values = decoded(source.table[column])
    kind = values.type
    if pa.types.is_floating(kind):  # pandas' form of whole numbers, some of which are missing
        missing = pc.fill_null(pc.is_nan(values), True)
        values = pc.if_else(missing, None, values)
        try:
            values = values.cast(pa.int64())
        except pa.ArrowInvalid:
            raise source.error(
                f"column {column!r} holds numbers with a fraction, which are no ids"
            ) from None
    if not is_id(kind):
        raise source.error(f"column {column!r} holds {kind}, which are no ids; name another one")
    try:
        if is_text(values.type):
            return categories(values.cast(pa.string()).chunks).array
        encoded = values.dictionary_encode().combine_chunks()  # only the different ids become text
        texts = encoded.dictionary.cast(pa.string())
    except pa.ArrowInvalid as error:
        raise source.error(f"column {column!r}: the ids cannot be read: {error}") from None
    return pa.DictionaryArray.from_arrays(encoded.indices, texts).to_pandas().array


def _fail_at(source: Source, column: str):
    def fail(message: str, row: int | None) -> DataError:
        return source.error(f"{column}: {message}", row)

    return fail


def _without_repeats(
    source: Source, column: str, ids: pd.Categorical, first: bool, made: Converted
) -> tuple[Source, pd.Categorical]:
    """Refuse or drop rows that repeat an id."""
    repeated = pd.Series(ids.codes).duplicated().to_numpy()
    if not repeated.any():
        return source, ids
    if not first:
        row = int(repeated.argmax())
        before = int((ids.codes == ids.codes[row]).argmax())
        how = (
            "remove one of the two rows"
            if not source.time_flag
            else "remove one of the two, or take the first of each with --deduplicate_items=first"
        )
        raise source.error(
            f"{column} {ids[row]!r} stands in {source.place(before)} already; {how}", row
        )
    made.notes.append(f"{int(repeated.sum()):,} rows repeat an id and are left out")
    table = source.table.filter(pa.array(~repeated))
    return replace(source, table=table, first_line=None), ids[~repeated]


# -- other columns ----------------------------------------------------------------------------


def _carry(
    made: Converted,
    source: Source,
    column: str,
    taken: Mapping[str, str],
    as_text: bool,
    demanded: bool = False,
) -> None:
    """Take a column over under a type that its values have, or say why not."""
    values = source.table[column]
    kind, values, reason = _typed(values, as_text)
    if demanded and kind not in ("token", "token_seq"):
        raise source.error(f"column {column!r} has no text ({reason or kind}); leave it out")
    if kind is None:
        made.roles.append(ColumnRole(column, f"left out: {reason}", "", ""))
        return
    name = column if source.keeps_names else _field_name(column, taken, made)
    if kind == "token":
        stored = categories(values.chunks)
    elif kind == "token_seq":
        cleaned = _cleaned(values)
        changed = pc.sum(pc.match_substring_regex(values, _UNWRITABLE)).as_py() or 0
        if changed:
            made.notes.append(
                f"{column}: tabs or line ends in {changed:,} cells have become spaces"
            )
        stored = pd.Series(np.asarray(cleaned.to_pylist(), dtype=object), dtype=str)
    elif kind == "float":
        stored = values.cast(pa.float64()).to_numpy()
    else:
        cells = np.empty(len(values), dtype=object)
        cells[:] = [np.array(cell or (), dtype=np.float64) for cell in values.to_pylist()]
        stored = cells
    is_text_field = demanded or (as_text and kind == "token_seq")
    made.add(source, column, "text" if is_text_field else "column", name, kind, stored)
    if is_text_field:
        made.text_fields.append(name)


def _typed(values: pa.ChunkedArray, as_text: bool) -> tuple[str | None, pa.ChunkedArray, str]:
    """RecBole's type of a column, its values in the form for it, and why it is left out."""
    values = decoded(values)
    kind = values.type
    if pa.types.is_null(kind) or values.null_count == len(values):
        return None, values, "empty"
    if is_list(kind):
        return _typed_list(values)
    if is_text(kind):
        return _typed_text(values.cast(pa.string()), as_text)
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or is_time(kind):
        return "token", values.cast(pa.string()), ""
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        numbers = values.cast(pa.float64())
        numbers = pc.if_else(pc.fill_null(pc.is_finite(numbers), False), numbers, None)
        try:  # whole numbers, some of which are missing
            return "token", numbers.cast(pa.int64()).cast(pa.string()), ""
        except pa.ArrowInvalid:
            return "float", numbers, ""
    return None, values, f"{kind} has no place in an atomic file"


def _typed_list(values: pa.ChunkedArray):
    kind = values.type.value_type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "float_seq", values, ""
    if not is_text(kind) and not is_list(kind) and not pa.types.is_null(kind):
        return None, values, f"lists of {kind} have no place in an atomic file"
    joined = [_join(chunk) for chunk in values.chunks]
    found = pa.chunked_array(joined, type=pa.string())
    if pc.all(pc.equal(pc.utf8_trim_whitespace(pc.fill_null(found, "")), "")).as_py():
        return None, values, "empty"
    return "token_seq", found, ""


def _join(lists: pa.Array) -> pa.Array:
    """One string for each list of strings, or of such lists; a comma between longer phrases."""
    lists = lists.cast(pa.list_(lists.type.value_type))
    inner = lists.flatten()
    if is_list(inner.type):
        inner = _join(inner)
    inner = pc.fill_null(inner.cast(pa.string()), "")
    phrases = pc.any(pc.match_substring_regex(inner, r"\S\s+\S")).as_py()
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    return pc.binary_join(pa.ListArray.from_arrays(offsets, inner), ", " if phrases else " ")


def _typed_text(values: pa.ChunkedArray, as_text: bool):
    trimmed = pc.fill_null(pc.utf8_trim_whitespace(values), "")
    filled = trimmed.filter(pc.not_equal(trimmed, ""))
    if not len(filled):
        return None, values, "empty"
    if _is_piped(filled):
        phrases = pc.any(pc.match_substring_regex(filled, r"[^|\s]\s+[^|\s]")).as_py()
        return "token_seq", pc.replace_substring(trimmed, "|", ", " if phrases else " "), ""
    empty_is_null = pc.if_else(pc.equal(trimmed, ""), None, trimmed)
    if pc.all(pc.match_substring_regex(filled, WHOLE)).as_py():
        return "token", empty_is_null, ""
    if pc.all(pc.match_substring_regex(filled, DECIMAL)).as_py():
        return "float", empty_is_null.cast(pa.float64()), ""
    if as_text and not sample_matches(filled, _URL):
        return "token_seq", pc.fill_null(values, ""), ""
    return "token", _cleaned(empty_is_null), ""


def _is_piped(filled: pa.ChunkedArray) -> bool:
    """Whether cells are lists like ``Comedy|Drama``: in a tenth of them, and without spaces."""
    piped = pc.sum(pc.match_substring(filled, "|")).as_py()
    spaced = pc.any(pc.match_substring_regex(filled, r"\s\||\|\s")).as_py()
    return piped >= 0.1 * len(filled) and piped > 0 and not spaced


def _cleaned(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text in one line: white space has become single spaces where a line cannot hold it."""
    parts = pc.replace_substring_regex(values, r"[ ]*[\t\n\r\x00][\s\x00]*", " ")
    return pc.utf8_trim_whitespace(parts)


def _numbers(source: Source, column: str) -> np.ndarray:
    """Numbers of a column of ratings; NaN where a cell is empty."""
    values = source.table[column]
    fail = _fail_at(source, column)
    if is_text(values.type):
        trimmed = pc.fill_null(pc.utf8_trim_whitespace(values), "")
        empty = pc.equal(trimmed, "")
        wrong = pc.invert(pc.or_(empty, pc.match_substring_regex(trimmed, DECIMAL)))
        if pc.any(wrong).as_py():
            row = int(np.argmax(np.asarray(wrong)))
            raise fail(f"{trimmed[row].as_py()[:60]!r} is no number; write it like 4.5", row)
        values = pc.if_else(empty, None, trimmed)
    elif not is_number(values.type):
        raise source.error(f"column {column!r} holds {values.type}, which are no numbers")
    numbers = values.cast(pa.float64()).to_numpy()
    if np.isinf(numbers).any():
        row = int(np.isinf(numbers).argmax())
        raise fail(f"the number is {numbers[row]}; write finite ones", row)
    return whole_numbers(numbers)


def _field_name(column: str, taken: Mapping[str, str], made: Converted) -> str:
    """Name of a field: letters, digits, underscores; unlike those of other files."""
    name = re.sub(r"\W+", "_", column).strip("_") or "column"
    prefix = "user_" if "user" in (role.role for role in made.roles) else "item_"
    if name in taken and name not in made.types:
        name = f"{prefix}{name}"
    start, number = name, 2
    while name in made.types or name in taken:
        name, number = f"{start}_{number}", number + 1
    return name
