"""Times of the usual forms as exact numbers of seconds since 1970 (UTC)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recbole_lite.data.arrow_columns import DECIMAL, WHOLE, distinct, is_text, whole_numbers
from recbole_lite.utils.errors import ConfigError, DataError

# Makes the error about a row; None: about the whole column.
Fail = Callable[[str, int | None], DataError]
UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}  # ticks per second
_UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
# Sizes of numbers from which a unit is assumed: seconds reach the year 5138 with the first.
_UNIT_STARTS = np.array([1e11, 1e14, 1e17])
_RELATIVE = 10**8  # unix seconds below it are before 1974: other numbers, such as positions
_CLOCK = (
    r"(?:[T ]+(?P<hour>\d{1,2}):(?P<minute>\d{2})"
    r"(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?)?"
    r" *(?P<zone>[Zz]|UTC|GMT|[+-]\d{2}(?::?\d{2})?)?$"
)
_YEAR_FIRST = r"^(?P<year>\d{4})[-/.](?P<b>\d{1,2})[-/.](?P<c>\d{1,2})" + _CLOCK
_YEAR_LAST = r"^(?P<b>\d{1,2})[-/.](?P<c>\d{1,2})[-/.](?P<year>\d{4})" + _CLOCK


class Times(NamedTuple):
    """Seconds since 1970, ``[n]`` (int64 where all are whole, else float64), and their source."""

    seconds: np.ndarray
    form: str


def parse_times(
    column: pa.ChunkedArray, fail: Fail, time_format: str | None = None, flag: str = "--time_format"
) -> Times:
    """Read a column of times.

    Parameters
    ----------
    column : pyarrow.ChunkedArray
        Timestamps, dates, numbers (unix seconds to nanoseconds, recognised by their size), or
        text: such numbers, or dates with or without a time of day and a zone (none: UTC).
    fail : callable
        Message and row from 0 -> the error.
    time_format : str, optional
        A unit (s, ms, us, ns) or a format of ``strptime`` in place of a guess.
    flag : str
        What messages call `time_format`; empty: the caller has none.

    Raises
    ------
    DataError
        An empty, impossible or ambiguous time, or mixed units, with its row.
    ConfigError
        `time_format` is no format.
    """
    if column.null_count:
        raise fail("the time is empty", _first(pc.is_null(column)))
    if not len(column):
        raise fail("there are no rows", None)
    kind = column.type
    if pa.types.is_timestamp(kind):
        ticks = column.cast(pa.int64()).to_numpy()
        zone = f"in {kind.tz}" if kind.tz else "without a time zone, taken as UTC"
        return _joined(*_split(ticks, UNITS[kind.unit]), f"datetimes {zone}")
    if pa.types.is_date(kind):
        days = column.cast(pa.date32()).cast(pa.int32()).to_numpy().astype(np.int64)
        return Times(days * 86_400, "dates, at midnight UTC")
    if time_format is not None and time_format not in UNITS:
        return _with_format(column.cast(pa.string()), fail, time_format)
    if pa.types.is_integer(kind):
        return _from_numbers(column.cast(pa.int64()).to_numpy(), fail, time_format, flag)
    if pa.types.is_floating(kind):
        return _from_numbers(column.cast(pa.float64()).to_numpy(), fail, time_format, flag)
    if is_text(kind):
        return _from_text(pc.utf8_trim_whitespace(column), fail, time_format, flag)
    raise fail(f"a time cannot be of the type {kind}", None)


def _first(mask) -> int:
    """Place of the first true value of a mask of NumPy or pyarrow."""
    return int(np.argmax(np.asarray(mask)))


# -- numbers ----------------------------------------------------------------------------------


def _from_numbers(values: np.ndarray, fail: Fail, unit: str | None, flag: str) -> Times:
    finite = np.isfinite(values)
    if not finite.all():
        row = _first(~finite)
        raise fail(f"the time is {values[row]}; every row needs one", row)
    if unit is None:
        unit = _unit(values, fail)
        if unit == "s" and _are_calendar_numbers(values):
            example = int(values[0])
            remedy = f"{flag}=%Y%m%d, or {flag}=s if not" if flag else "convert them to datetimes"
            raise fail(f"the times look like dates written as numbers ({example}): {remedy}", 0)
    name = f"unix {_UNIT_NAMES[unit]}"
    if unit == "s" and _range_of_sizes(values)[1] < _RELATIVE:
        name = "numbers, taken as they are"
    if values.dtype == np.int64:
        return _joined(*_split(values, UNITS[unit]), name)
    return Times(whole_numbers(values / UNITS[unit]), name)


def _unit(values: np.ndarray, fail: Fail) -> str:
    """Unit that the size of all values says."""
    least, most = np.searchsorted(_UNIT_STARTS, _range_of_sizes(values), side="right")
    if least == most:
        return list(UNITS)[least]
    sizes = np.searchsorted(_UNIT_STARTS, np.abs(values.astype(np.float64)), side="right")
    other = sizes != sizes[0]
    units = list(UNITS)
    if other.any():
        row = _first(other)
        raise fail(
            f"mixed units of time: {values[row]} looks like {_UNIT_NAMES[units[sizes[row]]]}, "
            f"the first row, {values[0]}, like {_UNIT_NAMES[units[sizes[0]]]}; "
            "write all times in one unit",
            row,
        )
    return units[sizes[0]]


def _range_of_sizes(values: np.ndarray) -> tuple[float, float]:
    """Least and largest absolute value."""
    low, high = float(values.min()), float(values.max())
    return max(low, -high, 0.0), max(-low, high)


def _are_calendar_numbers(values: np.ndarray) -> bool:
    """Whether all values are numbers like 20200131."""
    if values.min() < 19_000_101 or values.max() > 21_001_231:
        return False
    years, months, days = values // 10_000, values // 100 % 100, values % 100
    return bool(
        ((years >= 1900) & (years <= 2100)).all()
        and ((months >= 1) & (months <= 12) & (days >= 1) & (days <= 31)).all()
        and (values % 1 == 0).all()
    )


def _split(ticks: np.ndarray, per_second: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole seconds, and the nanoseconds beyond them; none for ticks of a second."""
    if per_second == 1:
        return ticks, np.zeros(0, np.int64)
    seconds, rest = np.divmod(ticks, per_second)
    return seconds, rest * (UNITS["ns"] // per_second)


def _joined(seconds: np.ndarray, nanoseconds: np.ndarray, form: str) -> Times:
    """Seconds as the nearest float64: exact to the microsecond for times of our centuries."""
    if not nanoseconds.any():
        return Times(seconds, form)
    if (nanoseconds % 1000).any():
        form += ", rounded to about a quarter of a microsecond"
    return Times(seconds + nanoseconds / UNITS["ns"], form)


# -- text -------------------------------------------------------------------------------------


def _from_text(column: pa.ChunkedArray, fail: Fail, unit: str | None, flag: str) -> Times:
    empty = pc.equal(column, "")
    if pc.any(empty).as_py():
        raise fail("the time is empty; every row needs one", _first(empty))
    whole = pc.match_substring_regex(column, WHOLE)
    if pc.all(whole).as_py():
        return _from_numbers(column.cast(pa.int64()).to_numpy(), fail, unit, flag)
    number = pc.or_(whole, pc.match_substring_regex(column, DECIMAL))
    if pc.all(number).as_py():
        return _from_numbers(column.cast(pa.float64()).to_numpy(), fail, unit, flag)
    if pc.any(number).as_py():
        numbers = np.asarray(number)
        row = _first(numbers != numbers[0])
        raise fail(
            f"mixed times: {_at(column, row)!r} here, {_at(column, 0)!r} in the first row; "
            "write all times in one form",
            row,
        )
    if unit is not None:
        raise fail(f"{_at(column, 0)!r} is no number; {flag}={unit} reads numbers", 0)
    values, codes = distinct(column)

    def fail_at(message: str, place: int | None) -> DataError:
        return fail(message, None if place is None else _first(codes == place))

    seconds, nanoseconds, form = _dates(values, fail_at, flag)
    return _joined(seconds[codes], nanoseconds[codes], form)


def _at(column, row: int) -> str:
    return column[row].as_py()[:60]


def _dates(values: pa.Array, fail: Fail, flag: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Seconds and nanoseconds of dates written in digits, and the form that was recognised."""
    parts = pc.extract_regex(values, _YEAR_FIRST)
    form, first = "dates written year, month, day", "bc"
    if parts.null_count == len(parts):
        parts = pc.extract_regex(values, _YEAR_LAST)
    if parts.null_count:
        place = _first(pc.is_null(parts))
        remedy = f"{flag}=FORMAT gives its form (strptime)" if flag else "convert it to a datetime"
        other = "" if parts.null_count == len(parts) else ", unlike other rows,"
        raise fail(
            f"{_at(values, place)!r}{other} is no time in a known form, such as "
            f"2020-01-31 18:30:00 or 1580495400; {remedy}",
            place,
        )
    fields = {name: _numbers(parts, name) for name in ("year", "b", "c")}
    if not pc.match_substring_regex(values[0], r"^\d{4}").as_py():
        form, first = _day_or_month_first(values, fields["b"], fields["c"], fail, flag)
    month, day = (fields[name] for name in first)
    seconds, form_of_zone = _zone(pc.struct_field(parts, "zone"))
    for name, size, limit in (("hour", 3600, 24), ("minute", 60, 60), ("second", 1, 60)):
        number = _numbers(parts, name)
        _check_possible(values, number < limit, fail)
        seconds = seconds + number * size
    _check_possible(values, (month >= 1) & (month <= 12) & (day >= 1), fail)
    months = ((fields["year"] - 1970) * 12 + month - 1).astype("datetime64[M]")
    dates = months.astype("datetime64[D]") + (day - 1)
    _check_possible(values, dates.astype("datetime64[M]") == months, fail)
    fraction = pc.ascii_rpad(pc.struct_field(parts, "fraction"), 9, "0").cast(pa.int64())
    return seconds + dates.astype(np.int64) * 86_400, fraction.to_numpy(), form + form_of_zone


def _numbers(parts: pa.StructArray, name: str) -> np.ndarray:
    """Digits of a group as int64; 0 where the group is absent."""
    return pc.ascii_lpad(pc.struct_field(parts, name), 1, "0").cast(pa.int64()).to_numpy()


def _check_possible(values: pa.Array, possible: np.ndarray, fail: Fail) -> None:
    if not possible.all():
        place = _first(~possible)
        raise fail(f"there is no such date or time: {_at(values, place)!r}", place)


def _day_or_month_first(
    values: pa.Array, b: np.ndarray, c: np.ndarray, fail: Fail, flag: str
) -> tuple[str, str]:
    """Decide which of the first two numbers is the day, by a number that can be no month."""
    day_first, month_first = b > 12, c > 12
    if day_first.any() and month_first.any():
        one, other = _first(day_first), _first(month_first)
        raise fail(
            f"mixed dates: {_at(values, other)!r} has the month first, {_at(values, one)!r} the "
            "day; write all in one form",
            max(one, other),
        )
    if day_first.any():
        return f"dates with the day first ({_at(values, _first(day_first))!r} decides)", "cb"
    if month_first.any():
        return f"dates with the month first ({_at(values, _first(month_first))!r} decides)", "bc"
    if (b == c).all():
        return "dates written day, month, year", "cb"
    place = _first(b != c)
    example = _at(values, place)
    mark = next(char for char in example if not char.isdigit())
    formats = (mark.join(("%d", "%m", "%Y")), mark.join(("%m", "%d", "%Y")))
    remedy = f"say it with {flag}={formats[0]} or {flag}={formats[1]}"
    raise fail(
        f"{example!r} can be read with the day or the month first, and no value of the column "
        f"decides; {remedy if flag else 'convert the column to datetimes'}",
        place,
    )


def _zone(zones: pa.Array) -> tuple[np.ndarray, str]:
    """What to add to local seconds for UTC, and what to say of the zones."""
    given = np.asarray(pc.not_equal(zones, ""))
    digits = pc.replace_substring_regex(zones, r"[^0-9]", "")
    digits = pc.ascii_rpad(digits, 4, "0").cast(pa.int64()).to_numpy()
    sign = np.where(np.asarray(pc.starts_with(zones, "-")), 1, -1)
    offset = sign * (digits // 100 * 3600 + digits % 100 * 60)
    if given.all():
        return offset, ", with time zones"
    missing = "no" if not given.any() else "in part no"
    return offset, f", {missing} time zone: taken as UTC"


def _with_format(column: pa.ChunkedArray, fail: Fail, time_format: str) -> Times:
    """Times in a format that the user gives; pandas knows all directives."""
    values, codes = distinct(pc.utf8_trim_whitespace(column))
    texts = values.to_pandas()
    try:
        parsed = pd.to_datetime(texts, format=time_format, errors="coerce", utc=True)
    except ValueError as error:
        raise ConfigError(f"--time_format: {time_format!r} is no format: {error}") from None
    if parsed.isna().any():
        place = _first(parsed.isna())
        message = f"{_at(values, place)!r} is no time of the form {time_format!r}"
        raise fail(message, _first(codes == place))
    ticks = parsed.astype("datetime64[ns, UTC]").astype(np.int64).to_numpy()
    zone = "" if "%z" in time_format else ", no time zone: taken as UTC"
    return _joined(*_split(ticks[codes], UNITS["ns"]), f"times of the form {time_format}{zone}")
