"""Interface of a converter, and the tables that it returns."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import pandas as pd

from recbole_lite.data.sources.source_files import SourceFiles
from recbole_lite.data.sources.strict_model import StrictModel

INTER_TYPES = {
    "user_id": "token",
    "item_id": "token",
    "rating": "float",
    "timestamp": "float",
}


class Table(NamedTuple):
    """Columns with RecBole's types: what one atomic file holds."""

    types: dict[str, str]
    frame: pd.DataFrame


class Converter(StrictModel):
    """Reads one layout of source files.

    The fields of a subclass are the ``options`` of a ``dataset_meta`` file, its defaults the
    layout as its publisher writes it.
    """

    @abstractmethod
    def interactions(self, files: SourceFiles) -> Table:
        """Read all interactions, in the order of the source."""

    @abstractmethod
    def items(self, files: SourceFiles, kept: pd.Index) -> Table | None:
        """Read the items; `kept` holds the ids that survived the filters."""

    def users(self, files: SourceFiles) -> Table | None:
        """Read the users, where the source describes them."""
        return None


def text_table(types: dict[str, str], rows: list[list[str]]) -> Table:
    """Table of strings; each row has the order of `types` (column -> type)."""
    return Table(types, pd.DataFrame(rows, columns=list(types), dtype=str))
