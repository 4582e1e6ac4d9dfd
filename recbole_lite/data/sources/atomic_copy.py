"""Atomic files that somebody made already: read strictly, taken over as they are."""

from __future__ import annotations

import pandas as pd

from recbole_lite.data.atomic_reader import read_atomic
from recbole_lite.data.sources.converter import Converter, Table
from recbole_lite.data.sources.source_files import SourceFiles
from recbole_lite.utils.errors import DataError


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
