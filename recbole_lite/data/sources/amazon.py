"""Amazon reviews of the McAuley lab: ratings as CSV, products as JSON lines."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from typing import Any

import pandas as pd
from pydantic import model_validator

from recbole_lite.data.sources.converter import INTER_TYPES, Converter, Table, text_table
from recbole_lite.data.sources.ratings import read_ratings
from recbole_lite.data.sources.source_files import SourceFiles
from recbole_lite.data.sources.strict_model import Tuple
from recbole_lite.utils.errors import DataError

_HIDDEN = re.compile(r"<!--.*?-->|<(script|style)\b.*?(</\1\s*>|$)", re.DOTALL | re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f\ud800-\udfff]")  # and halves of surrogate pairs
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
# Products whose page was read wrongly have a piece of its script for a title. The publisher's
# page of the 2018 release gives this word as the way to find them.
PAGE_SCRIPT = "getTime"


def clean_text(value: Any, joint: str = " ") -> str:
    r"""Plain text of a metadata field.

    HTML entities are resolved (also those that were escaped twice), tags, comments,
    scripts and control characters dropped, and runs of white space, tabs and line ends
    become one space. `joint` stands between the parts of a list, of which empty ones are left
    out; what is neither a list nor a string gives an empty string.

    Examples
    --------
    >>> clean_text("Ben &amp;amp; Jerry<br>\n  (DVD)")
    'Ben & Jerry (DVD)'
    >>> clean_text(["Toys &amp; Games", "</span>", "Puzzles"], joint=", ")
    'Toys & Games, Puzzles'
    """
    if isinstance(value, list):
        parts = (clean_text(part) for part in value)
        return joint.join(part for part in parts if part)
    if not isinstance(value, str):
        return ""
    text = html.unescape(html.unescape(value)) if "&" in value else value
    if "<" in text:
        text = _TAG.sub(" ", _HIDDEN.sub(" ", text))
    return " ".join(_CONTROL.sub("", text).split())


def _is_title(value: Any) -> bool:
    return isinstance(value, str) and PAGE_SCRIPT not in value and bool(clean_text(value))


class Amazon(Converter):
    """A ratings file and a metadata file of one product category, gzipped or not."""

    ratings: str  # CSV
    metadata: str  # one JSON object per product and line
    columns: Tuple[str] = ("item_id", "user_id", "rating", "timestamp")  # order in `ratings`
    header: Tuple[str] = ()  # what the first line must hold; none: there is no header
    item_key: str = "asin"  # of the product's id in `metadata`
    # Column of .item -> key in `metadata`, in the order of the file.
    fields: dict[str, str] = {  # noqa: RUF012 - pydantic copies defaults
        "title": "title",
        "brand": "brand",
        "categories": "category",
        "description": "description",
    }
    title_field: str = "title"  # a product without a text in it gets no row
    # Field -> separator of the parts of a list, where it is not a space.
    list_joints: dict[str, str] = {"categories": ", "}  # noqa: RUF012

    @model_validator(mode="after")
    def _check(self) -> Amazon:
        if sorted(self.columns) != sorted(INTER_TYPES):
            raise ValueError(f"columns: {', '.join(INTER_TYPES)} expected in the file's order")
        if self.title_field not in self.fields:
            raise ValueError(f"title_field: {self.title_field!r} is not among the fields")
        return self

    def interactions(self, files: SourceFiles) -> Table:
        """Read the ratings; ids become categories, so that each is held once."""
        with files.open(self.ratings) as stream:
            return read_ratings(stream, self.ratings, ",", self.columns, self.header)

    def items(self, files: SourceFiles, kept: pd.Index) -> Table:
        """Read the products in `kept`, one line at a time.

        Of several records of one product the first with a usable title counts.
        """
        wanted = set(kept)
        types = {"item_id": "token", **dict.fromkeys(self.fields, "token_seq")}
        title_key = self.fields[self.title_field]
        rows = []
        for record in self._records(files):
            item = record.get(self.item_key)
            if isinstance(item, str) and item in wanted and _is_title(record.get(title_key)):
                rows.append([item, *self._texts(record)])
                wanted.discard(item)
        if len(kept) and not rows:
            raise DataError(
                f"none of the {len(kept):,} items of {self.ratings} is described in it under "
                f"the key {self.item_key!r}: is it the metadata of the same category?",
                self.metadata,
            )
        return text_table(types, rows)

    def _texts(self, record: dict[str, Any]) -> list[str]:
        return [
            clean_text(record.get(key), self.list_joints.get(name, " "))
            for name, key in self.fields.items()
        ]

    def _records(self, files: SourceFiles) -> Iterator[dict[str, Any]]:
        with files.open(self.metadata) as stream:
            for number, line in enumerate(stream, start=1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except ValueError as error:
                    raise DataError(f"not JSON: {error}", self.metadata, number) from error
                if not isinstance(record, dict):
                    raise DataError("a JSON object expected", self.metadata, number)
                yield record
