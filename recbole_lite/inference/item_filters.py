"""Filters over the fields of items: ``where`` of a request."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

from recbole_lite.inference.history_inputs import raw_id
from recbole_lite.utils.errors import RequestError, shorten
from recbole_lite.utils.suggestions import suggest

_MOST_SUGGESTED = 1000  # values that are compared with an unknown one
_COMPARE = {"gte": np.greater_equal, "gt": np.greater, "lte": np.less_equal, "lt": np.less}


class FieldSummary(NamedTuple):
    """A field of items: its most frequent values, and its range if most are numbers."""

    name: str
    values: list[str]
    n_values: int
    least: float | None
    most: float | None


class ItemFilters:
    """Columns of the catalogue, prepared at their first use.

    Parameters
    ----------
    rows : sequence of mapping
        Fields of each item by internal id, padding included: texts, numbers, lists of texts.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]]):
        self._rows = rows
        self._names = sorted({name for row in rows for name in row})
        self._places_of = cache(partial(_places, rows))
        self._numbers_of = cache(partial(_numbers, rows))

    def matching(self, where: Any) -> np.ndarray:
        """Whether each item meets all conditions, ``[n_items]`` bool; False for padding.

        Parameters
        ----------
        where : mapping
            Field -> a value, a list of values of which an item must have one, or comparisons
            such as ``{"gte": 1990, "lt": 2000}``. An item without the field meets none, and
            one whose value is no number meets no comparison.

        Raises
        ------
        RequestError
            A field or value that no item has, or a comparison of a field without numbers.
        """
        if not isinstance(where, Mapping) or not where:
            raise RequestError(
                f'where maps fields to values, as in {{"year": {{"gte": 1990}}}}, found {where!r}'
            )
        found = np.ones(len(self._rows), bool)
        found[0] = False
        for name, wanted in where.items():
            if name not in self._names:
                known = ", ".join(self._names) or "none (pack the run again if its data have some)"
                raise RequestError(
                    f"where: no item has the field {shorten(str(name), 80)!r}"
                    f"{suggest(str(name), self._names)}; fields: {known}"
                )
            compares = isinstance(wanted, Mapping)
            found &= self._compared(name, wanted) if compares else self._among(name, wanted)
        return found

    def summary(self, limit: int = 100) -> list[FieldSummary]:
        """What each field holds, with at most `limit` values."""
        found = []
        for name in self._names:
            places = self._places_of(name)
            values = sorted(places, key=lambda value: -len(places[value]))
            least = most = None
            with suppress(RequestError):  # texts
                numbers = self._numbers_of(name)
                here = sum(name in row for row in self._rows)
                if 2 * (~np.isnan(numbers)).sum() > here:  # a film named 1917 makes no range
                    least, most = float(np.nanmin(numbers)), float(np.nanmax(numbers))
            found.append(FieldSummary(name, values[:limit], len(values), least, most))
        return found

    def _among(self, name: str, wanted: Any) -> np.ndarray:
        single = isinstance(wanted, (str, bytes)) or not isinstance(wanted, Iterable)
        texts = [_text(value, name) for value in ([wanted] if single else wanted)]
        if not texts:
            raise RequestError(f"where: {name}: the list is empty; leave the field out")
        places = self._places_of(name)
        found = np.zeros(len(self._rows), bool)
        for text in texts:
            if text not in places:
                hint = suggest(text, places) if len(places) <= _MOST_SUGGESTED else ""
                raise RequestError(f"where: no item has the {name} {shorten(text, 80)!r}{hint}")
            found[places[text]] = True
        return found

    def _compared(self, name: str, wanted: Mapping) -> np.ndarray:
        unknown = [key for key in wanted if key not in _COMPARE]
        if unknown or not wanted:
            other = repr(unknown[0]) if unknown else "none"
            raise RequestError(f"where: {name}: comparisons are gte, gt, lte and lt, found {other}")
        numbers = self._numbers_of(name)
        found = np.ones(len(self._rows), bool)
        for key, bound in wanted.items():
            number = _number(bound)
            if math.isnan(number):
                raise RequestError(f"where: {name}: {key} needs a number, found {bound!r}")
            found &= _COMPARE[key](numbers, number)  # False for a missing number
        return found


def _places(rows: Sequence[Mapping], name: str) -> dict[str, np.ndarray]:
    places: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        value = row.get(name, [])
        for one in value if isinstance(value, list) else [value]:
            places.setdefault(_text(one, name), []).append(place)
    return {text: np.array(found) for text, found in places.items()}


def _numbers(rows: Sequence[Mapping], name: str) -> np.ndarray:
    found = np.array([_number(row.get(name)) for row in rows])
    if np.isnan(found).all():
        raise RequestError(f"where: {name} has no numbers; give values instead of comparisons")
    return found


def _number(value: Any) -> float:
    """NaN for what is no finite number."""
    try:
        found = math.nan if isinstance(value, (bool, list)) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return found if math.isfinite(found) else math.nan


def _text(value: Any, name: str) -> str:
    try:
        return value if isinstance(value, str) else raw_id(value)
    except RequestError:
        raise RequestError(f"where: {name}: values are texts or numbers, found {value!r}") from None
