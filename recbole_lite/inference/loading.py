"""Building a model from its folder, without the data set and the files of language models."""

from __future__ import annotations

from typing import Any

import torch

from recbole_lite.config.keys import trained_values
from recbole_lite.config.registry import get_model
from recbole_lite.config.saved_config import CONFIG_FILE
from recbole_lite.config.validation import validate
from recbole_lite.config.yaml_files import Setting, read_yaml
from recbole_lite.inference.model_folder import ModelBundle
from recbole_lite.text.item_vectors import ItemVectors
from recbole_lite.trainer import checkpoint
from recbole_lite.utils.paths import PROPERTIES


class Settings(dict):
    """Settings as RecBole's models read them: None for a missing key."""

    def __missing__(self, key: str) -> Any:
        return None


class CatalogueDataset:
    """Stand-in for the data set, with the parts that a model reads when it is built.

    Parameters
    ----------
    n_items : int
        Including padding.
    texts : list of str, optional
        Item texts by internal id, for the Item LLM.
    item_vectors : ItemVectors, optional
        Known vectors; no Item LLM is loaded.
    semantic_ids : torch.Tensor, optional
        Of TIGER.
    """

    def __init__(
        self,
        n_items: int,
        texts: list[str] | None = None,
        item_vectors: ItemVectors | None = None,
        semantic_ids: torch.Tensor | None = None,
    ):
        self._n_items, self._texts, self.item_vectors = n_items, texts, item_vectors
        self.semantic_ids = semantic_ids

    def num(self, field: str) -> int:
        """Number of items, padding included."""
        return self._n_items

    def item_text_columns(self, fields: list[str] | None) -> dict[str, list[str]]:
        """Texts as a single field ``text``."""
        return {"text": list(self._texts or [])}


def build_model(bundle: ModelBundle, device: torch.device) -> torch.nn.Module:
    """Build a model with its trained weights, in evaluation mode; it requires no gradients.

    Raises
    ------
    CheckpointError
        The weights do not match the settings or the catalogue.
    ConfigError
        A setting has a wrong value.
    """
    origin = str(bundle.weights.parent / CONFIG_FILE)
    saved = {name: validate(name, Setting(v, origin)) for name, v in bundle.settings.items()}
    settings = Settings({**_defaults(bundle.model), **saved})
    settings.update(device=device, item_dtype="float32")  # a runtime has a type of its own
    tensors = bundle.tensors
    dataset = CatalogueDataset(
        len(bundle.catalogue) + 1,
        item_vectors=_vectors(tensors),
        semantic_ids=tensors.get("semantic_ids"),
    )
    if architecture := bundle.about.get("architecture"):
        settings.update(trained_values(), rec_llm=architecture)
        # Of TIGER, which has no rec_llm.
        settings.update(llm=architecture, llm_init="scratch", llm_config={}, llm_dropout=None)
    if "item_tower.norm.mean" in tensors:  # kept for the precomputed vectors of new items
        settings["item_vector_norm"] = "standardize"
    if settings["item_init"] == "text":  # the initial values of ItemLM's table are irrelevant
        settings.update(item_init="random", item_vectors=None)
    with torch.random.fork_rng(devices=[]):  # initial weights are overwritten
        model = get_model(bundle.model)(settings, dataset)
    if not isinstance(model.max_seq_length, int):
        raise ValueError(f"MAX_ITEM_LIST_LENGTH is {model.max_seq_length!r}")
    checkpoint.restore_model(model, tensors, f"the folder of {bundle.model}")
    return model.to(device).eval().requires_grad_(False)


def _defaults(model: str) -> dict[str, Any]:
    """Default values, for keys that are newer than the folder."""
    path = PROPERTIES / "model" / f"{model}.yaml"
    if not path.is_file():  # one of RecBole's, whose keys do not change
        return {}
    return {key: setting.value for key, setting in read_yaml(path).items()}


def _vectors(tensors) -> ItemVectors | None:
    vectors = tensors.get("item_tower.vectors")
    axes = tensors.get("item_tower.axes")
    if vectors is not None and axes is not None:
        # Only the shape matters: PCA reduced the Item LLM's vectors, and the weights hold both.
        vectors = vectors.new_zeros(len(vectors), len(axes))
    if vectors is None:
        return None
    has_text = ~tensors["item_tower.lacks_text"]
    has_text[0] = False
    return ItemVectors(vectors, has_text, from_cache=True, path=None)
