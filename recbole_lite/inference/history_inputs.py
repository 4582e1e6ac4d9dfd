"""Raw item ids in whatever a notebook, a file or a request holds them in -> strings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

from recbole_lite.inference.catalogue import PADDING
from recbole_lite.utils.errors import RequestError

# Methods by which arrays, tensors, columns and their cells become plain Python values.
_PLAIN = ("tolist", "to_list", "to_pylist", "item", "as_py")


def raw_id(value: Any) -> str:
    """One id.

    Parameters
    ----------
    value : str, bytes, int, float or a cell of NumPy, torch, pandas, polars, pyarrow
        Of numbers without a fraction the digits alone count: a column of whole numbers with a gap
        is one of floats in pandas.

    Raises
    ------
    RequestError
        A missing value (None, nan), an empty text, a truth value, or no id at all.
    """
    value = _plain(value)
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            raise RequestError(f"an id must be text in UTF-8, found {value!r}") from None
    if isinstance(value, str):
        return check_text(value, "an id")
    if is_missing(value):
        raise RequestError(f"an id is missing (found {value!r}); leave such rows out")
    if isinstance(value, bool) or not isinstance(value, Real) or math.isinf(value):
        raise RequestError(f"an id must be a text or a number, found {value!r}")
    if isinstance(value, Integral) or float(value).is_integer():
        return str(int(value))
    return str(value)


def raw_ids(values: Any, name: str) -> list[str]:
    """A list of ids, from any sequence or column of them; see :func:`raw_id`.

    Raises
    ------
    RequestError
        With `name`, which is what messages call the list.
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
        A single text or number, a mapping or a table.
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
    """Refuse a text that is empty, RecBole's padding, or cannot be written as UTF-8.

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
    """A count such as k, in any type of number; `why` is said of `most`.

    Raises
    ------
    RequestError
        Not a whole number, or out of range.
    """
    plain = _plain(value)
    whole = isinstance(plain, Integral) and not isinstance(plain, bool)
    if not whole or plain < least or (most is not None and plain > most):
        wanted = f"from {least}" + (f" to {most:,}" if most is not None else " on")
        raise RequestError(f"{name} must be a whole number {wanted}{why}, found {value!r}")
    return int(plain)


def _plain(value: Any) -> Any:
    """Python's own value of an array, a tensor, a column or one of their cells."""
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
    """Whether a value is None, nan or a cell that pandas calls missing."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, Real) and math.isnan(value)
