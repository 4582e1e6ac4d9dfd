"""Raw ids of users and items by internal id; they identify the rows of a checkpoint.

RecBole numbers the tokens of a field in the order in which the data files mention them. The same
data with the lines in another order give other internal ids, and so other rows of an embedding
table. A checkpoint therefore keeps its vocabulary, and data that are read for it are numbered by
that vocabulary instead.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from recbole_lite.utils.errors import CheckpointError, OtherIdsError, listed

FORMAT_VERSION = 1
VOCABULARY_FILE = "vocabulary.jsonl"  # in the folder of a run
_HASHED = 2**20  # ids at a time


@dataclass
class Vocabulary:
    """Raw ids of the token fields of a data set: users, items, features.

    Attributes
    ----------
    tables : list of (list of str, list of str)
        Fields that share internal ids (aliases), and the raw ids of 1, 2, ...
    interactions : str or None
        SHA-256 of the users and items of the interactions, in the order in which they are used;
        None: unknown.
    source : str
        What messages call the checkpoint.
    grows : bool
        Whether data may have further ids, which come behind those of the checkpoint.
    """

    tables: list[tuple[list[str], list[str]]] = field(default_factory=list)
    interactions: str | None = None
    source: str = "the checkpoint"
    grows: bool = False

    def add(self, fields: Sequence[str], ids: Sequence[str]) -> None:
        """Add the raw ids of fields."""
        self.tables.append((list(map(str, fields)), list(map(str, ids))))
        self.__dict__.pop("_lines", None)

    @property
    def sha256(self) -> str:
        """Of all raw ids in their order; the interactions have no part in it."""
        return self._lines[1]

    @cached_property
    def _lines(self) -> tuple[bytes, str]:
        rows = (_json({"fields": fields, "ids": ids}) for fields, ids in self.tables)
        lines = "".join(rows).encode()
        return lines, hashlib.sha256(lines).hexdigest()

    def to_bytes(self) -> bytes:
        """Content of a file: a line of JSON that describes it, then a line for each table."""
        head = {
            "format_version": FORMAT_VERSION,
            "sha256": self.sha256,
            "interactions": self.interactions,
        }
        return _json(head).encode() + self._lines[0]

    @classmethod
    def from_bytes(cls, content: bytes, source: str) -> Vocabulary:
        """Read what :meth:`to_bytes` gave.

        Raises
        ------
        CheckpointError
            It is damaged, or of a newer version; the message begins with `source`.
        """
        first, _, lines = content.partition(b"\n")
        try:
            head = json.loads(first)
            version = head["format_version"]
            if isinstance(version, int) and version > FORMAT_VERSION:
                raise CheckpointError(
                    f"{source}: has format version {version}; this version of recbole-lite reads "
                    f"up to {FORMAT_VERSION}. Type: pip install --upgrade recbole-lite"
                )
            if head["sha256"] != hashlib.sha256(lines).hexdigest():
                raise ValueError("its checksum differs")
            tables = [json.loads(line) for line in lines.splitlines()]
            tables = [(_strings(table["fields"]), _strings(table["ids"])) for table in tables]
            read = cls(tables, head["interactions"], source)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CheckpointError(f"{source}: cannot be read, it is damaged: {error}") from None
        read.__dict__["_lines"] = lines, head["sha256"]
        return read


class Numbering:
    """Numbers the tokens of data by a checkpoint's vocabulary."""

    def __init__(self, vocabulary: Vocabulary):
        self.vocabulary = vocabulary
        self._differences: list[str] = []

    def arrange(self, fields: Sequence[str], found: pd.Index) -> tuple[pd.Index, np.ndarray]:
        """Arrange the raw ids that were found as the vocabulary has them.

        Parameters
        ----------
        fields : sequence of str
            Fields that share internal ids.
        found : pandas.Index
            Different raw ids, by first appearance.

        Returns
        -------
        (pandas.Index, numpy.ndarray)
            Raw ids in their order, and the place in it of each that was found. They stay as they
            are where the vocabulary does not have the fields, or has other ids, which
            :meth:`check` tells.
        """
        unchanged = found, np.arange(len(found))
        tables = self.vocabulary.tables
        shared = (ids for names, ids in tables if set(names) & set(fields))
        stored = next((pd.Index(ids, dtype=object) for ids in shared), None)
        if stored is None:
            return unchanged
        if not stored.is_unique:
            raise CheckpointError(f"{self.vocabulary.source}: a {fields[0]} stands twice in it")
        place = stored.get_indexer(found)
        new = found[place < 0]
        if self.vocabulary.grows:
            stored = stored.append(new)
            place, new = stored.get_indexer(found), new[:0]
        missing = stored[np.bincount(place[place >= 0], minlength=len(stored)) == 0]
        if len(new) or len(missing):
            self._differences.append(
                f"{len(stored):,} {fields[0]} in training, {len(found):,} here"
                + (f", {len(new):,} of them new ({listed(new)})" if len(new) else "")
                + (f", {len(missing):,} missing ({listed(missing)})" if len(missing) else "")
            )
            return unchanged
        return stored, place

    def check(self) -> None:
        """Raise an OtherIdsError where the data have other ids than the vocabulary."""
        if self._differences:
            raise OtherIdsError(
                f"{self.vocabulary.source}: its weights belong to other ids than the data: "
                f"{'; '.join(self._differences)}. Use the data of the training (data_path and "
                "filters), or train again"
            )


def interactions_sha256(*columns: np.ndarray) -> str:
    """SHA-256 of internal ids of users and items (and parts), ``[n]`` each, in their order."""
    found = hashlib.sha256()
    for column in columns:
        for begin in range(0, len(column), _HASHED):
            found.update(np.ascontiguousarray(column[begin : begin + _HASHED], dtype="<i8"))
    return found.hexdigest()


def _strings(found) -> list[str]:
    if not isinstance(found, list) or not {*map(type, found)} <= {str}:
        raise ValueError("not a list of ids")
    return found


def _json(content) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n"
