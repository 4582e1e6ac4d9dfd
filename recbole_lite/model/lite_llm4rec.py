"""LITE-LLM4Rec: hierarchical LLMs and an item projection head (arXiv 2402.09543, Section 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from torch import nn

from recbole_lite.errors import ConfigError
from recbole_lite.model.rec_llm import RecommendationLLM
from recbole_lite.text import item_vectors
from recbole_lite.text.pooling import masked_mean


class LiteLLM4Rec(SequentialRecommender):
    """Item vectors -> Recommendation LLM -> mean -> one score per item; no decoder.

    ========================  ==========================================================
    Item LLM                  text of item i -> ``h_i`` (equations 1-3), computed once
    adapter                   one linear layer where ``h_i`` and the Recommendation LLM
                              differ in size (Section 5.5.2)
    Recommendation LLM        ``h_u = mean(Rec_LLM(h_1 ... h_L))`` (equation 4)
    head                      ``logits = W_proj h_u``, no bias (equation 5)
    loss                      cross entropy over all items (equation 6)
    ========================  ==========================================================

    Parameters
    ----------
    config : LiteConfig
        Keys: ``properties/model/LiteLLM4Rec.yaml``.
    dataset : LiteSequentialDataset
        Gives the number of items and their text.

    Raises
    ------
    ConfigError, ModelFilesError, DataError
        A key is wrong; a language model or the items' text cannot be had.
    """

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        if config["loss_type"] != "CE":
            raise ConfigError(
                f"loss_type must be CE for LiteLLM4Rec, found {config['loss_type']!r}"
            )
        items = item_vectors(config, dataset)
        vectors = _normalise(items.vectors, items.has_text, config["item_vector_norm"])
        self.register_buffer("item_vectors", vectors)  # [n_items, d_item], row 0: padding
        self.register_buffer("lacks_text", ~items.has_text)
        self.lacks_text[0] = False
        # Equations 1-3 give nothing for an item without text: one vector is learned for all.
        self.no_text_vector = nn.Parameter(torch.zeros(vectors.shape[1]))

        self.rec_llm = RecommendationLLM(
            config["rec_llm"],
            config["rec_llm_init"],
            config["rec_llm_config"],
            config["rec_llm_dropout"],
            self.max_seq_length,
            config["local_files_only"],
        )
        d_item, d = vectors.shape[1], self.rec_llm.hidden_size
        self.adapter = nn.Identity() if d_item == d else nn.Linear(d_item, d)
        self.item_dropout = nn.Dropout(config["item_dropout"])
        self.user_dropout = nn.Dropout(config["user_dropout"])
        self.head = nn.Linear(d, self.n_items - 1, bias=False)  # row i - 1 scores item i

    def embed(self, item_seq: torch.Tensor) -> torch.Tensor:
        """Vectors ``h_i`` of items, ``[...]`` ids -> ``[..., d]``."""
        vectors = self.item_vectors[item_seq]
        vectors = torch.where(self.lacks_text[item_seq][..., None], self.no_text_vector, vectors)
        return self.item_dropout(self.adapter(vectors))

    def forward(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> torch.Tensor:
        """User representations ``h_u`` (equation 4).

        Parameters
        ----------
        item_seq : torch.Tensor
            ``[B, L]`` internal item ids, 0 for padding.
        item_seq_len : torch.Tensor
            ``[B]``; part of RecBole's contract, the mask follows from the ids.

        Returns
        -------
        torch.Tensor
            ``[B, d]``.
        """
        mask = item_seq != 0
        hidden = self.rec_llm(self.embed(item_seq), mask)  # [B, L, d]
        return self.user_dropout(masked_mean(hidden, mask))

    def calculate_loss(self, interaction):
        """Cross entropy over all items (equation 6), mean over the batch."""
        h_u = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return F.cross_entropy(self.head(h_u), interaction[self.POS_ITEM_ID] - 1)

    def predict(self, interaction):
        """Scores of the given items, ``[B]``."""
        h_u = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return (h_u * self.head.weight[interaction[self.ITEM_ID] - 1]).sum(-1)

    def full_sort_predict(self, interaction):
        """Scores of all items, ``[B, n_items]``; -inf for padding (id 0)."""
        h_u = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return F.pad(self.head(h_u), (1, 0), value=-torch.inf)


def _normalise(vectors: torch.Tensor, has_text: torch.Tensor, how: str) -> torch.Tensor:
    """Bring item vectors ``[n_items, d]`` to a common scale; rows without text stay zero."""
    if how == "none":
        return vectors
    if how == "unit":
        return F.normalize(vectors, dim=-1)
    if how == "standardize":
        known = vectors[has_text]
        scaled = (vectors - known.mean(0)) / known.std(0).clamp_min(1e-6)
        return torch.where(has_text[:, None], scaled, 0.0)
    raise ConfigError(f"item_vector_norm must be none, unit or standardize, found {how!r}")
