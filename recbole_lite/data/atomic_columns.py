"""Columns of an atomic file: Arrow parses them block by block, then they become pandas'."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from recbole_lite.data.atomic_checks import (
    Block,
    Layout,
    check_blank_lines,
    check_text,
    column_error,
    finite_number,
    number_error,
)
from recbole_lite.utils.errors import DataError

_NUMBER_BYTES = b"0123456789.eE+-"
_FIRST_BYTES = np.array([256**n - 1 for n in range(9)], dtype=np.uint64)


def parse_block(
    block: Block, layout: Layout, fields: Sequence[str], required: Sequence[str]
) -> tuple[int, dict[str, pa.Array]]:
    """Check whole lines, and parse `fields`; cells of `required` ones must not be empty.

    Returns
    -------
    (int, dict of str to pyarrow.Array)
        Number of rows, and the cells of each field, null where empty: numbers as int64 or
        float64, sequences of numbers as lists of float64, others as strings.

    Raises
    ------
    DataError
        Naming the line.
    """
    check_text(block, layout.path, layout.encoding)
    check_blank_lines(block, layout)
    names = {field: str(number) for number, field in enumerate(layout.types)}
    # A header of our own: Arrow strips a U+FEFF from the front of what it reads.
    data = layout.separator.join(names.values()).encode() + b"\n" + block.data
    if layout.encoding != "utf-8":
        data = data.decode(layout.encoding).encode()
    try:
        table = csv.read_csv(
            pa.BufferReader(data),
            csv.ReadOptions(use_threads=False, block_size=len(data)),
            csv.ParseOptions(
                delimiter=layout.separator, quote_char=False, ignore_empty_lines=False
            ),
            csv.ConvertOptions(
                column_types=dict.fromkeys(names.values(), pa.string()),
                include_columns=[names[field] for field in fields],
                null_values=[""],
                strings_can_be_null=True,
                check_utf8=False,
            ),
        )
    except pa.ArrowInvalid as error:
        raise column_error(block, layout, error) from None
    cells = {field: pa.concat_arrays(table[names[field]].chunks) for field in fields}
    for field in required:
        if cells[field].null_count:
            raise DataError(
                f"{layout.label(field)} is empty; every row needs it: fill it in or remove the row",
                layout.path,
                block.line + pc.index(cells[field].is_null(), True).as_py(),
            )
    for field in fields:
        if layout.types[field] == "float":
            cells[field] = _numbers(cells[field], layout, field, lambda row: block.line + row)
        elif layout.types[field] == "float_seq":
            cells[field] = _vectors(cells[field], layout, field, block.line)
    return table.num_rows, cells


def _numbers(
    cells: pa.StringArray, layout: Layout, field: str, line_of: Callable[[int], int]
) -> pa.Array:
    """Parse as int64 if all cells allow it, else as float64; `line_of`: place -> line."""
    written = _bytes(cells)
    if not written.translate(None, _NUMBER_BYTES):  # Arrow takes nan, inf, 0x1F and spaces too
        if b"+" in written:
            cells = pc.replace_substring_regex(cells, r"^\+([0-9.])", r"\1")
        for kind in (pa.int64(), pa.float64()):
            try:
                numbers = cells.cast(kind)
            except pa.ArrowInvalid:
                continue
            if kind == pa.int64() or pc.all(pc.is_finite(numbers)).as_py() is not False:
                return numbers
    # Slow: what Arrow parses otherwise than Python, or the cell to report.
    values: list[float | None] = []
    for place, text in enumerate(cells.to_pylist()):
        value = None if text is None else finite_number(text)
        if text is not None and (value is None or math.isinf(value)):
            raise number_error(text, layout, field, line_of(place))
        values.append(value)
    return pa.array(values, pa.float64())


def _bytes(cells: pa.StringArray) -> bytes:
    """All cells, one after the other."""
    if not len(cells):
        return b""
    _, offsets, data = cells.buffers()
    ends = np.frombuffer(offsets, np.int32)[[cells.offset, cells.offset + len(cells)]]
    return b"" if data is None else data[ends[0] : ends[1]].to_pybytes()


def _vectors(cells: pa.StringArray, layout: Layout, field: str, first_line: int) -> pa.ListArray:
    lists = pc.split_pattern(cells, layout.seq_separator)
    row_of = pc.list_parent_indices(lists)
    numbers = _numbers(lists.flatten(), layout, field, lambda i: first_line + row_of[i].as_py())
    ends = np.cumsum(pc.list_value_length(lists).fill_null(0).to_numpy(), dtype=np.int32)
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, numbers.cast(pa.float64(), safe=False))


def categories(parts: list[pa.StringArray]) -> pd.Series:
    """Categories in order of first appearance; null is missing.

    ``dtype="category"`` of pandas will not do: since 3.1 it turns tokens that all look like
    integers into integers.
    """
    words = [_words(part) for part in parts]
    if any(part is None for part in words):
        return _encoded(parts, pa.string()).to_pandas()
    codes = _encoded(words, pa.uint64())
    tokens = pa.array(codes.dictionary.to_numpy().astype("<u8").view("S8")).cast(pa.string())
    return pa.DictionaryArray.from_arrays(codes.indices, tokens).to_pandas()


def _encoded(parts: list[pa.Array], kind: pa.DataType) -> pa.DictionaryArray:
    return pa.chunked_array(parts, kind).dictionary_encode().combine_chunks()


def _words(cells: pa.StringArray) -> pa.UInt64Array | None:
    """Cells as integers, which are hashed several times as fast; None: one has over 8 bytes."""
    if not len(cells):
        return pa.array([], pa.uint64())
    _, offsets, _ = cells.buffers()
    ends = np.frombuffer(offsets, np.int32)[cells.offset : cells.offset + len(cells) + 1]
    lengths, text = np.diff(ends), _bytes(cells)
    if lengths.max() > 8 or b"\0" in text:  # NUL fills short cells up
        return None
    at_each_byte = np.ndarray(len(text) + 1, "<u8", text + bytes(8), strides=(1,))
    words = at_each_byte[ends[:-1] - ends[0]] & _FIRST_BYTES[lengths]
    return pa.array(words, mask=cells.is_null().to_numpy(zero_copy_only=False))


def _texts(parts: list[pa.StringArray]) -> pd.Series:
    return pd.Series(pa.chunked_array(parts).fill_null("").to_pandas(), dtype=str)


def _numeric(parts: list[pa.Array]) -> pd.Series:
    return pd.Series(np.concatenate([part.to_numpy(zero_copy_only=False) for part in parts]))


def _arrays(parts: list[pa.ListArray]) -> pd.Series:
    cells = np.empty(sum(map(len, parts)), dtype=object)
    row = 0
    for part in parts:
        vectors = np.split(part.values.to_numpy(), part.offsets.to_numpy()[1:-1])
        cells[row : row + len(part)] = vectors
        row += len(part)
    return pd.Series(cells)


# Type of a field -> what makes a column of its blocks.
FINISH: dict[str, Callable[[list[pa.Array]], pd.Series]] = {
    "token": categories,
    "token_seq": _texts,
    "float": _numeric,
    "float_seq": _arrays,
}
