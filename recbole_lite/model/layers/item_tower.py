"""Item ids -> vectors h_i of the Item LLM, in the Recommendation LLM's dimension."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from recbole_lite.model.layers.pca import principal_axes
from recbole_lite.text.item_vectors import load_item_vectors
from recbole_lite.utils.errors import ConfigError


class ItemTower(nn.Module):
    """Vectors h_i of items (paper, equations 1-3, or ``item_vectors``), fixed or trained.

    ===============  =======================================================================
    ``frozen``       the Item LLM's vectors as they are
    ``embeddings``   trainable vectors, initialised with the Item LLM's
    ``full``         computed for each batch, with gradients through the Item LLM
                     (Algorithm 1, lines 5-8)
    ===============  =======================================================================

    Parameters
    ----------
    config : LiteConfig
    dataset : LiteSequentialDataset
    size : int
        Dimension d of the output vectors.
    trainings : set of str
        Values of ``item_llm_training`` in all stages of the run.

    Raises
    ------
    ConfigError, ModelFilesError, DataError
        A key is wrong; the Item LLM, the items' text or the precomputed vectors are not available.

    Attributes
    ----------
    vectors_sha256 : str or None
        Of precomputed vectors, as they were read.
    """

    def __init__(self, config, dataset, size: int, trainings: set[str]):
        super().__init__()
        self.item_llm = self.vectors_sha256 = None
        self.register_buffer("axes", None)
        how = config["item_adapter"]
        if config["item_llm_lora"] is not None and "full" not in trainings:
            raise ConfigError("item_llm_lora trains the Item LLM; set item_llm_training: full")
        if "full" in trainings:
            # The axes are those of fixed vectors; a trained Item LLM's vectors would leave them.
            if how == "pca":
                raise ConfigError(
                    "item_adapter: pca cannot be combined with item_llm_training: full"
                )
            from recbole_lite.text.trainable_item_llm import TrainableItemLLM

            self.item_llm = TrainableItemLLM(config, dataset)
            d_item, has_text = self.item_llm.hidden_size, self.item_llm.has_text
            encode = self.item_llm.encode_all
            self.norm = VectorNorm(config["item_vector_norm"], lambda: encode()[has_text])
        else:
            items = load_item_vectors(config, dataset)
            d_item, has_text = items.vectors.shape[1], items.has_text
            self.vectors_sha256 = items.sha256
            norm = VectorNorm(config["item_vector_norm"], lambda: items.vectors[has_text])
            if config["item_vectors"]:  # a new item's vector needs it; the file may not be there
                self.norm = norm
            # [n_items, d_item], row 0: padding
            filled = torch.where(has_text[:, None], norm(items.vectors), 0.0)
            if how == "pca":
                if size > d_item:
                    raise ConfigError(
                        f"item_adapter: pca projects the items' vectors of {d_item} numbers to "
                        f"fewer, the Recommendation LLM reads {size}; set linear"
                    )
                self.axes = principal_axes(filled[has_text], size, config["item_vector_scale"])
                d_item = size
            self.vectors = nn.Parameter(self.project(filled), requires_grad=False)
        self.register_buffer("lacks_text", ~has_text)
        self.lacks_text[0] = False
        self.has_gaps = bool(self.lacks_text.any())
        # Equations 1-3 do not cover items without text: they share one learned vector.
        self.no_text_vector = nn.Parameter(torch.zeros(d_item), requires_grad=self.has_gaps)
        self.adapter = nn.Identity() if d_item == size else nn.Linear(d_item, size)

    def project(self, vectors: torch.Tensor) -> torch.Tensor:
        """Normalised vectors of the Item LLM, ``[n, d_llm]``, as the tower keeps them."""
        return vectors if self.axes is None else vectors @ self.axes

    def set_trainable(self, how: str) -> None:
        """Make trainable what this value of ``item_llm_training`` trains."""
        if self.item_llm is None:
            self.vectors.requires_grad_(how == "embeddings")
        else:
            self.item_llm.set_trainable(how == "full")
        self.train(self.training)

    def train(self, mode: bool = True) -> ItemTower:
        """Set training or evaluation mode; a frozen Item LLM stays in evaluation mode."""
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
        # More inputs than items: run the adapter once per item.
        return F.embedding(items, self.table())

    def table(self) -> torch.Tensor:
        """Vectors of all items, ``[n_items, d]``; in training, ``full`` encodes all items."""
        ids = torch.arange(len(self.lacks_text), device=self.lacks_text.device)
        vectors = self.vectors if self.item_llm is None else self._encoded(ids)
        return self.adapter(self._add_missing(vectors, ids))

    @torch.no_grad()
    def fixed_vectors(self) -> torch.Tensor:
        """Current vectors before the adapter, ``[n_items, d_item]``."""
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


def _is_trained(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())


class VectorNorm(nn.Module):
    """Normalisation of item vectors; mean and std are those of the untrained Item LLM."""

    def __init__(self, how: str, known: Callable[[], torch.Tensor]):
        super().__init__()
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
