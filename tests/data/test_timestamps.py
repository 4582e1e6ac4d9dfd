"""Times of every usual form; expectations by Python's own datetime."""

from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pytest

from recbole_lite.data.timestamps import parse_times
from recbole_lite.utils.errors import ConfigError, DataError


def fail(message, row):
    return DataError(message, "f.csv", None if row is None else row + 2)


def parse(values, **options):
    return parse_times(pa.chunked_array([pa.array(values)]), fail, **options)


MOMENT = datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=UTC)  # 1700000000.123456


@pytest.mark.parametrize(
    "values, expected, form",
    [
        (["1700000000.123456"], [1700000000.123456], "unix seconds"),
        (["978300760", "978300761"], [978300760, 978300761], "unix seconds"),
        ([1700000000123], [1700000000.123], "unix milliseconds"),
        (["1700000000123456"], [1700000000.123456], "unix microseconds"),
        ([1700000000123456000], [1700000000.123456], "unix nanoseconds"),
        ([1500000000000.5], [1500000000.0005], "unix milliseconds"),
        (["1", "2", "10"], [1, 2, 10], "numbers, taken as they are"),
        ([MOMENT], [1700000000.123456], "datetimes in UTC"),
        ([MOMENT.replace(tzinfo=None)], [1700000000.123456], "without a time zone, taken as UTC"),
        ([date(2022, 1, 8)], [1641600000], "dates, at midnight UTC"),
        (["2023-11-14 22:13:20.123456"], [1700000000.123456], "no time zone: taken as UTC"),
        (["2023-11-14T22:13:20Z", "2023-11-15 00:13:20+02:00", "2023-11-14 16:43:20-0530",
          "2023/11/14 22:13:20 UTC"], [1700000000] * 4, "with time zones"),
        (["2020-02-29", "1969-12-31 23:59:59.5"],
         [datetime(2020, 2, 29, tzinfo=UTC).timestamp(), -0.5], "year, month, day"),
        (["1/2/2020", "13/4/2020 5:06"],
         [datetime(2020, 2, 1, tzinfo=UTC).timestamp(),
          datetime(2020, 4, 13, 5, 6, tzinfo=UTC).timestamp()],
         "day first ('13/4/2020 5:06' decides)"),
        (["1.2.2020", "3.14.2020"],
         [datetime(2020, 1, 2, tzinfo=UTC).timestamp(),
          datetime(2020, 3, 14, tzinfo=UTC).timestamp()], "month first ('3.14.2020' decides)"),
        (["3/3/2020"], [datetime(2020, 3, 3, tzinfo=UTC).timestamp()], "day, month, year"),
    ],
)  # fmt: skip
def test_exact_seconds(values, expected, form):
    found = parse(values)
    assert found.seconds.tolist() == expected
    assert form in found.form
    whole = all(float(one).is_integer() for one in expected)
    assert found.seconds.dtype == (np.int64 if whole else np.float64)


@pytest.mark.parametrize(
    "values, options, expected",
    [
        (["1/2/2020"], {"time_format": "%d/%m/%Y"}, datetime(2020, 2, 1, tzinfo=UTC)),
        ([20200131], {"time_format": "%Y%m%d"}, datetime(2020, 1, 31, tzinfo=UTC)),
        (["02 3, 2014"], {"time_format": "%m %d, %Y"}, datetime(2014, 2, 3, tzinfo=UTC)),
        (["Jan 5 2020 10:30 +0100"], {"time_format": "%b %d %Y %H:%M %z"},
         datetime(2020, 1, 5, 10, 30, tzinfo=timezone(timedelta(hours=1)))),
        (["978300760"], {"time_format": "ms"}, datetime.fromtimestamp(978300.760, UTC)),
        ([20200131], {"time_format": "s"}, datetime.fromtimestamp(20200131, UTC)),
    ],
)  # fmt: skip
def test_a_given_format(values, options, expected):
    assert parse(values, **options).seconds.tolist() == [expected.timestamp()]


@pytest.mark.parametrize(
    "values, line, message",
    [
        (["1/2/2020", "3/4/2020"], 2,
         "no value of the column decides; say it with --time_format=%d/%m/%Y or "
         "--time_format=%m/%d/%Y"),
        (["13/1/2020", "3/14/2020"], 3, "mixed dates"),
        (["2021-01-30", "2021-02-30"], 3, "there is no such date or time: '2021-02-30'"),
        (["2020-01-01 25:00"], 2, "there is no such date or time"),
        (["2020-13-01"], 2, "there is no such date or time"),
        (["978300760", "978300760000"], 3, "mixed units of time: 978300760000 looks like millis"),
        (["978300760", ""], 3, "the time is empty"),
        (["978300760", " "], 3, "the time is empty"),
        ([978300760, None], 3, "the time is empty"),
        ([1.5, float("nan")], 3, "the time is empty|the time is nan"),
        (["1", "2020-01-01"], 3, "mixed times: '2020-01-01' here, '1' in the first row"),
        (["2020-01-01", "noon"], 3, "'noon', unlike other rows, is no time"),
        (["Jan 5, 2020"], 2, "is no time in a known form.*--time_format=FORMAT"),
        (["20200102", "20200103"], 2, "look like dates written as numbers.*--time_format=%Y%m%d"),
        ([True], None, "a time cannot be of the type bool"),
    ],
)  # fmt: skip
def test_what_is_no_time(values, line, message):
    with pytest.raises(DataError, match=message) as caught:
        parse(values)
    assert caught.value.line == line


def test_a_format_that_does_not_fit():
    with pytest.raises(DataError, match="'2020' is no time of the form '%d/%m/%Y'"):
        parse(["1/2/2020", "2020"], time_format="%d/%m/%Y")
    with pytest.raises(ConfigError, match="--time_format: '%Q' is no format"):
        parse(["1/2/2020"], time_format="%Q")


def test_order_survives_at_nanoseconds():
    ticks = np.arange(5) * 1000 + 1_700_000_000_000_000_000
    found = parse(ticks)
    assert (np.diff(found.seconds) > 0).all()
    assert "rounded" in parse(ticks + 1).form
