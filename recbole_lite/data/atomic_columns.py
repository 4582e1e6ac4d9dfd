"""Columns of an atomic file, put together block by block."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import pandas as pd

from recbole_lite.data.atomic_checks import Block, Layout, finite_number, number_error


class Column(ABC):
    """One field of a file that is being read.

    Attributes
    ----------
    dtype : type or None
        What pandas is asked to parse the cells as; None lets it infer a number.
    """

    dtype: type | None = object

    def __init__(self, field: str, layout: Layout, seq_separator: str):
        self.field = field
        self.layout = layout
        self.seq_separator = seq_separator
        self.parts: list[np.ndarray] = []

    @abstractmethod
    def add(self, values: np.ndarray, block: Block) -> None:
        """Take the cells of a block, as pandas parsed them."""

    @abstractmethod
    def finish(self) -> pd.Series:
        """All cells taken so far."""


class TokenCategories:
    """Strings of a column as categories in order of first appearance; empty ones are missing.

    ``dtype="category"`` of pandas will not do: since 3.1 it turns tokens that all look
    like integers into integers. Each distinct token is held once.
    """

    def __init__(self):
        self.code_of: dict[str, int] = {"": -1}
        self.codes: list[np.ndarray] = []

    def add(self, values: np.ndarray) -> None:
        """Number the tokens of a block."""
        codes, tokens = pd.factorize(values)
        code_of = self.code_of
        numbers = (code_of.setdefault(token, len(code_of) - 1) for token in tokens)
        self.codes.append(np.fromiter(numbers, dtype=np.int32, count=len(tokens))[codes])

    def finish(self) -> pd.Categorical:
        """All values taken so far; empties the object."""
        codes, categories = np.concatenate(self.codes), pd.Index(list(self.code_of)[1:], dtype=str)
        self.code_of, self.codes = {"": -1}, []
        return pd.Categorical.from_codes(codes, categories=categories)


class TokenColumn(Column):
    """Categories in order of first appearance; an empty cell is missing."""

    def __init__(self, field: str, layout: Layout, seq_separator: str):
        super().__init__(field, layout, seq_separator)
        self.categories = TokenCategories()

    def add(self, values: np.ndarray, block: Block) -> None:
        """Number the tokens of the block."""
        self.categories.add(values)

    def finish(self) -> pd.Series:
        """Series of dtype category."""
        return pd.Series(self.categories.finish())


class TextColumn(Column):
    """The cell as it stands."""

    def add(self, values: np.ndarray, block: Block) -> None:
        """Take the strings."""
        self.parts.append(values)

    def finish(self) -> pd.Series:
        """Series of pandas' string dtype: str, before pandas 3 object."""
        return pd.Series(np.concatenate(self.parts), dtype=str)


class FloatColumn(Column):
    """int64 as long as every cell is an integer, else float64; an empty cell is NaN."""

    dtype = None

    def add(self, values: np.ndarray, block: Block) -> None:
        """Take numbers; look closer where pandas found something else."""
        exact = values.dtype == np.int64
        if not exact and (values.dtype != np.float64 or np.isinf(values).any()):
            values = self._from_cells(block)
        self.parts.append(values)

    def _from_cells(self, block: Block) -> np.ndarray:
        """Parse cell by cell: integers beyond 64 bits, or the wrong one to report."""
        separator = self.layout.separator.encode()
        index = list(self.layout.types).index(self.field)
        values = []
        for row, line in enumerate(block.data[:-1].split(b"\n")):
            cell = line.split(separator)[index].decode(self.layout.encoding)
            value = finite_number(cell) if cell else math.nan
            if value is None or math.isinf(value):
                raise number_error(cell, self.layout, self.field, block.line + row)
            values.append(value)
        return np.array(values, dtype=np.float64)

    def finish(self) -> pd.Series:
        """Series of dtype int64 or float64."""
        return pd.Series(np.concatenate(self.parts))


class VectorColumn(Column):
    """One array of float64 per cell."""

    def add(self, values: np.ndarray, block: Block) -> None:
        """Split and parse every cell."""
        arrays = np.empty(len(values), dtype=object)
        for row, cell in enumerate(values):
            arrays[row] = self._vector(cell, block.line + row)
        self.parts.append(arrays)

    def _vector(self, cell: str, line: int) -> np.ndarray:
        elements = cell.split(self.seq_separator) if cell else []
        numbers = list(map(finite_number, elements))
        for element, number in zip(elements, numbers, strict=True):
            if number is None or math.isinf(number):
                raise number_error(element, self.layout, self.field, line)
        return np.array(numbers, dtype=np.float64)

    def finish(self) -> pd.Series:
        """Series of dtype object."""
        return pd.Series(np.concatenate(self.parts), dtype=object)


COLUMNS: dict[str, type[Column]] = {
    "token": TokenColumn,
    "token_seq": TextColumn,
    "float": FloatColumn,
    "float_seq": VectorColumn,
}
