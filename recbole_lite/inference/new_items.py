"""Items that come after training: their text gives what the model needs of them.

A trained model has two vectors of an item: the one that enters the Recommendation LLM, and a row
of the head. For a new item both are predicted from the Item LLM's vector of its text, by ridge
regressions that were fitted on the trained items; rows of the head are then stretched
(recbole_lite.inference.new_item_calibration).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from recbole_lite.inference.history_inputs import check_text, is_missing, raw_id
from recbole_lite.inference.loading import CatalogueDataset, Settings
from recbole_lite.inference.model_folder import ModelBundle
from recbole_lite.inference.new_item_calibration import find_stretch
from recbole_lite.inference.ridge import Ridge, fit_ridge
from recbole_lite.model.layers.item_tower import VectorNorm
from recbole_lite.text.item_vectors import load_item_vectors
from recbole_lite.trainer import checkpoint
from recbole_lite.utils.errors import RequestError

_TEXT_AS_IT_IS = {"item_text_fields": None, "item_text_template": "{text}"}


class NewItems:
    """Predicts the vectors of new items of one trained model.

    Parameters
    ----------
    contents : ModelBundle
        Its folder's; the Item LLM that its settings name must be at hand.
    model : LiteLLM4Rec

    Attributes
    ----------
    rows : Ridge or None
        Text vector -> row of the head; None where the head is tied to the inputs.
    inputs : Ridge or None
        Text vector -> how far training has moved the input vector; None where it has not.
    stretch : float
        Factor on the distance of predicted rows from the mean row.
    features : numpy.ndarray
        ``[n, d_item]`` text vectors of the trained items, normed as in training; row 0: padding.

    Raises
    ------
    RequestError
        This model cannot take new items.
    ModelFilesError, MissingDependencyError
        The Item LLM cannot be had.
    """

    def __init__(self, contents: ModelBundle, model: nn.Module):
        self.settings = _settings_of(contents)
        self.model = model
        tower = model.item_tower
        texts = contents.catalogue.texts[: len(contents.catalogue) + 1 - contents.added]
        encoded = self._encode(texts, keep=True)
        known = encoded.has_text
        self.norm = VectorNorm(self.settings["item_vector_norm"], lambda: encoded.vectors[known])
        self.features = x = self._features(encoded.vectors)
        now = tower.vectors[: len(texts)].float().cpu().numpy()
        moved = now - x
        trains = not np.allclose(moved[known], 0, atol=1e-3)
        _check_same_item_llm(contents, trains)
        self.inputs: Ridge | None = fit_ridge(x[known], moved[known]) if trains else None
        self.rows: Ridge | None = None
        self.stretch = 1.0
        if model.head is not None:
            ids = known.nonzero()[:, 0]
            rows = model.head.weight[(ids - 1).to(model.head.weight.device)].float().cpu()
            self.rows = fit_ridge(x[known], rows.numpy())
            self._mean_row = rows.mean(0)
            self.stretch = find_stretch(model, ids, torch.from_numpy(self.rows.left_out).float())

    def predict(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Vectors of items from their texts.

        Returns
        -------
        (Tensor [n, d_item], Tensor [n, d] or None)
            Input vectors, before the adapter, and rows of the head.
        """
        x = self.encode(texts)
        inputs = x if self.inputs is None else x + self.inputs(x)
        rows = None
        if self.rows is not None:
            rows = torch.from_numpy(self.rows(x)).float() - self._mean_row
            rows = self._mean_row + self.stretch * rows
        return torch.from_numpy(inputs).float(), rows

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Text vectors, normed as in training, ``[n, d_item]``."""
        return self._features(self._encode(["", *texts], keep=False).vectors[1:])

    def _features(self, vectors: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            return self.model.item_tower.project(self.norm(vectors).float()).numpy()

    def _encode(self, texts, keep: bool):
        settings = Settings(self.settings)
        if not keep:
            settings["item_embedding_cache_dir"] = None
        return load_item_vectors(settings, CatalogueDataset(len(texts), texts=texts))


def add_items(contents: ModelBundle, model: nn.Module, new: NewItems, items: Sequence) -> list[str]:
    """Add items to a model and its catalogue.

    Parameters
    ----------
    contents : ModelBundle
        Changed.
    model : LiteLLM4Rec
        Changed.
    new : NewItems
        Of the same model.
    items : sequence of str or mapping
        Texts, or mappings with ``text`` and, if wanted, ``id`` and ``title``.

    Returns
    -------
    list of str
        Raw ids of the items; those given without one are called ``new-1``, ``new-2`` ...

    Raises
    ------
    RequestError
        An item without text, of another form, or with an id that is taken.
    """
    described = _described(items, contents.catalogue.index)
    ids, titles, texts = (list(column) for column in zip(*described, strict=True))
    inputs, rows = new.predict(texts)
    contents.catalogue.extend(ids, titles, texts)
    tower = model.item_tower
    tower.vectors = _longer(tower.vectors, inputs)
    tower.lacks_text = torch.cat([tower.lacks_text, tower.lacks_text.new_zeros(len(ids))])
    if rows is not None:
        model.head.weight = _longer(model.head.weight, rows)
        model.head.out_features += len(ids)
    model.n_items += len(ids)
    contents.tensors = checkpoint.model_tensors(model)
    contents.about["added"] = contents.added + len(ids)
    return ids


def _settings_of(contents: ModelBundle) -> Settings:
    settings = Settings(contents.settings, **_TEXT_AS_IT_IS, dataset=contents.dataset)
    if contents.model != "LiteLLM4Rec":
        raise RequestError(
            f"{contents.model} knows items by their ids alone; new ones need LiteLLM4Rec, which "
            "reads their text"
        )
    kinds = {settings["item_llm_training"]}
    kinds |= {stage.get("item_llm_training") for stage in settings["stages"] or []}
    if "full" in kinds:
        raise RequestError(
            "new items need the Item LLM, and of one that was trained (item_llm_training: full) "
            "the folder keeps only the vectors of its items; train with frozen or embeddings"
        )
    settings["device"] = None
    return settings


def _check_same_item_llm(contents: ModelBundle, moved: bool) -> None:
    kinds = {contents.settings.get("item_llm_training")}
    kinds |= {s.get("item_llm_training") for s in contents.settings.get("stages") or []}
    if moved and "embeddings" not in kinds:
        raise RequestError(
            f"item_llm {contents.settings.get('item_llm')!r} gives other vectors here than in "
            "training; are its files the same?"
        )


def _described(items, taken: Mapping[str, int]) -> list[tuple[str, str, str]]:
    """Id, title and text of each item; everything is checked before anything changes."""
    described: list[tuple[str, str, str]] = []
    used = set(taken)
    for number, item in enumerate(_records(items)):
        place = f"item {number}"
        fields: dict[str, Any] = {"text": item} if isinstance(item, str) else item
        if not isinstance(fields, Mapping) or set(fields) - {"id", "title", "text"}:
            raise RequestError(
                f"{place}: give its text, or a mapping with text, id and title; found {item!r}"
            )
        text = fields.get("text")
        if not isinstance(text, str):
            raise RequestError(f"{place}: its text must be a text, found {text!r}")
        check_text(text, f"{place}: its text")
        try:
            raw = raw_id(fields["id"]) if "id" in fields else _free_name(used)
        except RequestError as error:
            raise RequestError(f"{place}: {error}") from None
        if raw in used:
            raise RequestError(f"{place}: the id {raw!r} is taken")
        used.add(raw)
        title = fields.get("title")
        title = text if is_missing(title) or title == "" else str(title)
        described.append((raw, check_text(title, f"{place}: its title"), text))
    return described


def _records(items) -> list:
    """Items of a list, or of a table of pandas or polars, row by row."""
    if hasattr(items, "columns") and hasattr(items, "to_dict"):
        return items.to_dicts() if hasattr(items, "to_dicts") else items.to_dict("records")
    if isinstance(items, (str, bytes, Mapping)) or not isinstance(items, Iterable):
        raise RequestError(f"items must be a list of texts or mappings, found {items!r}")
    listed = list(items)
    if not listed:
        raise RequestError("items must be a list of texts or mappings, found an empty one")
    return listed


def _free_name(used: set[str]) -> str:
    number = 1
    while f"new-{number}" in used:
        number += 1
    return f"new-{number}"


def _longer(parameter: torch.Tensor, more: torch.Tensor) -> nn.Parameter:
    joined = torch.cat([parameter.detach(), more.to(parameter)])
    return nn.Parameter(joined, requires_grad=False)
