"""A model from its folder, without the data set and without the files of a language model."""

from __future__ import annotations

from typing import Any

import torch

from recbole_lite.config.keys import trained_values
from recbole_lite.config.registry import get_model
from recbole_lite.config.yaml_files import read_yaml
from recbole_lite.inference.model_folder import ModelBundle
from recbole_lite.text import ItemVectors
from recbole_lite.trainer import checkpoint
from recbole_lite.utils.paths import PROPERTIES


class Settings(dict):
    """Settings as RecBole's models read them: None for a key that is not there."""

    def __missing__(self, key: str) -> Any:
        return None


class CatalogueDataset:
    """What a model asks of its data set when it is built.

    Parameters
    ----------
    n_items : int
        With padding.
    texts : list of str, optional
        By internal id; what an Item LLM would read.
    item_vectors : ItemVectors, optional
        Vectors that are there already; no Item LLM is loaded.
    """

    def __init__(
        self,
        n_items: int,
        texts: list[str] | None = None,
        item_vectors: ItemVectors | None = None,
    ):
        self._n_items, self._texts, self.item_vectors = n_items, texts, item_vectors

    def num(self, field: str) -> int:
        """Number of items, padding included."""
        return self._n_items

    def item_text_columns(self, fields: list[str] | None) -> dict[str, list[str]]:
        """Texts as the one field ``text``."""
        return {"text": list(self._texts or [])}


def build_model(contents: ModelBundle, device: torch.device) -> torch.nn.Module:
    """Build a model with its trained weights, ready to score.

    Parameters
    ----------
    contents : ModelBundle
    device : torch.device

    Returns
    -------
    torch.nn.Module
        In evaluation mode; its parameters ask for no gradients.

    Raises
    ------
    CheckpointError
        The weights do not fit the settings or the catalogue.
    """
    settings = Settings({**_defaults(contents.model), **contents.settings})
    settings["device"] = device
    tensors = contents.tensors
    dataset = CatalogueDataset(len(contents.catalogue) + 1, item_vectors=_vectors(tensors))
    if contents.about.get("architecture"):
        settings.update(trained_values(), rec_llm=contents.about["architecture"])
    if settings["item_init"] == "text":
        settings["item_init"] = "random"  # how ItemLM's table began is of no matter any more
    with torch.random.fork_rng(devices=[]):  # weights are drawn, then overwritten
        model = get_model(contents.model)(settings, dataset)
    if not isinstance(model.max_seq_length, int):
        raise ValueError(f"MAX_ITEM_LIST_LENGTH is {model.max_seq_length!r}")
    checkpoint.restore_model(model, tensors, f"the folder of {contents.model}")
    return model.to(device).eval().requires_grad_(False)


def _defaults(model: str) -> dict[str, Any]:
    """Values of the keys that a folder lacks, because it is older than they are."""
    path = PROPERTIES / "model" / f"{model}.yaml"
    if not path.is_file():  # one of RecBole's, whose keys do not change
        return {}
    return {key: setting.value for key, setting in read_yaml(path).items()}


def _vectors(tensors) -> ItemVectors | None:
    vectors = tensors.get("item_tower.vectors")
    axes = tensors.get("item_tower.axes")
    if vectors is not None and axes is not None:
        # The Item LLM's own had more numbers; what they were is in the weights.
        vectors = vectors.new_zeros(len(vectors), len(axes))
    if vectors is None:
        return None
    has_text = ~tensors["item_tower.lacks_text"]
    has_text[0] = False
    return ItemVectors(vectors, has_text, [], True, 0.0, None)
