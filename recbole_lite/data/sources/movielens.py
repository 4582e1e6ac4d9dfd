"""GroupLens' MovieLens, in the three layouts in which it was released.

Item files keep every movie of the source, rated or not, as RecBole's own copies do.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from typing import BinaryIO

import pandas as pd

from recbole_lite.data.sources.converter import INTER_TYPES, Converter, Table, text_table
from recbole_lite.data.sources.ratings import read_ratings
from recbole_lite.data.sources.source_files import SourceFiles
from recbole_lite.utils.errors import DataError

# "Title (1995)", "Title (1975-1979)", "Title (1995) (V)": the mark says "video" or "television"
_YEAR = re.compile(
    r"^(?P<title>.*?)\s*\((?P<year>\d{4})(?:[-\u2013]\d{0,4})?\)\s*(?:\((?:V|TV)\))?$"
)
USER_TYPES = dict.fromkeys(("user_id", "age", "gender", "occupation", "zip_code"), "token")
COLUMNS = tuple(INTER_TYPES)  # user, item, rating, time in all three layouts
RATINGS_HEADER = ("userId", "movieId", "rating", "timestamp")
MOVIES_HEADER = ["movieId", "title", "genres"]
NO_GENRE = "(no genres listed)"


def split_year(title: str) -> tuple[str, str]:
    """Split the year of release (of a range the first; "" if there is none) off a title.

    Examples
    --------
    >>> split_year("American President, The (1995)")
    ('American President, The', '1995')
    >>> split_year("Babylon 5")
    ('Babylon 5', '')
    """
    title = " ".join(title.split())
    match = _YEAR.match(title)
    return (match["title"], match["year"]) if match else (title, "")


def _item_types(genre_field: str) -> dict[str, str]:
    return {
        "item_id": "token",
        "movie_title": "token_seq",
        "release_year": "token",
        genre_field: "token_seq",
    }


def _item_row(item: str, title: str, genres: list[str]) -> list[str]:
    return [item, *split_year(title), " ".join(g for g in genres if g != NO_GENRE)]


def _fields(
    stream: BinaryIO, name: str, encoding: str, sep: str, at_least: int
) -> Iterator[list[str]]:
    """Split the lines of a text file; empty lines are left out."""
    text = io.TextIOWrapper(stream, encoding=encoding, newline="\n")
    for number, line in enumerate(text, start=1):
        line = line.rstrip("\r\n")
        if not line:
            continue
        fields = line.split(sep)
        if len(fields) < at_least:
            raise DataError(
                f"{at_least} fields separated by {sep!r} expected, found {len(fields)}",
                name,
                number,
            )
        yield fields


class MovieLensDat(Converter):
    """Files ``ratings.dat``, ``movies.dat``, ``users.dat`` with ``::`` between fields (1M, 10M)."""

    encoding: str = "iso-8859-1"  # of movies.dat in the 1M release; UTF-8 in the 10M release
    genre_field: str = "genre"  # RecBole's name for the genres
    has_users: bool = True  # the 10M release has no users.dat

    def interactions(self, files: SourceFiles) -> Table:
        """Read ``ratings.dat``."""
        with files.open("ratings.dat") as stream:
            content = stream.read().replace(b"::", b"\t")
        return read_ratings(io.BytesIO(content), "ratings.dat", "\t", COLUMNS)

    def items(self, files: SourceFiles, kept: pd.Index) -> Table:
        """Read ``movies.dat``; all movies are kept."""
        with files.open("movies.dat") as stream:
            lines = _fields(stream, "movies.dat", self.encoding, "::", 3)
            rows = [_item_row(f[0], "::".join(f[1:-1]), f[-1].split("|")) for f in lines]
        return text_table(_item_types(self.genre_field), rows)

    def users(self, files: SourceFiles) -> Table | None:
        """Read ``users.dat``: user, gender, age group, occupation code, zip code."""
        if not self.has_users:
            return None
        with files.open("users.dat") as stream:
            lines = _fields(stream, "users.dat", self.encoding, "::", 5)
            rows = [[user, age, gender, job, code] for user, gender, age, job, code in lines]
        return text_table(USER_TYPES, rows)


class MovieLens100K(Converter):
    """Files ``u.data``, ``u.item``, ``u.genre``, ``u.user`` of the 100K release."""

    genre_field: str = "class"  # RecBole's name for the genres in its copy of this set

    def interactions(self, files: SourceFiles) -> Table:
        """Read ``u.data``."""
        with files.open("u.data") as stream:
            return read_ratings(stream, "u.data", "\t", COLUMNS)

    def items(self, files: SourceFiles, kept: pd.Index) -> Table:
        """Read ``u.item``, whose last columns are a flag per genre of ``u.genre``."""
        with files.open("u.genre") as stream:
            genres = [f[0] for f in _fields(stream, "u.genre", "iso-8859-1", "|", 2)]
        rows = []
        with files.open("u.item") as stream:
            for fields in _fields(stream, "u.item", "iso-8859-1", "|", 5 + len(genres)):
                flags = fields[-len(genres) :]
                named = [g for g, flag in zip(genres, flags, strict=True) if flag == "1"]
                rows.append(_item_row(fields[0], fields[1], named))
        return text_table(_item_types(self.genre_field), rows)

    def users(self, files: SourceFiles) -> Table:
        """Read ``u.user``: user, age, gender, occupation, zip code."""
        with files.open("u.user") as stream:
            rows = [f[:5] for f in _fields(stream, "u.user", "iso-8859-1", "|", 5)]
        return text_table(USER_TYPES, rows)


class MovieLensCsv(Converter):
    """Files ``ratings.csv`` and ``movies.csv`` with a header (20M, 25M, 32M, latest)."""

    genre_field: str = "genre"  # RecBole's name for the genres

    def interactions(self, files: SourceFiles) -> Table:
        """Read ``ratings.csv``."""
        with files.open("ratings.csv") as stream:
            return read_ratings(stream, "ratings.csv", ",", COLUMNS, RATINGS_HEADER)

    def items(self, files: SourceFiles, kept: pd.Index) -> Table:
        """Read ``movies.csv``; titles with a comma are quoted in it."""
        rows = []
        with files.open("movies.csv") as stream:
            reader = csv.DictReader(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""))
            if reader.fieldnames != MOVIES_HEADER:
                found = reader.fieldnames
                raise DataError(f"header {MOVIES_HEADER} expected, found {found}", "movies.csv", 1)
            for record in reader:
                genres = record["genres"].split("|")
                rows.append(_item_row(record["movieId"], record["title"], genres))
        return text_table(_item_types(self.genre_field), rows)
