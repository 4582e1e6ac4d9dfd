"""Checks and conversion of a request: raw item ids of any Python type to internal ids."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any
from uuid import UUID

import numpy as np

from recbole_lite.data.raw_values import id_text
from recbole_lite.inference.catalogue import PADDING, Catalogue
from recbole_lite.utils.errors import DataError, RequestError

UNKNOWN = ("warn", "error")
NO_HISTORY = ("empty", "popular", "error")
# Methods that convert arrays, tensors, columns and their cells to plain Python values.
_PLAIN = ("tolist", "to_list", "to_pylist", "item", "as_py")
_SHOWN = 5  # ids in a message


class UnknownItemWarning(UserWarning):
    """Items of a history are not in the catalogue and were left out."""


class OriginalIds:
    """Conversion between texts and item ids of other types, as the user has them.

    Parameters
    ----------
    ids : iterable of hashable or None
        Ids of any type.
    kind : str or None
        ``int``: texts of digits stand for whole numbers.

    Raises
    ------
    RequestError
        Two ids are written alike.
    """

    def __init__(self, ids: Iterable[Hashable] | None, kind: str | None):
        self._whole = kind == "int"
        self._of_text: dict[str, Hashable] = {}
        rows = [] if ids is None else rows_of(ids, "item_ids")
        for value in rows:
            text = id_text(value)
            if self._of_text.setdefault(text, value) != value:
                raise RequestError(
                    f"item_ids: {self._of_text[text]!r} and {value!r} are written alike"
                )
        self._texts = {value: text for text, value in self._of_text.items()}

    def original(self, text: str) -> Any:
        """Id that a text stands for."""
        if text in self._of_text:
            return self._of_text[text]
        return int(text) if self._whole and re.fullmatch(r"-?\d+", text) else text

    def as_texts(self, values: Any) -> Any:
        """Replace known ids in lists, and in lists of lists, by their texts."""
        if not self._texts or values is None:
            return values
        try:
            if values in self._texts:
                return self._texts[values]
        except TypeError:  # not hashable
            pass
        single = isinstance(values, (str, bytes)) or not isinstance(values, Iterable)
        return values if single else [self.as_texts(value) for value in values]


def histories_of(table: Any, settings: Mapping[str, Any]) -> list[list[str]]:
    """History of each user in a table of interactions, in the order of their first rows.

    Parameters
    ----------
    table : data frame, list of dicts, or dict of lists
        Columns are found as in training (:func:`recbole_lite.data.frames.read_frames`); without
        times the rows are in order.
    settings : mapping
        Of the training.

    Raises
    ------
    RequestError
        A column is missing, or an id or time cannot be used.
    """
    # Here: a service that takes lists needs neither pandas nor Arrow.
    from recbole_lite.data.column_roles import guess_interactions
    from recbole_lite.data.frames import FIELDS, frame_source
    from recbole_lite.data.table_conversion import convert_interactions

    try:
        source, _ = frame_source("histories", table)
        names = {role: settings.get(key) for role, key in FIELDS.items()}
        columns = source.table.column_names
        roles = guess_interactions(
            source, {role: name if name in columns else None for role, name in names.items()}
        )
        roles.pop("rating", None)
        made = convert_interactions(source, roles).columns
    except DataError as error:
        raise RequestError(str(error)) from None
    users, items = made["user_id"].cat.codes.to_numpy(), made["item_id"].astype(object).to_numpy()
    times = [made["timestamp"].to_numpy()] if "timestamp" in made else []
    order = np.lexsort([*times, users])
    parts = np.split(items[order], np.cumsum(np.bincount(users))[:-1])
    return [part.tolist() for part in parts]


# -- internal ids -----------------------------------------------------------------------------


def resolve_histories(
    catalogue: Catalogue, histories: Any, unknown: str = "warn", no_history: str = "empty"
) -> list[list[int]]:
    """Internal ids of the known items of each history.

    See :meth:`recbole_lite.inference.recommender.Recommender.recommend` for arguments.

    Raises
    ------
    RequestError
    """
    one_of(unknown, "unknown", UNKNOWN)
    one_of(no_history, "no_history", NO_HISTORY)
    rows, left_out = [], []
    for number, history in enumerate(rows_of(histories, "histories")):
        if is_one_id(history):
            raise RequestError(
                f"history {number} is {history!r}, not a list of ids; for one user write [[...]]"
            )
        known, missing = catalogue.resolve(raw_ids(history, f"history {number}"))
        if missing and unknown == "error":
            raise RequestError(f"history {number}: {describe_unknown(missing)}")
        if not known and no_history == "error":
            why = f"has no known item: {describe_unknown(missing)}" if missing else "is empty"
            raise RequestError(f"history {number} {why}; give at least one known item")
        rows.append(known)
        left_out += missing
    if left_out:
        message = f"left out of the histories: {describe_unknown(left_out)}"
        warnings.warn(message, UnknownItemWarning, stacklevel=3)
    return rows


def resolve_candidates(
    catalogue: Catalogue, candidates: Any, n_users: int
) -> np.ndarray | list[np.ndarray] | None:
    """Internal ids ``[C]``, each once, of one list for all users or one for each; None for None.

    Raises
    ------
    RequestError
        A list is empty, an id is not in the catalogue, or the number of lists is not `n_users`.
    """
    if candidates is None:
        return None
    rows, shared = _lists_of(candidates, "candidates", n_users)
    found = []
    for row in [rows] if shared else rows:
        known, unknown = catalogue.resolve(dict.fromkeys(raw_ids(row, "candidates")))
        if unknown:
            raise RequestError(f"candidates: {describe_unknown(unknown)}")
        if not known:
            raise RequestError("candidates: the list is empty; leave it out to rank all items")
        found.append(np.array(known))
    return found[0] if shared else found


def resolve_excluded(catalogue: Catalogue, exclude: Any, n_users: int) -> list[list[int]]:
    """Internal ids that are not recommended to each user; ids of no item are ignored.

    Raises
    ------
    RequestError
        An id is invalid, or the number of lists is not `n_users`.
    """
    rows, shared = _lists_of([] if exclude is None else exclude, "exclude", n_users)
    found = [catalogue.resolve(raw_ids(row, "exclude"))[0] for row in ([rows] if shared else rows)]
    return found * n_users if shared else found


def _lists_of(values: Any, name: str, n_users: int) -> tuple[list, bool]:
    """One list of ids for all users, and True; or one list for each, and False."""
    rows = rows_of(values, name)
    shared = all(map(is_one_id, rows))
    if not shared and len(rows) != n_users:
        raise RequestError(
            f"{name}: {len(rows)} lists for {n_users} histories; give one list for all, or one "
            "for each"
        )
    return rows, shared


def describe_unknown(ids: Sequence[str]) -> str:
    """Message part that names ids which are not in the catalogue."""
    distinct = list(dict.fromkeys(ids))
    shown = ", ".join(map(repr, distinct[:_SHOWN]))
    more = f" and {len(distinct) - _SHOWN} more" if len(distinct) > _SHOWN else ""
    return f"{len(distinct)} id{'s' * (len(distinct) > 1)} not in the catalogue ({shown}{more})"


# -- raw ids ----------------------------------------------------------------------------------


def raw_id(value: Any) -> str:
    """Convert one id to a string.

    Parameters
    ----------
    value : str, bytes, int, float, UUID or a cell of NumPy, torch, pandas, polars, pyarrow
        Floats without a fraction are written as integers: pandas stores a column of integers with
        a missing value as floats.

    Raises
    ------
    RequestError
        A missing value (None, NaN), an empty string, a Boolean, or a value of another type.
    """
    value = _plain(value)
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            raise RequestError(f"an id must be text in UTF-8, found {value!r}") from None
    if isinstance(value, (str, UUID)):
        return check_text(str(value), "an id")
    if is_missing(value):
        raise RequestError(f"an id is missing (found {value!r}); leave such rows out")
    if isinstance(value, bool) or not isinstance(value, Real) or math.isinf(value):
        raise RequestError(f"an id must be a text or a number, found {value!r}")
    if isinstance(value, Integral) or float(value).is_integer():
        return str(int(value))  # type: ignore[call-overload]
    return str(value)


def raw_ids(values: Any, name: str) -> list[str]:
    """Convert a sequence or column of ids to strings; see :func:`raw_id`.

    Raises
    ------
    RequestError
        The message calls the list `name`.
    """
    try:
        return [raw_id(value) for value in rows_of(values, name)]
    except RequestError as error:
        text = str(error)
        raise RequestError(text if text.startswith(name) else f"{name}: {text}") from None


def rows_of(values: Any, name: str) -> list:
    """The elements of a sequence, array, tensor, column or iterator.

    Raises
    ------
    RequestError
        A single string or number, a mapping or a table.
    """
    plain = _plain(values)
    single = isinstance(plain, (str, bytes, Mapping)) or not isinstance(plain, Iterable)
    if single or hasattr(values, "columns"):
        found = type(values).__name__ if hasattr(values, "columns") else repr(values)
        raise RequestError(f"{name} must be a list of ids, found {found}")
    return list(plain)


def is_one_id(value: Any) -> bool:
    """Whether a value is an id rather than a list of them."""
    plain = _plain(value)
    return isinstance(plain, (str, bytes)) or not isinstance(plain, Iterable)


def check_text(text: str, name: str) -> str:
    """Refuse a string that is empty, RecBole's padding token, or not encodable in UTF-8.

    Raises
    ------
    RequestError
    """
    if not text.strip() or text == PADDING:
        raise RequestError(f"{name} must not be {text!r}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise RequestError(f"{name} is not valid Unicode: {text!r}") from None
    return text


def whole_number(value: Any, name: str, least: int, most: int | None = None, why: str = "") -> int:
    """Check a count such as k, of any integer type; `why` explains `most` in the message.

    Raises
    ------
    RequestError
        Not an integer, or out of range.
    """
    plain = _plain(value)
    whole = isinstance(plain, Integral) and not isinstance(plain, bool)
    if not whole or plain < least or (most is not None and plain > most):
        wanted = f"from {least}" + (f" to {most:,}" if most is not None else " on")
        raise RequestError(f"{name} must be a whole number {wanted}{why}, found {value!r}")
    return int(plain)


def one_of(value: Any, name: str, choices: Sequence[str]) -> None:
    """Raise a `RequestError` for a value that is none of `choices`."""
    if value not in choices:
        raise RequestError(f"{name} must be one of {', '.join(choices)}, found {value!r}")


def share(value: Any, name: str) -> float:
    """Check a number from 0 to 1.

    Raises
    ------
    RequestError
    """
    plain = _plain(value)
    number = float(plain) if isinstance(plain, Real) and not isinstance(plain, bool) else -1.0
    if not 0 <= number <= 1:
        raise RequestError(f"{name} must be a number from 0 to 1, found {value!r}")
    return number


def _plain(value: Any) -> Any:
    """Plain Python value of an array, a tensor, a column or one of their cells."""
    if isinstance(value, (str, bytes, int, float, list, tuple)) and type(value).__module__ in (
        "builtins",
        "numpy",
    ):
        return value
    for method in _PLAIN:
        convert = getattr(value, method, None)
        if callable(convert):
            try:
                return convert()
            except (TypeError, ValueError, RuntimeError):
                continue
    return value


def is_missing(value: Any) -> bool:
    """Whether a value is None, NaN or a missing value of pandas."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, Real) and math.isnan(value)
