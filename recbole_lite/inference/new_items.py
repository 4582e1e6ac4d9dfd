"""Items added after training: their vectors are predicted from their texts.

A trained model has two vectors per item: the input of the Recommendation LLM, and a row of the
head. For a new item, ridge regressions fitted on the trained items predict both from the Item
LLM's vector of its text, or, with ``item_vectors``, from a vector that comes with it. Predicted
rows of the head are then calibrated (recbole_lite.inference.new_item_calibration).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import nn

from recbole_lite.data.frames import frame_rows
from recbole_lite.data.raw_values import is_frame
from recbole_lite.inference.history_inputs import check_text, is_missing, raw_id
from recbole_lite.inference.loading import CatalogueDataset, Settings
from recbole_lite.inference.model_folder import ModelBundle
from recbole_lite.inference.new_item_calibration import calibrate
from recbole_lite.inference.ridge import Ridge, fit_ridge
from recbole_lite.model.layers.item_tower import VectorNorm
from recbole_lite.text.item_vectors import load_item_vectors
from recbole_lite.trainer import checkpoint
from recbole_lite.utils.errors import DataError, RequestError

_TEXT_AS_IT_IS = {"item_text_fields": None, "item_text_template": "{text}"}


class NewItemPredictor:
    """Predicts the vectors of new items of one trained model.

    Parameters
    ----------
    bundle : ModelBundle
        Content of the model's folder; the Item LLM named in its settings must be available, unless
        the model was trained with ``item_vectors``.
    model : LiteLLM4Rec

    Attributes
    ----------
    head_ridge : Ridge or None
        Text vector -> row of the head; None if the head is tied to the inputs.
    input_ridge : Ridge or None
        Text vector -> change of the input vector by training; None if training left it unchanged.
    calibration : float
        Factor on the distance of predicted rows from the mean row.
    features : numpy.ndarray
        ``[n, d_item]`` text vectors of the trained items, normalized as in training; row 0 is
        padding.

    Raises
    ------
    RequestError
        The model does not support new items.
    ModelFilesError, MissingDependencyError
        The Item LLM cannot be loaded.
    """

    def __init__(self, bundle: ModelBundle, model: nn.Module):
        self.settings = _settings_of(bundle)
        self.model = model
        tower = model.item_tower
        texts = bundle.catalogue.texts[: len(bundle.catalogue) + 1 - bundle.n_added]
        inputs = tower.vectors[: len(texts)].float().cpu().numpy()
        how = self.settings["item_vector_norm"]
        if self.settings["item_vectors"]:  # frozen
            known = ~tower.lacks_text[: len(texts)].cpu()
            known[0] = False
            self.norm = tower.norm if how == "standardize" else VectorNorm(how, lambda: None)
            self.features = x = inputs
        else:
            encoded = self._encode(texts, keep=True)
            known = encoded.has_text
            self.norm = VectorNorm(how, lambda: encoded.vectors[known])
            self.features = x = self._features(encoded.vectors)
        change = inputs - x
        trained = not np.allclose(change[known], 0, atol=1e-3)
        if trained and "embeddings" not in _item_llm_trainings(self.settings):
            raise RequestError(
                f"item_llm {self.settings['item_llm']!r} gives other vectors here than in "
                "training; are its files the same?"
            )
        self.input_ridge: Ridge | None = fit_ridge(x[known], change[known]) if trained else None
        self.head_ridge: Ridge | None = None
        self.calibration = 1.0
        if model.head is not None:
            ids = known.nonzero()[:, 0]
            rows = model.head.weight[(ids - 1).to(model.head.weight.device)].float().cpu()
            self.head_ridge = fit_ridge(x[known], rows.numpy())
            self._mean_row = rows.mean(0)
            predicted = torch.from_numpy(self.head_ridge.left_out).float()
            self.calibration = calibrate(model, ids, predicted)

    def predict(self, x: np.ndarray) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Predict the vectors of items from their text vectors (:meth:`encode`).

        Returns
        -------
        (Tensor [n, d_item], Tensor [n, d] or None)
            Input vectors, before the adapter, and rows of the head.
        """
        inputs = x if self.input_ridge is None else x + self.input_ridge(x)
        rows = None
        if self.head_ridge is not None:
            rows = torch.from_numpy(self.head_ridge(x)).float() - self._mean_row
            rows = self._mean_row + self.calibration * rows
        return torch.from_numpy(inputs).float(), rows

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Text vectors ``[n, d_item]``, normalized as in training."""
        return self._features(self._encode(["", *texts], keep=False).vectors[1:])

    def from_vectors(self, vectors, n_items: int) -> np.ndarray:
        """Vectors of new items like those of ``item_vectors``, as :meth:`encode` gives them.

        Raises
        ------
        RequestError
            The model needs none, or they are not ``[n_items, d]`` finite numbers.
        """
        if not self.settings["item_vectors"]:
            raise RequestError(
                "vectors: the vectors of this model's items come from its Item LLM; leave them out"
            )
        axes = self.model.item_tower.axes
        size = len(axes) if axes is not None else self.model.item_tower.vectors.shape[1]
        try:
            rows = torch.from_numpy(np.array(vectors, dtype=np.float32))
        except (TypeError, ValueError):  # not numbers, or rows of different lengths
            rows = torch.empty(0)
        if rows.shape != (n_items, size) or not rows.isfinite().all():
            raise RequestError(
                f"vectors must be {n_items} rows (one per item) of {size} finite numbers, from the "
                f"model that gave item_vectors; found {type(vectors).__name__} {list(rows.shape)}"
            )
        device = self.model.item_tower.vectors.device
        return self._features(rows.to(device))

    def _features(self, vectors: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            return self.model.item_tower.project(self.norm(vectors).float()).cpu().numpy()

    def _encode(self, texts, keep: bool):
        settings = Settings(self.settings)
        if not keep:
            settings["item_embedding_cache_dir"] = None
        return load_item_vectors(settings, CatalogueDataset(len(texts), texts=texts))


def add_items(
    bundle: ModelBundle,
    model: nn.Module,
    predictor: NewItemPredictor,
    items: Sequence,
    vectors=None,
) -> list[str]:
    """Add items to a model and its bundle, by a predictor that was fitted on the model.

    `items` are texts, or mappings with ``text`` and, optionally, ``id`` and ``title``; a model with
    ``item_vectors`` takes `vectors`, ``[n, d]``, and needs no ``text``.

    Returns
    -------
    list of str
        Raw ids of the items; items without an id are named ``new-1``, ``new-2`` ...

    Raises
    ------
    RequestError
        An item has no text, another form, or an existing id; a vector is missing or wrong.
    """
    described = _described(items, bundle.catalogue.index, has_vectors=vectors is not None)
    ids, titles, texts = (list(column) for column in zip(*described, strict=True))
    if vectors is not None:
        x = predictor.from_vectors(vectors, len(ids))
    elif predictor.settings["item_vectors"]:
        raise RequestError(
            "new items of a model that was trained with item_vectors need vectors from the same "
            "source: add_items(items, vectors=...)"
        )
    else:
        x = predictor.encode(texts)
    inputs, rows = predictor.predict(x)
    bundle.catalogue.extend(ids, titles, texts)
    tower = model.item_tower
    tower.vectors = _append(tower.vectors, inputs)
    tower.lacks_text = torch.cat([tower.lacks_text, tower.lacks_text.new_zeros(len(ids))])
    if rows is not None:
        model.head.weight = _append(model.head.weight, rows)
        model.head.out_features += len(ids)
    model.n_items += len(ids)
    bundle.tensors = checkpoint.model_tensors(model)
    bundle.about["added"] = bundle.n_added + len(ids)
    return ids


def _settings_of(bundle: ModelBundle) -> Settings:
    settings = Settings(bundle.settings, **_TEXT_AS_IT_IS, dataset=bundle.dataset)
    if bundle.model != "LiteLLM4Rec":
        raise RequestError(
            f"{bundle.model} identifies items by id only; new items need LiteLLM4Rec, which "
            "reads their text"
        )
    if "full" in _item_llm_trainings(settings):
        raise RequestError(
            "new items need the Item LLM, and of one that was trained (item_llm_training: full) "
            "the folder keeps only the vectors of its items; train with frozen or embeddings"
        )
    cosines = settings["loss_type"] == "InfoNCE" or settings["cosine_head"]
    if cosines and not settings["tie_head"]:
        raise RequestError(
            "new items of a model that scores by cosines (loss_type: InfoNCE, cosine_head) need "
            "tie_head: True, with which their vectors are the rows of the head"
        )
    if settings["item_vectors"] and "embeddings" in _item_llm_trainings(settings):
        raise RequestError(
            "new items need the vectors of item_vectors, and the folder keeps only what training "
            "(item_llm_training: embeddings) has made of them; train with frozen"
        )
    settings["device"] = None
    return settings


def _item_llm_trainings(settings: Settings) -> set[str | None]:
    """Values of ``item_llm_training`` in the settings and their stages."""
    stages = settings["stages"] or []
    return {settings["item_llm_training"], *(stage.get("item_llm_training") for stage in stages)}


def _described(items, taken: Mapping[str, int], has_vectors: bool) -> list[tuple[str, str, str]]:
    """Id, title and text of each item; all items are checked before any is added."""
    described: list[tuple[str, str, str]] = []
    used = set(taken)
    free = (name for n in count(1) if (name := f"new-{n}") not in used)
    for number, item in enumerate(_records(items)):
        place = f"item {number}"
        fields: dict[str, Any] = {"text": item} if isinstance(item, str) else item
        if not isinstance(fields, Mapping) or set(fields) - {"id", "title", "text"}:
            raise RequestError(
                f"{place}: give its text, or a mapping with text, id and title; found {item!r}"
            )
        text = fields.get("text", "" if has_vectors else None)
        if not isinstance(text, str):
            raise RequestError(f"{place}: its text must be a text, found {text!r}")
        if text or not has_vectors:
            check_text(text, f"{place}: its text")
        try:
            raw = raw_id(fields["id"]) if "id" in fields else next(free)
        except RequestError as error:
            raise RequestError(f"{place}: {error}") from None
        if raw in used:
            raise RequestError(f"{place}: the id {raw!r} is taken")
        used.add(raw)
        title = fields.get("title")
        title = (text or raw) if is_missing(title) or title == "" else str(title)
        described.append((raw, check_text(title, f"{place}: its title"), text))
    return described


def _records(items) -> list:
    """Items of a list, or rows of a table."""
    if is_frame(items) and not isinstance(items, Sequence):
        try:
            return frame_rows("items", items)
        except DataError as error:
            raise RequestError(str(error)) from None
    if isinstance(items, (str, bytes, Mapping)) or not isinstance(items, Iterable):
        raise RequestError(f"items must be a list of texts or mappings, found {items!r}")
    listed = list(items)
    if not listed:
        raise RequestError("items must be a list of texts or mappings, found an empty one")
    return listed


def _append(parameter: torch.Tensor, more: torch.Tensor) -> nn.Parameter:
    joined = torch.cat([parameter.detach(), more.to(parameter)])
    return nn.Parameter(joined, requires_grad=False)
