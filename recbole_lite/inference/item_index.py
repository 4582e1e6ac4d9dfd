"""Approximate index of item vectors by inner product (faiss, extra ``ann``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np

from recbole_lite.utils.errors import CheckpointError, MissingDependencyError, one_line
from recbole_lite.utils.files import write_atomically

Blocks = Callable[[], Iterable[np.ndarray]]
# Fewer items are compared one by one. Lists of more items are searched less exactly, but faster.
_FEWEST, _SHARE_OF_LISTS, _FEWEST_LISTS = 10_000, 1 / 8, 16
_PER_LIST = 40  # items from which the centre of a list is computed


def check_installed() -> None:
    """Refuse to go on without faiss.

    Raises
    ------
    MissingDependencyError
    """
    try:
        import faiss  # noqa: F401
    except ImportError:
        raise MissingDependencyError(
            "runtime: ann: faiss is not installed; type: pip install 'recbole-lite[ann]'"
        ) from None


def open_index(path: Path, shape: tuple[int, int], blocks: Blocks) -> Any:
    """Index of a file, which is made from blocks of vectors if it does not exist.

    Parameters
    ----------
    path : Path
    shape : tuple of int
        Number and size of the vectors.
    blocks : callable
        Gives the vectors, in blocks of ``[n, d]`` float32, at each call; the next block can
        overwrite one.

    Raises
    ------
    CheckpointError
        The file is damaged, or has another number of vectors or another size.
    """
    import faiss

    if not path.exists():
        index = _build(shape, blocks)
        try:
            write_atomically(path, lambda name: faiss.write_index(index, str(name)))
        except (OSError, RuntimeError) as error:  # another user's folder, a full disk
            getLogger().warning(
                f"{path}: cannot be written, the next start makes it again: {one_line(error)}"
            )
        for old in {*path.parent.glob(f"model-*{path.suffix}")} - {path}:
            old.unlink(missing_ok=True)  # of other weights
        return index
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise CheckpointError(f"{path}: damaged ({one_line(error)}); delete it") from None
    if (index.ntotal, index.d) != shape:
        raise CheckpointError(
            f"{path}: an index of {index.ntotal:,} vectors of {index.d} numbers, and the model has "
            f"{shape[0]:,} of {shape[1]}: it is another model's; delete it"
        )
    return index


def _build(shape: tuple[int, int], blocks: Blocks) -> Any:
    """Lists of items by their nearest centre, in float16; few items: one list."""
    import faiss

    n, d = shape
    lists = 2 ** round(math.log2(math.sqrt(n))) if n >= _FEWEST else 0
    kind = f"IVF{lists},SQfp16" if lists else "SQfp16"
    index = faiss.index_factory(d, kind, faiss.METRIC_INNER_PRODUCT)
    step = max(n // max(lists * _PER_LIST, 1), 1)
    index.train(np.concatenate([block[::step].copy() for block in blocks()]))
    for block in blocks():
        index.add(block)
    return index


def search(index: Any, users: np.ndarray, k: int) -> np.ndarray:
    """Places of about the `k` vectors with the largest products, ``[B, k]``; -1: no more."""
    import faiss

    options = None
    if lists := getattr(index, "nlist", 0):
        probed = max(int(lists * _SHARE_OF_LISTS), _FEWEST_LISTS)
        options = faiss.SearchParametersIVF()
        options.nprobe = min(probed, lists)
    return index.search(np.ascontiguousarray(users), k, params=options)[1]
