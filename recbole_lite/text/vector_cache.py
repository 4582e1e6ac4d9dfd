"""Cache of item vectors on disk: keyed by content, verified on reading, written atomically."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from recbole_lite.utils.files import leftovers, write_atomically

CACHE_VERSION = 1  # raise when the same inputs give other vectors than before

_TENSOR = "vectors"
_DAMAGE = (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError)


def inputs_digest(texts: Sequence[str], *, pooling: str, max_length: int | None, dtype: str) -> str:
    """Hash of all inputs of the vectors except the model, as configured.

    Texts are in the order of internal ids, ``""`` for an item without text.
    """
    joined = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        joined.update(f"{len(data)}:".encode() + data)  # lengths: ["ab", "c"] is not ["a", "bc"]
    return _digest(
        {
            "version": CACHE_VERSION,
            "texts": joined.hexdigest(),
            "n_items": len(texts),
            "pooling": pooling,
            "max_length": max_length,
            "dtype": dtype,
        }
    )


def cache_key(inputs: str, weights: str) -> str:
    """Key of a matrix of item vectors: hash of the inputs (`inputs_digest`) and of the model.

    `weights` are from `recbole_lite.text.llm_files.weights_fingerprint`.
    """
    return _digest({"inputs": inputs, "weights": weights})


def cache_path(folder: Path, dataset: str, llm: str, key: str) -> Path:
    """``<dataset>-<short name of the llm>-<16 digits of the key>.safetensors`` in `folder`."""
    return folder / f"{_stem(dataset, llm)}-{key[:16]}.safetensors"


def load(path: Path, key: str, n_items: int) -> torch.Tensor | None:
    """Read a cache file, if it is valid, has this full key and `n_items` rows.

    Returns
    -------
    Tensor [n_items, d], float32, or None
        None where there is no file, and (after a warning with the reason) where it is damaged or
        has another key.
    """
    if not path.is_file():
        return None
    vectors, problem = _read(path, {"key": key}, n_items)
    if problem:
        logging.getLogger().warning(f"{path}: {problem}; the item vectors are encoded again")
    return vectors


def store(path: Path, vectors: torch.Tensor, key: str, about: Mapping[str, str]) -> None:
    """Write a cache file under a temporary name, then rename it.

    Parameters
    ----------
    path : Path
        From `cache_path`; the caller holds its lock (`locked`).
    vectors : Tensor [n_items, d], float32
        Row i belongs to internal item id i.
    key : str
        The full key.
    about : Mapping[str, str]
        Further metadata of the file; `find_without_weights` needs ``inputs`` and ``llm``.
    """
    vectors = vectors.detach().to("cpu", torch.float32).contiguous()
    metadata = {**about, "key": key, "n_items": str(len(vectors)), "sha256": _sha256(vectors)}
    for stale in leftovers(path):  # of a killed process: we hold the lock
        stale.unlink(missing_ok=True)
    content = save({_TENSOR: vectors}, metadata=metadata)
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def find_or_make(
    path: Path | None,
    key: str,
    n_items: int,
    make: Callable[[], torch.Tensor],
    about: Mapping[str, str],
) -> tuple[torch.Tensor, bool, Path | None]:
    """Vectors of a cache file, else those that `make` gives, which are then kept in it.

    Of several processes one makes them, and the others wait. A full disk costs a warning.

    Parameters
    ----------
    path : Path, optional
        From `cache_path`; None: nothing is read or kept.
    key, n_items, about
        As of :func:`load` and :func:`store`.
    make : callable

    Returns
    -------
    (Tensor [n_items, d], bool, Path or None)
        Vectors, whether they come from the file, and the file, None where it does not hold them.
    """
    if path is None:
        return make(), False, None
    with locked(path) as writable:
        vectors = load(path, key, n_items)
        if vectors is not None:
            return vectors, True, path
        vectors = make()
        if not writable:
            return vectors, False, None
        try:
            store(path, vectors, key, about)
        except OSError as error:  # a full disk must not cost the run
            log = logging.getLogger()
            log.warning(f"{path} cannot be written ({error}); the vectors are not cached")
            return vectors, False, None
    return vectors, False, path


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold the lock of a cache file: of several processes, one encodes and the others wait.

    The operating system releases the lock of a process that dies.

    Yields
    ------
    bool
        False (after a warning) where the folder is not writable.
    """
    log = logging.getLogger()
    lock = FileLock(f"{path}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info(f"Another process encodes these items; waiting for it ({path}.lock)")
            lock.acquire()
    except (OSError, NotImplementedError) as error:  # no such file system, no right, no flock
        log.warning(
            f"item_embedding_cache_dir: {path.parent} cannot be written ({error}); "
            "new item vectors are not cached"
        )
    try:
        yield lock.is_locked
    finally:
        lock.release()


def find_without_weights(
    folder: Path, dataset: str, llm: str, inputs: str, n_items: int
) -> tuple[Path, torch.Tensor] | None:
    """Find vectors of these inputs on a host that does not have the model's files.

    A cache may be copied to a host without network and weights. The weights cannot be compared
    there, so the model's configured name must match, and exactly one file may match.

    Returns
    -------
    (Path, Tensor [n_items, d]) or None
        None where no valid file matches, or several do.
    """
    found = []
    for path in sorted(folder.glob(f"{_stem(dataset, llm)}-*.safetensors")):
        vectors, _ = _read(path, {"inputs": inputs, "llm": llm}, n_items)
        if vectors is not None:
            found.append((path, vectors))
    return found[0] if len(found) == 1 else None


def _read(
    path: Path, expected: Mapping[str, str], n_items: int
) -> tuple[torch.Tensor | None, str | None]:
    """Return (vectors, None) or (None, what is wrong)."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if any(metadata.get(name) != value for name, value in expected.items()):
                return None, "made from something else (its key differs)"
            vectors = file.get_tensor(_TENSOR).clone()  # a copy: the file may be replaced
    except _DAMAGE as error:
        return None, f"damaged ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
    if vectors.dtype != torch.float32 or vectors.dim() != 2 or len(vectors) != n_items:
        return None, f"holds {vectors.dtype} {list(vectors.shape)}, not float32 [{n_items}, d]"
    if metadata.get("sha256") != _sha256(vectors):
        return None, "damaged (its checksum differs)"
    return vectors, None


def _stem(dataset: str, llm: str) -> str:
    """Readable part of a file name: the last part of a hub name or of a path."""
    short = Path(llm.rstrip("/")).name
    return "-".join(re.sub(r"[^A-Za-z0-9._-]+", "_", name) or "_" for name in (dataset, short))


def _digest(parts: Mapping[str, object]) -> str:
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _sha256(vectors: torch.Tensor) -> str:
    return hashlib.sha256(vectors.numpy()).hexdigest()
