"""Weights of a finished run for a grown catalogue (``recbole-lite update``).

Rows of known items are kept by raw id. Rows of new items are predicted: of LiteLLM4Rec as by
``add_items``; of a table that began as text vectors (ItemLM with ``item_init: text``) by a ridge
regression from these vectors to the trained rows; of other tables as the mean trained row, which
gives a new item an average score until it is trained.
"""

from __future__ import annotations

from logging import getLogger
from pathlib import Path

import torch

from recbole_lite.inference.loading import build_model
from recbole_lite.inference.model_folder import read_bundle
from recbole_lite.inference.new_items import NewItemPredictor, add_items
from recbole_lite.inference.ridge import fit_ridge
from recbole_lite.inference.saved_run import trained_vocabulary
from recbole_lite.text.item_llm_settings import TextFields
from recbole_lite.text.item_vectors import item_texts
from recbole_lite.trainer import checkpoint
from recbole_lite.trainer.initial_weights import load_initial_weights
from recbole_lite.utils.errors import ConfigError, RequestError

UPDATABLE = ("LiteLLM4Rec", "ItemLM", "SASRec", "GRU4Rec")


def check_grows(config) -> None:
    """Check that the catalogue of a model can grow, where ``replay`` lets it.

    Raises
    ------
    ConfigError
    """
    if config["replay"] is not None and config["model"] not in UPDATABLE:
        raise ConfigError(
            f"update: {config['model']} cannot be updated; models that can: {', '.join(UPDATABLE)}"
        )


def n_trained_items(folder: Path, field: str) -> int:
    """Number of items of a run, padding included."""
    vocabulary = trained_vocabulary(folder)
    tables = [] if vocabulary is None else vocabulary.tables
    ids = next((ids for fields, ids in tables if field in fields), None)
    if ids is None:
        raise ConfigError(
            f"update: {folder} does not hold the raw ids of its items, because an older version "
            "wrote it; train it again"
        )
    return len(ids) + 1


def load_grown_weights(config, model: torch.nn.Module, dataset) -> dict:
    """Load the best weights of the run in ``init_from`` into a model of more items; their facts.

    Ids of the run's items are those that they had there; `dataset` has the texts of the new items.

    Raises
    ------
    CheckpointError
        No weights, or weights that do not fit.
    ConfigError
        Vectors of new items cannot be predicted for these settings.
    """
    folder = Path(config["init_from"])
    n_old = n_trained_items(folder, dataset.iid_field)
    if model.n_items == n_old:
        return load_initial_weights(config, model)
    path = folder / checkpoint.BEST_FILE
    tensors, facts = checkpoint.load_weights(path)
    if config["model"] == "LiteLLM4Rec":
        tensors = _with_added_items(config, dataset, n_old)
    else:
        _check_text_map(config)
        tensors = _with_predicted_rows(config, model, tensors, n_old)
    checkpoint.restore_model(model, tensors, path)
    getLogger().info(f"Starting from the weights of {path}, {model.n_items - n_old:,} new items")
    return facts


def _with_added_items(config, dataset, n_old: int) -> dict[str, torch.Tensor]:
    """Weights of LiteLLM4Rec after ``add_items``."""
    bundle = read_bundle(config["init_from"])
    if bundle.weights.name != checkpoint.BEST_FILE:
        raise ConfigError(
            "update: new items need weights that are trained as they are saved; adapters "
            "(rec_llm_lora) and a trained Item LLM (item_llm_training: full) have no such"
        )
    texts = item_texts(TextFields.from_config(config), dataset)[n_old:]
    ids = dataset.field2id_token[dataset.iid_field][n_old:]
    try:
        old = build_model(bundle, config["device"])
        predictor = NewItemPredictor(bundle, old)
        items = [{"id": str(raw), "text": text} for raw, text in zip(ids, texts, strict=True)]
        add_items(bundle, old, predictor, items)
    except RequestError as error:
        raise ConfigError(f"update: {error}") from error
    return bundle.tensors


def _check_text_map(config) -> None:
    fitted = config["item_adapter"] == "pca" or config["item_vector_norm"] == "standardize"
    if config["item_init"] == "text_plus_id" and fitted:
        raise ConfigError(
            "update: new items with item_init: text_plus_id need item_adapter: linear and "
            "item_vector_norm: unit or none; others are fitted to the items of the first training"
        )


def _with_predicted_rows(config, model, tensors, n_old: int) -> dict[str, torch.Tensor]:
    """Tensors of a run, those that have rows of items with the rows of `model`'s new items.

    `model` is untrained; its own new rows are text vectors or noise.
    """
    fresh = checkpoint.model_tensors(model)
    texts = fresh["items.weight"].numpy() if config["item_init"] == "text" else None
    grown = dict(tensors)
    for name, tensor in tensors.items():
        if name not in fresh or fresh[name].shape == tensor.shape:
            continue
        if name.startswith("item_tower."):  # text vectors, which are not trained
            new = fresh[name][len(tensor) :]
        else:
            rows = tensor[len(tensor) - (n_old - 1) :]  # a head has no row of padding
            if texts is None:
                new = rows.mean(0).expand(model.n_items - n_old, -1)
            else:
                ridge = fit_ridge(texts[1:n_old], rows.numpy())
                new = torch.from_numpy(ridge(texts[n_old:])).to(rows)
        grown[name] = torch.cat([tensor, new])
    return grown
