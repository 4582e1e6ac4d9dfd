"""One vector per internal item id: encoded from texts once and cached, or precomputed."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from recbole_lite.text import vector_cache
from recbole_lite.text.encoding_warnings import warn_of_equal_vectors
from recbole_lite.text.item_llm_settings import TextFields, TextSettings
from recbole_lite.text.item_text import render_item_texts
from recbole_lite.text.llm_files import resolve_llm, weights_fingerprint
from recbole_lite.text.sentence_transformers_folder import Recipe
from recbole_lite.utils.errors import ConfigError, MissingDependencyError, ModelFilesError, listed
from recbole_lite.utils.ray_session import RayOptions


@dataclass(frozen=True, eq=False)
class ItemVectors:
    """Context-aware vectors of all items (the paper's h_i, eq. 3).

    Attributes
    ----------
    vectors : Tensor [n_items, d_item], float32, on the CPU
        Zeros for the padding item (row 0) and for items without text.
    has_text : BoolTensor [n_items]
        False for the padding item and for items without text, or without a precomputed vector.
    from_cache : bool
        True where nothing was encoded.
    path : Path or None
        The cache file; None where the vectors are not stored.
    sha256 : str or None
        Of precomputed vectors; an Item LLM's differ by rounding from machine to machine.
    """

    vectors: torch.Tensor
    has_text: torch.Tensor
    from_cache: bool
    path: Path | None
    sha256: str | None = None


def load_item_vectors(config, dataset, ray: RayOptions | None = None) -> ItemVectors:
    """Item LLM of the paper (Section 4.2, eqs. 1-3): a vector for every item with text.

    If the cache in ``item_embedding_cache_dir`` holds vectors of the same texts by the same model,
    they are read and the model is not loaded. With ``item_vectors``, precomputed vectors are read
    instead, and no texts.

    Parameters
    ----------
    config : LiteConfig or mapping
        Keys ``item_text_*``, ``item_llm*``, ``item_vectors``, ``item_vector_ids``,
        ``item_embedding_cache_dir``, ``local_files_only``, ``device``, ``show_progress``,
        ``dataset``.
    dataset : LiteSequentialDataset
        Has the texts and raw ids.
    ray : RayOptions, optional
        Spread the texts over Ray's workers; default: this process encodes them.

    Returns
    -------
    ItemVectors
        Rows in the order of internal item ids.

    Raises
    ------
    ConfigError, DataError, ModelFilesError, MissingDependencyError
        With one line that names the key or the model and says what to do.
    """
    stored = getattr(dataset, "item_vectors", None)
    if stored is not None:  # a saved model's own (recbole_lite.inference)
        return stored
    if config["item_vectors"]:
        # Imports pyarrow, which a trained model does not need.
        from recbole_lite.text.precomputed_vectors import load_precomputed

        vectors, has_vector, sha256 = load_precomputed(config, dataset)
        return ItemVectors(vectors, has_vector, from_cache=False, path=None, sha256=sha256)
    if config["item_vector_ids"]:
        raise ConfigError("item_vector_ids: needs item_vectors, the file of their vectors")
    settings = TextSettings.from_config(config)
    if settings.pooling == "item_token":
        raise ConfigError(
            "item_llm_pooling: item_token is a token that is trained with the Item LLM; set "
            "item_llm_training: full"
        )
    texts, has_text = read_texts(settings, dataset)
    started = time.perf_counter()
    vectors, from_cache, path = _find_or_encode(settings, texts, ray)
    warn_of_equal_vectors(texts, vectors)
    message = f"item vectors read from cache {path} (0 texts encoded)"
    if not from_cache:
        message = (
            f"Item LLM {settings.llm}: encoded in {time.perf_counter() - started:.1f} s, "
            f"{vectors.size(1)} dimensions, {f'kept in {path}' if path else 'not kept'}"
        )
    logging.getLogger().info(message)
    return ItemVectors(vectors, has_text, from_cache, path)


def read_texts(settings: TextFields, dataset) -> tuple[list[str], torch.Tensor]:
    """Texts of all items, and which have one; a warning counts items without text.

    Returns
    -------
    (list of str, BoolTensor [n_items])
        By internal item id; ``""`` and False for the padding item and where there is no text.

    Raises
    ------
    ConfigError
        The dataset has no such field, or no item has text.
    """
    texts = item_texts(settings, dataset)
    has_text = torch.tensor([bool(text) for text in texts])  # [n_items]
    without = ((~has_text[1:]).nonzero().flatten() + 1).tolist()  # internal ids
    if without:
        if hasattr(dataset, "id2token"):  # RecBole's: the ids of the data files
            without = dataset.id2token(dataset.iid_field, without)
        logging.getLogger().warning(
            f"{len(without):,} of {len(has_text) - 1:,} items have no text (item ids: "
            f"{listed(without)}); each gets a learned vector instead"
        )
    return texts, has_text


def item_texts(settings: TextFields, dataset) -> list[str]:
    """Texts of all items by internal id; ``""`` where there is none.

    Raises
    ------
    ConfigError
        The dataset has no such field, or no item has text.
    """
    columns = dataset.item_text_columns(settings.fields)
    absent = [field for field in settings.fields or [] if field not in columns]
    if absent or not columns:
        raise ConfigError(
            f"item_text_fields: {', '.join(absent) or 'nothing'} to read in the .item file of "
            f"{settings.dataset}; available: {', '.join(columns) or 'no text field'}"
        )
    empty = [field for field in settings.fields or [] if not any(columns[field])]
    if empty:
        raise ConfigError(
            f"item_text_fields: no item of {settings.dataset} has text in {', '.join(empty)}; "
            "name other fields"
        )
    texts = render_item_texts(columns, settings.template)
    if not any(texts):
        raise ConfigError(
            f"item_text_fields: no item of {settings.dataset} has text in {', '.join(columns)}; "
            "name other fields, or check load_col and the .item file"
        )
    return texts


def _find_or_encode(
    settings: TextSettings, texts: list[str], ray: RayOptions | None
) -> tuple[torch.Tensor, bool, Path | None]:
    """Return vectors [n_items, d], whether they come from the cache, and the cache file."""

    def inputs_of(label: str) -> str:
        return vector_cache.inputs_digest(
            texts, pooling=label, max_length=settings.max_length, dtype=settings.dtype
        )

    try:
        folder = resolve_llm(settings.llm, local_files_only=settings.local_files_only)
    except (MissingDependencyError, ModelFilesError) as error:
        inputs = [inputs_of(label) for label in settings.cache_labels()]
        return _read_without_weights(settings, inputs, len(texts), error)
    recipe = settings.recipe(folder)
    if settings.cache_dir is None:
        if ray is not None:
            raise ConfigError(
                "item_embedding_cache_dir: Ray's results are kept there; name a folder"
            )
        return _encode(settings, folder, recipe, texts), False, None
    inputs = inputs_of(settings.cache_labels(recipe)[0])
    key = vector_cache.cache_key(inputs, weights_fingerprint(folder, recipe.files))
    path = vector_cache.cache_path(settings.cache_dir, settings.dataset, settings.llm, key)
    make = partial(_encode, settings, folder, recipe, texts)
    about = {"inputs": inputs, "llm": settings.llm}
    if ray is None:
        return vector_cache.find_or_make(path, key, len(texts), make, about)
    from recbole_lite.text.ray_encoding import encode_on_ray

    shards = path.with_name(f"{path.name}.shards")
    spread = partial(encode_on_ray, shards=shards, key=key, options=ray)
    result = vector_cache.find_or_make(path, key, len(texts), partial(make, spread), about)
    if result[2] is not None:
        shutil.rmtree(shards, ignore_errors=True)
    return result


def _read_without_weights(
    settings: TextSettings, inputs: list[str], n_items: int, error: Exception
) -> tuple[torch.Tensor, bool, Path | None]:
    """Vectors of a cache file where the model's files are missing; without one raise `error`."""
    where = (settings.cache_dir, settings.dataset, settings.llm)
    tried = inputs if settings.cache_dir else []
    found = [vector_cache.find_without_weights(*where, digest, n_items) for digest in tried]
    if not any(found):
        raise error
    path, vectors = next(filter(None, found))
    logging.getLogger().warning(
        f"The files of item_llm {settings.llm} are missing; its vectors in {path} are used "
        "without checking the weights"
    )
    return vectors, True, path


def _encode(
    settings: TextSettings,
    folder: Path,
    recipe: Recipe,
    texts: list[str],
    spread: Callable[..., torch.Tensor] | None = None,
) -> torch.Tensor:
    """Encode each distinct text once: n_items texts -> [n_items, d], zeros without text.

    `spread` gets the arguments of a `TextEncoder`, the texts and whether to show progress, and has
    other processes encode them.
    """
    items = [i for i, text in enumerate(texts) if text]
    distinct = list(dict.fromkeys(texts[i] for i in items))
    logging.getLogger().info(
        f"Item LLM {settings.llm}: encoding {len(items):,} items ({len(distinct):,} distinct texts)"
    )
    encoder = {
        "folder": folder,
        "recipe": recipe,
        "max_length": settings.max_length,
        "batch_size": settings.batch_size,
        "dtype": settings.dtype,
        "device": settings.device,
    }
    encoded = (spread or _encode_here)(encoder, distinct, settings.show_progress)  # [n_distinct, d]
    row = {text: i for i, text in enumerate(distinct)}
    vectors = torch.zeros(len(texts), encoded.size(1))
    for some in torch.tensor(items).split(2**16):  # all at once would be a third matrix
        vectors[some] = encoded[[row[texts[i]] for i in some.tolist()]]  # -> [n_items, d]
    return vectors


def _encode_here(encoder: dict, texts: list[str], show_progress: bool) -> torch.Tensor:
    # Imports transformers, which a cache hit does not need.
    from recbole_lite.text.text_encoder import TextEncoder

    cuda = [encoder["device"]] if encoder["device"].type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):  # training must not depend on the cache
        return TextEncoder(**encoder).encode(texts, show_progress)
