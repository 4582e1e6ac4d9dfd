"""Item vectors that the user has computed, in place of the Item LLM's (``item_vectors``)."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from recbole_lite.config.saved_config import CONFIG_FILE
from recbole_lite.data.atomic_reader import read_atomic, read_header
from recbole_lite.text.vector_files import (
    FORMATS,
    Block,
    check_lengths,
    read_run,
    read_vector_file,
)
from recbole_lite.utils.errors import ConfigError, DataError, listed
from recbole_lite.utils.suggestions import suggest


def load_precomputed(config, dataset) -> tuple[torch.Tensor, torch.Tensor, str]:
    """Vectors of ``item_vectors``, matched to the items by their raw ids.

    Parameters
    ----------
    config : LiteConfig or mapping
        Keys ``item_vectors``, ``item_vector_ids``; of the data set: ``seq_separator``,
        ``additional_feat_suffix``, ``alias_of_item_id``.
    dataset : LiteSequentialDataset
        Has the raw ids.

    Returns
    -------
    (Tensor [n_items, d], float32; BoolTensor [n_items]; str)
        By internal id: vectors, zeros where there is none; whether there is one; the SHA-256 of
        both. A warning counts items without a vector, and vectors of zeros.

    Raises
    ------
    ConfigError
        ``item_vectors`` names nothing that holds vectors, or only vectors of other ids.
    DataError
        The file is malformed, an item has two vectors, or one that is not finite.
    """
    source, blocks = _open_source(config, dataset)
    tokens = np.array([str(token) for token in dataset.field2id_token[dataset.iid_field]], object)
    vectors, has_vector, n_others = _place(blocks, tokens, source)
    _report(source, vectors, has_vector, tokens, n_others)
    digest = hashlib.sha256(vectors)
    digest.update(has_vector)
    return torch.from_numpy(vectors), torch.from_numpy(has_vector), digest.hexdigest()


def _open_source(config, dataset) -> tuple[Path, Iterator[Block]]:
    """Source of the vectors: a file, the folder of a run, or a column of the data set."""
    name = config["item_vectors"]
    path = Path(name).expanduser()
    ids = config["item_vector_ids"]
    ids_path = Path(ids).expanduser() if ids else None
    if path.suffix.lower() in FORMATS:
        return path, read_vector_file(path, dataset.iid_field, ids_path)
    if ids_path:
        raise ConfigError("item_vector_ids: only for item_vectors in a file without ids (.npy)")
    if (path / CONFIG_FILE).is_file():
        return path, read_run(path)
    return _read_column(name, config, dataset)


def _read_column(name: str, config, dataset) -> tuple[Path, Iterator[Block]]:
    """A ``float_seq`` column of ``.item`` or of a file of ``additional_feat_suffix``."""
    suffixes = config["additional_feat_suffix"] or []
    known = []
    for suffix in ("item", *([suffixes] if isinstance(suffixes, str) else suffixes)):
        path = Path(dataset.dataset_path, f"{dataset.dataset_name}.{suffix}")
        header = read_header(path, **dataset._format) if path.is_file() else {}
        if header.get(name) == "float_seq":
            return path, _column_blocks(path, header, name, config, dataset)
        known += [field for field, kind in header.items() if kind == "float_seq"]
    raise ConfigError(
        f"item_vectors: {name!r} is no file of vectors ({', '.join(FORMATS)}), no folder of a run "
        f"({CONFIG_FILE}), and no float_seq column of .item or of a file of "
        f"additional_feat_suffix ({', '.join(known) or 'there is none'}){suggest(name, known)}"
    )


def _column_blocks(path: Path, header, name: str, config, dataset) -> Iterator[Block]:
    tokens = [field for field, kind in header.items() if kind == "token"]
    aliases = config["alias_of_item_id"] or []
    named = [field for field in (dataset.iid_field, *aliases) if field in tokens]
    id_field = next(iter(named or (tokens if len(tokens) == 1 else [])), None)
    if id_field is None:
        raise DataError(
            f"no column of item ids ({dataset.iid_field}, alias_of_item_id) beside {name!r}", path
        )
    frame = read_atomic(
        path,
        columns=[id_field, name],
        required=[id_field],
        unique=id_field,
        seq_separator=config["seq_separator"],
        **dataset._format,
    ).frame
    lengths = frame[name].map(len).to_numpy()
    ids, cells = frame[id_field].astype(object).to_numpy()[lengths > 0], frame[name][lengths > 0]
    check_lengths(ids, lengths[lengths > 0], path)
    if len(ids):
        yield ids, np.stack(cells.to_list())


def _place(
    blocks: Iterable[Block], tokens: np.ndarray, source: Path
) -> tuple[np.ndarray, np.ndarray, int]:
    """Vectors ``[n_items, d]`` by internal id, which have one, and the number of other ids."""
    index = pd.Index(tokens[1:])  # without padding
    vectors, placed = None, [np.zeros(0, dtype=int)]
    examples: Sequence[str] = ()
    for ids, block in blocks:
        if vectors is None:
            vectors = np.zeros((len(tokens), block.shape[1]), dtype=np.float32)
            examples = ids[:3]
        check_lengths([examples[0], ids[0]], np.array([vectors.shape[1], block.shape[1]]), source)
        placed.append(index.get_indexer(ids) + 1)  # 0: not an item of the data
        _put(vectors, placed[-1], block, tokens, source)
    rows = np.concatenate(placed)
    known = rows[rows > 0]
    if not len(known):
        raise ConfigError(
            f"item_vectors: none of the {len(rows):,} ids in {source} is an item of the data "
            f"(in it: {', '.join(examples) or 'nothing'}; items: {listed(tokens[1:])}); it must "
            "have the raw ids of the data set"
        )
    counts = np.bincount(known, minlength=len(tokens))
    if counts.max() > 1:
        twice = int(counts.argmax())
        raise DataError(
            f"item {tokens[twice]!r} has {counts[twice]} vectors; leave one of them", source
        )
    return vectors, counts > 0, len(rows) - len(known)


def _put(vectors: np.ndarray, rows: np.ndarray, block: np.ndarray, tokens, source: Path) -> None:
    """Write a block's vectors of known items to their rows."""
    is_item = rows > 0
    with np.errstate(over="ignore"):  # reported with its item
        part = np.asarray(block[is_item], dtype=np.float32)
    finite = np.isfinite(part).all(axis=1)
    if not finite.all():
        item = tokens[rows[is_item][finite.argmin()]]
        raise DataError(
            f"the vector of item {item!r} has an empty cell, NaN, infinity, or a number beyond "
            "float32; mend it or leave the item out",
            source,
        )
    vectors[rows[is_item]] = part


def _report(source: Path, vectors, has_vector, tokens, n_others: int) -> None:
    """Log what was read, and warn of items without a vector and of vectors of zeros."""
    logger, n_items = logging.getLogger(), len(tokens) - 1
    logger.info(
        f"item vectors of {source}: {has_vector.sum():,} of {n_items:,} items, "
        f"{vectors.shape[1]:,} dimensions; item_llm and item_text_* are not used"
        + (f"; {n_others:,} vectors are of no item of the data" if n_others else "")
    )
    missing = np.flatnonzero(~has_vector)[1:]
    if len(missing):
        logger.warning(
            f"{source}: {len(missing):,} of {n_items:,} items ({len(missing) / n_items:.1%}) have "
            f"no vector (item ids: {listed(tokens[missing])}); each gets a learned vector "
            "instead"
        )
    zeros = np.flatnonzero(has_vector & ~vectors.any(axis=1))
    if len(zeros):
        logger.warning(
            f"{source}: the vectors of {len(zeros):,} items are zeros (item ids: "
            f"{listed(tokens[zeros])}); leave out items whose vectors are unknown"
        )
