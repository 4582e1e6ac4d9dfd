"""Columns of Arrow: kinds of values, forms of text, distinct values."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SAMPLE = 1000  # values that a guess looks at
WHOLE = r"^[+-]?\d{1,18}$"
DECIMAL = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?$"


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is one of strings."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def is_number(kind: pa.DataType) -> bool:
    """Whether a type is one of numbers."""
    whole = pa.types.is_integer(kind)
    return whole or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def is_list(kind: pa.DataType) -> bool:
    """Whether a type is one of lists."""
    types = pa.types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def is_id(kind: pa.DataType) -> bool:
    """Whether values of a type can be ids."""
    return is_text(kind) or is_number(kind) or pa.types.is_binary(kind)


def is_time(kind: pa.DataType) -> bool:
    """Whether a type is one of times or dates."""
    return pa.types.is_timestamp(kind) or pa.types.is_date(kind)


def sample_matches(column: pa.ChunkedArray, pattern: str) -> bool:
    """Whether the first values of a column of strings match, trimmed; empty ones do not count."""
    part = pc.utf8_trim_whitespace(column.slice(0, SAMPLE))
    part = part.filter(pc.not_equal(part, ""))
    return len(part) > 0 and bool(pc.all(pc.match_substring_regex(part, pattern)).as_py())


def decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Column without a dictionary."""
    kind = column.type
    return column.cast(kind.value_type) if pa.types.is_dictionary(kind) else column


def distinct(column: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """Different values by first appearance, and the place of each row's value among them.

    The place of a missing value is -1.
    """
    encoded = column.dictionary_encode().combine_chunks()
    return encoded.dictionary, encoded.indices.fill_null(-1).to_numpy()


def whole_numbers(values: np.ndarray) -> np.ndarray:
    """Floating-point values as int64 where all of them are whole, else as they are."""
    whole = (values % 1 == 0).all() and np.abs(values).max(initial=0) < 2**53
    return values.astype(np.int64) if whole else values
