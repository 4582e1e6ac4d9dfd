"""Item vectors by Ray: workers encode shards of the texts, this process keeps what they return.

The texts are sorted by length as a whole before they are divided, so that each batch holds the
texts that it holds in one process, and the vectors are the same. Workers read nothing but the
files of the language model. A shard is a file of the cache as soon as it is encoded: a command
that was killed goes on with the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from recbole_lite.text import vector_cache
from recbole_lite.text.encoding_warnings import warn_of_cut_texts
from recbole_lite.text.text_encoder import TextEncoder
from recbole_lite.utils.ray_session import RayOptions, check_workers, run_tasks, session

_SHARD_BATCHES = 64  # whole batches
_loaded: list[Any] = []  # of a worker process: the arguments of its encoder, and the encoder


def encode_on_ray(
    encoder: dict[str, Any],
    texts: list[str],
    show_progress: bool,
    *,
    shards: Path,
    key: str,
    options: RayOptions,
) -> torch.Tensor:
    """Encode texts on Ray's workers.

    Parameters
    ----------
    encoder : dict
        Arguments of :class:`TextEncoder`; its device is replaced by the workers'.
    texts : list of str, length n
    show_progress : bool
    shards : Path
        Folder for the shards; those of an earlier call that are valid are not encoded again.
    key : str
        Key of the whole in the cache.
    options : RayOptions
        With ``use_gpu``, workers have a GPU if the cluster has any.

    Returns
    -------
    Tensor [n, d], float32
        As :meth:`TextEncoder.encode` gives them.

    Raises
    ------
    ConfigError, MissingDependencyError
        Ray is missing, nobody answers, or a machine does not see the files of the model.
    ModelFilesError
        The files cannot be loaded, or a vector is not finite.
    OSError
        A shard cannot be written.
    """
    with session(options.address, options.use_gpu, "ray") as ray:
        has_gpu = options.use_gpu and ray.cluster_resources().get("GPU", 0) >= 1
        options = replace(options, use_gpu=has_gpu)
        folder = Path(encoder["folder"]).absolute()
        encoder = {**encoder, "folder": folder, "device": "cuda" if has_gpu else "cpu"}
        check_workers(ray, options, {"item_llm": folder})
        size = encoder["batch_size"] * _SHARD_BATCHES
        order = _by_length(ray, encoder, texts, size, options)
        plan = _Shards(texts, order, size, shards, key)
        with tqdm(total=len(texts), unit="text", disable=None if show_progress else True) as bar:
            return _all_vectors(ray, encoder, plan, options, bar)


@dataclass(frozen=True)
class _Shards:
    """Division of the texts; a shard is named by the place of its first text in `order`."""

    texts: list[str]
    order: torch.Tensor
    size: int
    folder: Path
    key: str

    def __iter__(self) -> Iterator[int]:
        return iter(range(0, len(self.texts), self.size))

    def places(self, start: int) -> torch.Tensor:
        return self.order[start : start + self.size]

    def part(self, start: int) -> list[str]:
        return [self.texts[i] for i in self.places(start).tolist()]

    def file(self, start: int) -> tuple[Path, str]:
        """Path and key of a shard's file."""
        inputs = vector_cache.inputs_digest(self.part(start), pooling="", max_length=None, dtype="")
        return self.folder / f"{start}.safetensors", vector_cache.cache_key(inputs, self.key)


def _by_length(
    ray, encoder: dict[str, Any], texts: list[str], size: int, options: RayOptions
) -> torch.Tensor:
    """Places of the texts, the longest first, in the order of `TextEncoder.encode`."""
    counts, cut, limit = np.zeros(len(texts), np.int32), [], 0
    parts = ((start, texts[start : start + size]) for start in range(0, len(texts), size))
    for start, result in run_tasks(ray, _count_tokens, encoder, parts, options):
        counts[start : start + size], more, limit = result
        cut += more
    warn_of_cut_texts(cut, len(texts), limit)
    return torch.from_numpy(np.argsort(-counts, kind="stable"))


def _all_vectors(
    ray, encoder: dict[str, Any], plan: _Shards, options: RayOptions, bar: tqdm
) -> torch.Tensor:
    """Rows of the shards that are kept already, then of the others, which are kept."""
    vectors = torch.empty(0)

    def fill(start: int, rows: torch.Tensor) -> None:
        nonlocal vectors
        if not len(vectors):
            vectors = torch.zeros(len(plan.texts), rows.size(1))
        vectors[plan.places(start)] = rows
        bar.update(len(rows))

    missing = {}
    for start in plan:
        path, key = plan.file(start)
        kept = vector_cache.load(path, key, len(plan.places(start)))
        if kept is None:
            missing[start] = path, key
        else:
            fill(start, kept)
    arguments = ((start, plan.part(start)) for start in missing)
    for start, found in run_tasks(ray, _encode, encoder, arguments, options):
        rows = torch.tensor(found)
        path, key = missing[start]
        vector_cache.store(path, rows, key, {})
        fill(start, rows)
    return vectors


# -- in a worker ------------------------------------------------------------------------------


def _count_tokens(
    encoder: dict[str, Any], start: int, texts: list[str]
) -> tuple[np.ndarray, list[int], int]:
    """Tokens of each text; of the texts that are cut; the most that are read."""
    model = _loaded_encoder(encoder)
    counts, cut = model.count_tokens(texts)
    return np.array(counts, np.int32), cut, model.max_length


def _encode(encoder: dict[str, Any], start: int, texts: list[str]) -> np.ndarray:
    return _loaded_encoder(encoder).encode(texts).numpy()


def _loaded_encoder(encoder: dict[str, Any]) -> TextEncoder:
    """Load it once for the many tasks of a process."""
    if not _loaded or _loaded[0] != encoder:
        _loaded[:] = [encoder, TextEncoder(**encoder)]
    return _loaded[1]
