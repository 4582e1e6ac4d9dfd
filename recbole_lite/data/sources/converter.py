"""Interface of a converter, the tables that it returns, and the converter of atomic files."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import pandas as pd

from recbole_lite.data.atomic_reader import read_atomic
from recbole_lite.data.sources.source_files import SourceFiles
from recbole_lite.data.sources.strict_model import StrictModel
from recbole_lite.utils.errors import DataError

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


class AtomicCopy(Converter):
    """Files ``<stem>.inter``, and ``.item`` and ``.user`` where they belong to the set."""

    stem: str
    has_items: bool = True
    has_users: bool = False

    def interactions(self, files: SourceFiles) -> Table:
        """Read ``.inter``."""
        return self._read(files, "inter", required=("user_id", "item_id"))

    def items(self, files: SourceFiles, kept: pd.Index) -> Table | None:
        """Read ``.item``; all rows are kept."""
        return self._read(files, "item", unique="item_id") if self.has_items else None

    def users(self, files: SourceFiles) -> Table | None:
        """Read ``.user``."""
        return self._read(files, "user", unique="user_id") if self.has_users else None

    def _read(self, files: SourceFiles, ending: str, required=(), unique=None) -> Table:
        path, member = files.place(f"{self.stem}.{ending}")
        if member is not None:
            raise DataError("unpack the archive first and give its folder with --from", path)
        table = read_atomic(path, required=required, unique=unique)
        return Table(table.types, table.frame)
