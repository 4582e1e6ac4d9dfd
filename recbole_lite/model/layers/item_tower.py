"""Item ids -> vectors h_i of the Item LLM, in the size of the Recommendation LLM."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from recbole_lite.model.layers.pca import principal_axes
from recbole_lite.text import item_vectors
from recbole_lite.utils.errors import ConfigError


class ItemTower(nn.Module):
    """Vectors of items (paper, equations 1-3), fixed or trained.

    ===============  =======================================================================
    ``frozen``       the Item LLM's vectors as they are
    ``embeddings``   trainable vectors that begin as the Item LLM's
    ``full``         computed anew for each batch, with gradients through the Item LLM
                     (Algorithm 1, lines 5-8)
    ===============  =======================================================================

    Parameters
    ----------
    config : LiteConfig
    dataset : LiteSequentialDataset
    size : int
        Of the vectors that come out.
    trainings : set of str
        The values of ``item_llm_training`` that the run's stages have.

    Raises
    ------
    ConfigError, ModelFilesError, DataError
        A key is wrong; the Item LLM or the items' text cannot be had.
    """

    def __init__(self, config, dataset, size: int, trainings: set[str]):
        super().__init__()
        self.item_llm = None
        self.register_buffer("axes", None)
        _check_adapter(config["item_adapter"], trainings)
        if "full" in trainings:
            from recbole_lite.text.trainable import TrainableItemLLM

            self.item_llm = TrainableItemLLM(config, dataset)
            d_item, has_text = self.item_llm.hidden_size, self.item_llm.has_text
            self.norm = Norm(config["item_vector_norm"], self._known)
        else:
            items = item_vectors(config, dataset)
            d_item, has_text = items.vectors.shape[1], items.has_text
            norm = Norm(config["item_vector_norm"], lambda: items.vectors[has_text])
            # [n_items, d_item], row 0: padding
            filled = torch.where(has_text[:, None], norm(items.vectors), 0.0)
            if config["item_adapter"] == "pca":
                d_item = self._turn_to(size, filled[has_text], config["item_vector_scale"])
            filled = self.project(filled)
            self.vectors = nn.Parameter(filled, requires_grad=False)
        self.register_buffer("lacks_text", ~has_text)
        self.lacks_text[0] = False
        self.has_gaps = bool(self.lacks_text.any())
        # Equations 1-3 give nothing for an item without text: one vector is learned for all.
        self.no_text_vector = nn.Parameter(torch.zeros(d_item), requires_grad=self.has_gaps)
        self.adapter = nn.Identity() if d_item == size else nn.Linear(d_item, size)

    def _turn_to(self, size: int, known: torch.Tensor, std: float) -> int:
        """Keep the principal axes of the vectors; how many numbers an item has then."""
        if size > known.shape[1]:
            raise ConfigError(
                f"item_adapter: pca turns the Item LLM's vectors of {known.shape[1]} numbers "
                f"to fewer, the Recommendation LLM reads {size}; set linear"
            )
        self.register_buffer("axes", principal_axes(known, size, std))
        return size

    def project(self, vectors: torch.Tensor) -> torch.Tensor:
        """The Item LLM's vectors, normed, as the tower keeps them; ``[n, d_llm]``."""
        return vectors if self.axes is None else vectors @ self.axes

    def _known(self):
        return self.item_llm.encode_all()[self.item_llm.has_text]

    def set_trainable(self, how: str) -> None:
        """Make trainable what ``item_llm_training`` says."""
        if self.item_llm is None:
            self.vectors.requires_grad_(how == "embeddings")
        else:
            self.item_llm.requires_grad_(how == "full")
        self.train(self.training)

    def train(self, mode: bool = True) -> ItemTower:
        """Set training or evaluation mode; a frozen Item LLM keeps its vectors in both."""
        self.training = mode
        for child in self.children():
            frozen = child is self.item_llm and not _is_trained(child)
            child.train(mode and not frozen)
        return self

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Vectors of items, ``[...]`` ids -> ``[..., d]``."""
        if self.item_llm is not None:
            return self.adapter(self._add_missing(self._encoded(items), items))
        if items.numel() < len(self.vectors):
            return self.adapter(self._add_missing(F.embedding(items, self.vectors), items))
        # More inputs than items: each item goes through the adapter once.
        return F.embedding(items, self.table())

    def table(self) -> torch.Tensor:
        """Vectors of all items, ``[n_items, d]`` (not with ``full``)."""
        ids = torch.arange(len(self.vectors), device=self.vectors.device)
        return self.adapter(self._add_missing(self.vectors, ids))

    @torch.no_grad()
    def fixed_vectors(self) -> torch.Tensor:
        """Vectors before the adapter as they are now, ``[n_items, d_item]``."""
        if self.item_llm is None:
            return self.vectors.detach()
        return self._encoded(torch.arange(len(self.lacks_text), device=self.lacks_text.device))

    def _encoded(self, items):
        encoder = self.item_llm
        known = encoder.has_text[items][..., None]
        trains = self.training and _is_trained(encoder)
        vectors = encoder(items) if trains else F.embedding(items, encoder.vectors())
        return torch.where(known, self.norm(vectors), 0.0)

    def _add_missing(self, vectors, items):
        if not self.has_gaps:
            return vectors
        return vectors + self.lacks_text[items][..., None] * self.no_text_vector


def _check_adapter(how: str, trainings: set[str]) -> None:
    if how == "pca" and "full" in trainings:
        # The axes are those of fixed vectors; a trained Item LLM would turn away from them.
        raise ConfigError("item_adapter: pca does not go with item_llm_training: full")


def _is_trained(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())


class Norm(nn.Module):
    """Scale of item vectors; mean and variance are those of the untrained Item LLM."""

    def __init__(self, how: str, known: Callable[[], torch.Tensor]):
        super().__init__()
        if how not in ("none", "unit", "standardize"):
            raise ConfigError(f"item_vector_norm must be none, unit or standardize, found {how!r}")
        self.how = how
        if how == "standardize":
            vectors = known()
            self.register_buffer("mean", vectors.mean(0))
            self.register_buffer("std", vectors.std(0).clamp_min(1e-6))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Same shape, ``[..., d]``."""
        if self.how == "unit":
            return F.normalize(vectors, dim=-1)
        if self.how == "standardize":
            return (vectors - self.mean) / self.std
        return vectors
