"""Files of precomputed item vectors: raw item ids with their vectors, block by block."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet
from safetensors import SafetensorError, safe_open

from recbole_lite.config.saved_config import BEST_FILE, load_config
from recbole_lite.data.arrow_columns import decoded, is_list, is_number, is_text
from recbole_lite.data.vocabulary import VOCABULARY_FILE, Vocabulary
from recbole_lite.utils.errors import CheckpointError, DataError, one_line, shorten

# Raw ids [b] (str) and vectors [b, d] (numbers of any type).
Block = tuple[np.ndarray, np.ndarray]

ID_NAMES = ("item_id", "id", "ids")  # of columns and arrays, after ITEM_ID_FIELD
VECTOR_NAMES = ("vectors", "vector", "embeddings", "embedding")
ITEM_TABLES = ("item_embedding.weight", "items.weight", "item_tower.vectors")  # of a model
BLOCK_ROWS = 8192  # bounds the memory
BLOCK_BYTES = 16 << 20  # of CSV
_ERRORS = (
    OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile, pa.ArrowException,
    SafetensorError,
)  # fmt: skip


def read_vector_file(path: Path, id_field: str, ids_path: Path | None) -> Iterator[Block]:
    """Read the ids and vectors of a file; its suffix is one of `FORMATS`.

    The ids are named `id_field` (``ITEM_ID_FIELD``), or one of `ID_NAMES`. `ids_path` is the file
    of the ids of a file of vectors alone; None: they are in the file, or beside it, in
    ``<stem>.ids.txt`` or ``<stem>.ids.npy``.

    Yields
    ------
    (ndarray of object [b], ndarray [b, d])
        d is the same within a block.

    Raises
    ------
    DataError
        The file cannot be read, has no ids, or holds something else than one vector per id.
    """
    names = tuple(dict.fromkeys((id_field.lower(), *ID_NAMES)))
    with _readable(path):
        yield from FORMATS[path.suffix.lower()](path, names, ids_path)


def read_run(folder: Path) -> Iterator[Block]:
    """Read the item embeddings of a finished run by the raw ids of its vocabulary.

    Raises
    ------
    CheckpointError, DataError
        The folder is no run, has no raw ids or no item embeddings, or is damaged.
    """
    field = load_config(folder)["settings"]["ITEM_ID_FIELD"]
    path, weights = folder / VOCABULARY_FILE, folder / BEST_FILE
    if not (path.is_file() and weights.is_file()):
        raise CheckpointError(
            f"item_vectors: {folder} has no {BEST_FILE} with {VOCABULARY_FILE}, its raw ids; name "
            "the folder of a finished run"
        )
    tables = Vocabulary.from_bytes(path.read_bytes(), str(path)).tables
    ids = next((ids for fields, ids in tables if field in fields), [])
    with _readable(weights), safe_open(weights, framework="pt") as file:
        name = next((name for name in ITEM_TABLES if name in file.keys()), None)  # noqa: SIM118
        if name is None:
            raise DataError(
                f"item_vectors: no item embeddings ({' or '.join(ITEM_TABLES)}); name a run of a "
                "model with a table of items, such as SASRec",
                weights,
            )
        table = file.get_slice(name)  # row 0: padding
        if table.get_shape()[0] <= len(ids):
            raise DataError(f"{name} has fewer rows than {path} has items", weights)
        for start in range(0, len(ids), BLOCK_ROWS):
            block = ids[start : start + BLOCK_ROWS]
            yield (
                np.array(block, dtype=object),
                table[start + 1 : start + 1 + len(block)].float().numpy(),
            )


def check_lengths(ids: Sequence[str], lengths: np.ndarray, path: Path) -> None:
    """Refuse vectors of different lengths; `lengths` is ``[b]``.

    Raises
    ------
    DataError
        With an item of another length than the first.
    """
    other = np.flatnonzero(lengths != lengths[:1])
    if len(other):
        raise DataError(
            f"item {ids[0]!r} has {lengths[0]} numbers, item {ids[other[0]]!r} has "
            f"{lengths[other[0]]}; all vectors must have the same length",
            path,
        )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn the errors of libraries that read a file into one line."""
    try:
        yield
    except FileNotFoundError as error:
        found = Path(error.filename or path)
        raise DataError("there is no such file; check the path", found) from None
    except _ERRORS as error:
        remedy = ""
        if "ickle" in str(error) or "Python objects" in str(error):
            remedy = (
                ". Pickled objects are never loaded: save numbers, vectors.astype('float32'), and "
                "ids as text, ids.astype(str)"
            )
        raise DataError(f"the file cannot be read: {one_line(error)}{remedy}", path) from error


# -- arrays -----------------------------------------------------------------------------------


def _npy(path: Path, id_names: tuple[str, ...], ids_path: Path | None) -> Iterator[Block]:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype.names is None:
        ids = _ids_beside(path, ids_path)
    else:
        id_name, name = _choose_arrays(array.dtype.names, id_names, path)
        ids = _ids_beside(path, ids_path) if ids_path or not id_name else array[id_name]
        array = array[name]
    yield from _rows(path, _as_text(ids, path), array, array.shape, array.dtype)


def _npz(path: Path, id_names: tuple[str, ...], ids_path: Path | None) -> Iterator[Block]:
    with np.load(path, allow_pickle=False) as file:
        id_name, name = _choose_arrays(file.files, id_names, path)
        ids = _ids_beside(path, ids_path) if ids_path or not id_name else file[id_name]
        array = file[name]
    yield from _rows(path, _as_text(ids, path), array, array.shape, array.dtype)


def _safetensors(path: Path, id_names: tuple[str, ...], ids_path: Path | None) -> Iterator[Block]:
    """Ids are a tensor of whole numbers, or a JSON list in the metadata of the file."""
    with safe_open(path, framework="pt") as file:
        id_name, name = _choose_arrays(file.keys(), id_names, path)
        listed = (file.metadata() or {}).get("ids")
        if ids_path or not (id_name or listed):
            ids = _ids_beside(path, ids_path)
        else:
            ids = file.get_tensor(id_name).numpy() if id_name else np.array(json.loads(listed))
        table = file.get_slice(name)
        is_number = table.get_dtype().startswith(("F", "I", "U", "BF"))
        dtype = np.dtype(np.float32) if is_number else table.get_dtype()
        yield from _rows(path, _as_text(ids, path), table, tuple(table.get_shape()), dtype)


def _choose_arrays(
    names: Sequence[str], id_names: tuple[str, ...], path: Path
) -> tuple[str | None, str]:
    """Name of the array of ids, if there is one, and of the array of vectors."""
    id_name, others = _split_names(names, id_names)
    chosen = [name for name in others if name.lower() in VECTOR_NAMES] or others
    if len(chosen) != 1:
        raise DataError(
            f"the file holds {', '.join(names) or 'nothing'}; name the array of item vectors "
            "'vectors' and that of their item ids 'ids'",
            path,
        )
    return id_name, chosen[0]


def _split_names(names: Sequence[str], id_names: tuple[str, ...]) -> tuple[str | None, list[str]]:
    """Name of the ids, if there is one, and the other names."""
    by_lower = {name.lower(): name for name in names}
    id_name = next((by_lower[name] for name in id_names if name in by_lower), None)
    return id_name, [name for name in names if name != id_name]


def _ids_beside(path: Path, ids_path: Path | None) -> np.ndarray:
    """Ids from a file of their own: an array, or text with one id a line."""
    beside = [path.with_suffix(".ids.txt"), path.with_suffix(".ids.npy")]
    found = ids_path or next((one for one in beside if one.is_file()), None)
    if found is None:
        raise DataError(
            "the file has no item ids, and the order of rows is no key; write the id of each row "
            f"to a line of {beside[0].name}, or name a file with item_vector_ids",
            path,
        )
    with _readable(found):
        if found.suffix.lower() == ".npy":
            return np.load(found, allow_pickle=False)
        return np.array(found.read_text(encoding="utf-8-sig").splitlines())


def _as_text(ids: np.ndarray, path: Path) -> np.ndarray:
    """Raw ids as str (dtype object), ``[n]``; whole numbers as they are written."""
    if ids.ndim != 1 or ids.dtype.kind not in "iuUS":
        raise DataError(
            f"item ids must be a list of texts or whole numbers, found {ids.dtype} "
            f"{list(ids.shape)}",
            path,
        )
    ids = np.char.decode(ids, "utf-8") if ids.dtype.kind == "S" else ids.astype(str)
    return ids.astype(object)


def _rows(path: Path, ids: np.ndarray, table, shape: tuple[int, ...], dtype) -> Iterator[Block]:
    """Blocks of a matrix that can be cut into rows, also one that stays on disk."""
    if len(shape) != 2 or shape[1] == 0 or getattr(dtype, "kind", "V") not in "fiu":
        raise DataError(
            f"item vectors must be a matrix of numbers, one row per item; found {dtype} "
            f"{list(shape)}",
            path,
        )
    if len(ids) != shape[0]:
        raise DataError(f"there are {shape[0]:,} vectors and {len(ids):,} item ids", path)
    for start in range(0, len(ids), BLOCK_ROWS):
        rows = table[start : start + BLOCK_ROWS]
        rows = rows.float().numpy() if hasattr(rows, "float") else np.asarray(rows)
        yield ids[start : start + BLOCK_ROWS], rows


# -- tables -----------------------------------------------------------------------------------


def _csv(path: Path, id_names: tuple[str, ...], ids_path: Path | None) -> Iterator[Block]:
    _refuse_ids_file(path, ids_path)
    reading = csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False)
    parsing = csv.ParseOptions(newlines_in_values=True)
    with csv.open_csv(path, reading, parsing) as file:
        id_name, names = _choose_columns(file.schema, id_names, path)
        is_json = pa.types.is_string(file.schema.field(names[0]).type)
    # Types of the first block may not be those of the next; an id is text: "007" is not 7.
    types = {id_name: pa.string(), **dict.fromkeys(names, pa.string() if is_json else pa.float64())}
    converting = csv.ConvertOptions(column_types=types, include_columns=[id_name, *names])
    with csv.open_csv(path, reading, parsing, converting) as file:
        for batch in file:
            yield from _from_batch(batch, id_name, names, path)


def _parquet(path: Path, id_names: tuple[str, ...], ids_path: Path | None) -> Iterator[Block]:
    _refuse_ids_file(path, ids_path)
    with parquet.ParquetFile(path) as file:
        id_name, names = _choose_columns(file.schema_arrow, id_names, path)
        for batch in file.iter_batches(BLOCK_ROWS, columns=[id_name, *names]):
            yield from _from_batch(batch, id_name, names, path)


def _refuse_ids_file(path: Path, ids_path: Path | None) -> None:
    if ids_path is not None:
        raise DataError("this file has a column of ids; leave item_vector_ids out", path)


def _choose_columns(
    schema: pa.Schema, id_names: tuple[str, ...], path: Path
) -> tuple[str, list[str]]:
    """Column of the ids, and the column of lists or the columns of numbers."""
    names = schema.names
    id_name, others = _split_names(names, id_names)
    if id_name is None or len(set(names)) < len(names):
        found = "no column of item ids" if id_name is None else "several columns of one name"
        raise DataError(
            f"there is {found} among {', '.join(map(repr, names))[:300]}; name one {id_names[0]}",
            path,
        )
    lists = [name for name in others if is_list(schema.field(name).type)]
    named = [name for name in others if name.lower() in VECTOR_NAMES]
    if len(lists) == 1:
        return id_name, lists
    chosen = named or others
    texts = [name for name in chosen if not is_number(schema.field(name).type)]
    if not chosen or (texts and len(named) != 1):
        raise DataError(
            f"{', '.join(map(repr, texts or names))[:300]}: not numbers; name the column of lists "
            "embedding, or leave one column per dimension and the ids",
            path,
        )
    return id_name, chosen


def _from_batch(
    batch: pa.RecordBatch, id_name: str, names: list[str], path: Path
) -> Iterator[Block]:
    ids, column = _column_of_ids(batch.column(id_name), path), batch.column(names[0])
    if is_number(column.type):
        columns = [batch.column(name).to_numpy(zero_copy_only=False) for name in names]
        yield ids, np.column_stack(columns).astype(np.float64)
        return
    if not is_list(column.type):
        column = _parse_lists(column, ids, path)
    has_vector = column.is_valid().to_numpy(zero_copy_only=False)
    ids, column = ids[has_vector], column.filter(pa.array(has_vector))
    if len(ids):
        lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
        check_lengths(ids, lengths, path)
        values = column.flatten()
        if not is_number(values.type) or not lengths[0]:
            raise DataError(f"{names[0]!r} holds no lists of numbers, but {column.type}", path)
        yield ids, values.to_numpy(zero_copy_only=False).reshape(len(ids), -1)


def _column_of_ids(column: pa.Array, path: Path) -> np.ndarray:
    column = decoded(column)
    if not (is_text(column.type) or pa.types.is_integer(column.type)):
        raise DataError(f"item ids must be texts or whole numbers, found {column.type}", path)
    if column.null_count:
        raise DataError(f"{column.null_count:,} rows have no item id; remove them", path)
    return column.cast(pa.string()).to_numpy(zero_copy_only=False)


def _parse_lists(column: pa.Array, ids: np.ndarray, path: Path) -> pa.Array:
    """Vectors that are written as JSON lists, as in CSV files; an empty cell is no vector."""

    def parsed(cells: Iterable[str | None]) -> pa.Array | None:
        try:
            lists = [json.loads(cell) if cell else None for cell in cells]
            return pa.array(lists, pa.list_(pa.float64()))
        except (ValueError, TypeError, RecursionError):
            return None

    cells = column.to_pylist()
    lists = parsed(cells)
    if lists is None:
        raw, cell = next(pair for pair in zip(ids, cells, strict=True) if parsed(pair[1:]) is None)
        raise DataError(
            f"item {raw!r}: {shorten(cell, 60)!r} is no list of numbers in JSON, such as "
            "[0.1, -0.2]; write json.dumps(vector.tolist())",
            path,
        )
    return lists


FORMATS: Mapping[str, Callable[[Path, tuple[str, ...], Path | None], Iterator[Block]]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".safetensors": _safetensors,
    ".parquet": _parquet,
    ".csv": _csv,
}
