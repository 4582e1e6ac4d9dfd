"""Which column of a foreign table is the user, the item, the rating and the time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from tabulate import tabulate

from recbole_lite.data.arrow_columns import (
    DECIMAL,
    SAMPLE,
    is_id,
    is_number,
    is_text,
    is_time,
    sample_matches,
)
from recbole_lite.utils.errors import DataError, shorten
from recbole_lite.utils.suggestions import suggest

NONE = "none"  # given for a role that no column shall have
# Role -> setting that names its column in a run.
FIELDS = {
    "user": "USER_ID_FIELD",
    "item": "ITEM_ID_FIELD",
    "rating": "RATING_FIELD",
    "time": "TIME_FIELD",
}
_DATE = r"^(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4})\b"


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Names without case and punctuation: first those of ids, then words that may also name a thing.
_KNOWN: dict[str, tuple[frozenset[str], ...]] = {
    "user": (
        _names(
            "userid uid visitorid customerid sessionid reviewerid memberid accountid clientid "
            "buyerid playerid listenerid readerid personid deviceid"
        ),
        _names("user visitor customer session reviewer member account client buyer player"),
    ),
    "item": (
        _names(
            "itemid iid movieid filmid asin parentasin productid sku skuid trackid songid artistid "
            "bookid isbn articleid newsid videoid gameid appid businessid poiid venueid recipeid "
            "courseid contentid goodsid listingid animeid"
        ),
        _names("item movie film product track song artist book article news video game app"),
    ),
    "rating": (_names("rating ratings stars star starrating overall score rate bookrating"),),
    "time": (
        _names(
            "timestamp time ts date datetime unixreviewtime reviewtime createdat created "
            "creationtime eventtime eventdate eventtimestamp unixtime reviewdate ratedat "
            "reviewedat purchasedate orderdate invoicedate starttime playedat visittime clicktime"
        ),
    ),
}


@dataclass(frozen=True)
class Source:
    """A foreign table, and the lines of its rows in the file."""

    table: Any  # pyarrow.Table, or what gives columns and their names as it does
    name: str  # path of the file, or name of the argument
    flags: Mapping[str, str]  # role -> what messages call the setting that names its column
    first_line: int | None = None  # of the first row in a text file; None: rows are counted
    first_row: int = 1
    time_flag: str = "--time_format"  # what messages call it; empty: there is none
    keeps_names: bool = False  # whether fields keep the columns' names as they are

    @property
    def path(self) -> Path:
        """What begins a message."""
        return Path(self.name)

    def error(self, message: str, row: int | None = None) -> DataError:
        """Error about a row, counted from 0; None: about the whole table."""
        if row is not None and self.first_line is not None:
            return DataError(message, self.path, self.line(row))
        return DataError(message if row is None else f"{self.place(row)}: {message}", self.path)

    def line(self, row: int) -> int:
        """Line on which a row begins: line ends inside of cells count."""
        inside = 0
        for column in self.table.slice(0, row).columns:
            if pa.types.is_string(column.type):
                inside += pc.sum(pc.count_substring(column, "\n")).as_py() or 0
        return row + (self.first_line or 0) + inside

    def place(self, row: int) -> str:
        """Line or row for a message."""
        if self.first_line is None:
            return f"row {row + self.first_row}"
        return f"line {self.line(row)}"

    def check_column(self, name: str, flag: str) -> str:
        """Refuse the name of a column that the table does not have."""
        if name not in self.table.column_names:
            raise self.error(
                f"there is no column {name!r} ({flag}){suggest(name, self.table.column_names)}; "
                f"columns are {', '.join(self.table.column_names)}"
            )
        return name


class ColumnRole(NamedTuple):
    """What becomes of a column: a line of the table that the user sees."""

    column: str
    role: str  # user, item, rating, time, text, column; what is left out has the reason here
    field: str  # name:type in the atomic file, empty if left out
    values: str  # two examples


def roles_table(roles: Sequence[ColumnRole], title: str = "column") -> str:
    """Text of what becomes of each column; `title` heads the columns' names."""
    headers = [title, "role", "field:type", "examples"]
    return tabulate(roles, headers, tablefmt="plain", disable_numparse=True)


def examples(column: pa.ChunkedArray) -> str:
    """Two different values of a column, as they are written."""
    found: list[str] = []
    for value in column.slice(0, SAMPLE):
        text = " ".join(str(value.as_py()).split())
        text = shorten(text, 30)
        if value.is_valid and text and text not in found:
            found.append(text)
        if len(found) == 2:
            break
    return ", ".join(found)


def guess_interactions(source: Source, given: Mapping[str, str | None]) -> dict[str, str]:
    """Find the columns of users, items, ratings and times.

    Parameters
    ----------
    source : Source
    given : mapping
        Role -> column that the user names, ``none`` for a rating or time that is not to be read,
        None: to be guessed.

    Returns
    -------
    dict of str to str
        Role -> column; ratings and times may be absent, the latter only where `given` or the
        table says so.

    Raises
    ------
    DataError
        No column or several could have a role; the message names the flag.
    """
    roles = {}
    for role in FIELDS:
        name = given.get(role)
        if name is None:
            name = _guess(source, role, set(roles.values()) | set(filter(None, given.values())))
        elif name == NONE and role in ("rating", "time"):
            name = None
        else:
            source.check_column(name, source.flags[role])
        if name is not None:
            roles[role] = name
    if len(set(roles.values())) < len(roles):
        raise source.error(f"one column has two roles: {roles}; name different ones")
    return roles


def guess_id(source: Source, role: str, given: str | None, known: Sequence[str] = ()) -> str:
    """Find the id column of a table of items or users (`role`).

    `given` is the column that the user names; a column with one of the `known` names, which it has
    in other tables, needs no guess.

    Raises
    ------
    DataError
        No column or several could be it; the message names the flag.
    """
    if given is not None:
        return source.check_column(given, source.flags[role])
    for name in known:
        if name in source.table.column_names:
            return name
    name = _guess(source, role, set(), (*_KNOWN[role], _names("id")))
    assert name is not None  # of these roles a missing column is an error
    return name


def _guess(
    source: Source,
    role: str,
    taken: set[str],
    tiers: Sequence[frozenset[str]] | None = None,
) -> str | None:
    """Column of a role by name and content; of ratings and, in frames, times there may be none."""
    columns = [name for name in source.table.column_names if name not in taken]
    for tier in tiers or _KNOWN[role]:
        names = [name for name in columns if re.sub("[^a-z0-9]", "", name.lower()) in tier]
        found = [name for name in names if _FITS[role](source.table[name])]
        if found:
            break
    else:
        found = [n for n in columns if role == "time" and _looks_like_dates(source.table[n])]
    flag = source.flags[role]
    if len(found) > 1:
        raise source.error(
            f"{len(found)} columns could be the {role}: {', '.join(found)}; "
            f"say which with {flag}={found[0]}"
        )
    if found:
        return found[0]
    if role == "rating" or (role == "time" and not source.time_flag):
        return None
    more = f", or {flag}={NONE} if there are no times" if role == "time" else ""
    raise source.error(
        f"no column looks like the {role}; columns are {', '.join(source.table.column_names)}: "
        f"say which with {flag}=COLUMN{more}"
    )


# -- content ----------------------------------------------------------------------------------


def _fits_id(column: pa.ChunkedArray) -> bool:
    return is_id(column.type) or pa.types.is_dictionary(column.type)


def _fits_rating(column: pa.ChunkedArray) -> bool:
    kind = column.type
    return sample_matches(column, DECIMAL) if is_text(kind) else is_number(kind)


def _fits_time(column: pa.ChunkedArray) -> bool:
    kind = column.type
    if is_text(kind):
        return sample_matches(column, r"\d")
    return is_number(kind) or is_time(kind)


def _looks_like_dates(column: pa.ChunkedArray) -> bool:
    kind = column.type
    return is_time(kind) or (is_text(kind) and sample_matches(column, _DATE))


_FITS = {"user": _fits_id, "item": _fits_id, "rating": _fits_rating, "time": _fits_time}
