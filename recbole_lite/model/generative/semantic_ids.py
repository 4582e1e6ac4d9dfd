"""Semantic ids: tuples of codes from the residual quantisation of the items' vectors (TIGER)."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from logging import getLogger
from pathlib import Path

import numpy as np
import torch

from recbole_lite.model.generative.rqvae import RQVAE, quantize, residual_kmeans, train_rqvae
from recbole_lite.model.layers.item_tower import VectorNorm
from recbole_lite.text import vector_cache
from recbole_lite.text.item_vectors import load_item_vectors
from recbole_lite.utils import process_group
from recbole_lite.utils.errors import ConfigError, DataError

# Settings that decide the codes of given vectors.
_KEYS = ("semantic_ids", "n_codebooks", "codebook_size", "seed")
_RQVAE_KEYS = (
    "rqvae_layers", "rqvae_beta", "rqvae_epochs", "rqvae_batch_size", "rqvae_learning_rate",
)  # fmt: skip


def load_semantic_ids(config, dataset) -> torch.Tensor:
    """Codes of all items, ``[n_items, n_codebooks + 1]``; the last makes equal tuples differ.

    Those of a trained model are its own (attribute ``semantic_ids`` of the dataset). Others are
    made from the items' vectors and kept in ``item_embedding_cache_dir``; all processes of a run
    have those of the first. Row 0 (padding) is 0. Items without a vector have a code of their own
    on each level, `codebook_size`.

    Parameters
    ----------
    config : LiteConfig
        Keys: "Semantic ids" in ``properties/model/TIGER.yaml``, and those of the items' vectors.
    dataset : LiteSequentialDataset

    Raises
    ------
    ConfigError, DataError, ModelFilesError
        A key is wrong; there are fewer different vectors than codes, or all are equal; the RQ-VAE
        diverged; the items' text or vectors are not available.
    """
    saved = getattr(dataset, "semantic_ids", None)
    if saved is not None:
        if saved.shape[1] != config["n_codebooks"] + 1:
            raise ConfigError(
                f"n_codebooks: {config['n_codebooks']}, but the model to start from was trained "
                f"with {saved.shape[1] - 1}"
            )
        return saved
    items = load_item_vectors(config, dataset)
    known = items.vectors[items.has_text]
    known = VectorNorm(config["item_vector_norm"], lambda: known)(known)
    _check(config, known)
    codes = torch.full((len(items.vectors), config["n_codebooks"]), config["codebook_size"])
    codes[items.has_text] = _find_or_make(config, known)
    codes[0] = 0
    getLogger().info(f"Semantic ids ({config['semantic_ids']}): {describe(codes[1:], config)}")
    ids = add_digit(codes)
    return ids if config["single_spec"] else process_group.broadcast(config, ids)


def _check(config, vectors: torch.Tensor) -> None:
    layers = config["rqvae_layers"]
    if not (isinstance(layers, list) and layers and all(type(n) is int and n > 0 for n in layers)):
        raise ConfigError(f"rqvae_layers must be a list of sizes of layers, found {layers!r}")
    size, distinct = config["codebook_size"], len(vectors.unique(dim=0))
    if distinct == 1:
        raise DataError(
            f"item vectors: those of all {len(vectors):,} items are equal, which leaves no codes "
            "to tell them apart; check item_text_fields, item_text_template or item_vectors"
        )
    if size > distinct:
        raise ConfigError(
            f"codebook_size: {size} codes in a codebook, but the items have only {distinct:,} "
            f"different vectors; set at most {distinct}"
        )


def _find_or_make(config, vectors: torch.Tensor) -> torch.Tensor:
    """Codes ``[n, n_codebooks]`` of vectors ``[n, d]``, from the cache if it has them."""
    kind, folder = config["semantic_ids"], config["item_embedding_cache_dir"]
    keys = _KEYS + (_RQVAE_KEYS if kind == "rqvae" else ())
    settings = json.dumps({name: config[name] for name in keys})
    key = vector_cache.cache_key(settings, hashlib.sha256(vectors.numpy()).hexdigest())
    path = None
    if folder:
        path = vector_cache.cache_path(Path(folder), config["dataset"], kind, key)
    make, about = partial(make_codes, config, vectors), {"settings": settings}
    codes, cached, _ = vector_cache.find_or_make(path, key, len(vectors), make, about)
    if cached:
        getLogger().info(f"Semantic ids read from cache {path}")
    return codes.long()


def make_codes(config, vectors: torch.Tensor) -> torch.Tensor:
    """Codes ``[n, n_codebooks]`` of vectors ``[n, d]``, by RQ-VAE or residual k-means."""
    n_codebooks, n_codes, seed = (config[k] for k in ("n_codebooks", "codebook_size", "seed"))
    if config["semantic_ids"] == "rkmeans":
        return quantize(vectors, residual_kmeans(vectors, n_codebooks, n_codes, seed))[0]
    device = config["device"]
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):  # training must not depend on the cache
        torch.manual_seed(seed)
        layers, beta = config["rqvae_layers"], config["rqvae_beta"]
        model = RQVAE(vectors.shape[1], layers, n_codebooks, n_codes, beta).to(device)
        return train_rqvae(
            model,
            vectors.to(device),
            config["rqvae_epochs"],
            config["rqvae_batch_size"],
            config["rqvae_learning_rate"],
            seed,
            config["show_progress"],
        ).cpu()


def add_digit(codes: torch.Tensor) -> torch.Tensor:
    """Append a digit that numbers items of equal codes from 0, by internal id.

    As the paper's fourth code (arXiv 2305.05065, Section 3.1): 0 where nothing collides.
    ``[n_items, l]`` -> ``[n_items, l + 1]``; row 0 is padding.
    """
    _, group = np.unique(codes[1:].numpy(), axis=0, return_inverse=True)
    group = group.ravel()
    order = np.argsort(group, kind="stable")
    counts = np.bincount(group)
    digits = np.zeros(len(codes), dtype=np.int64)
    digits[1 + order] = np.arange(len(group)) - np.repeat(counts.cumsum() - counts, counts)
    return torch.cat([codes, torch.from_numpy(digits)[:, None]], 1)


def describe(codes: torch.Tensor, config) -> str:
    """Collisions and code use of items' codes ``[n, l]`` in words."""
    counts = codes.unique(dim=0, return_counts=True)[1]
    shared = counts[counts > 1]
    used = [len(level[level < config["codebook_size"]].unique()) for level in codes.T]
    missing = int((codes[:, 0] == config["codebook_size"]).sum())
    text = (
        f"{len(codes):,} items have {len(counts):,} different tuples; {int(shared.sum()):,} items "
        f"({int(shared.sum()) / len(codes):.1%}) share theirs, at most {int(counts.max())} of one; "
        f"codes used: {', '.join(map(str, used))} of {config['codebook_size']}"
    )
    return text + (f"; {missing:,} items without a vector have codes of their own" * bool(missing))
