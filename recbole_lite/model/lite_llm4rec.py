"""LITE-LLM4Rec: hierarchical LLMs and an item projection head (arXiv 2402.09543, Section 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from torch import nn

from recbole_lite.data.prefixes import TARGETS
from recbole_lite.data.windows import SEEN
from recbole_lite.errors import ConfigError
from recbole_lite.model.dropout import Dropout
from recbole_lite.model.item_tower import ItemTower
from recbole_lite.model.pooling import UserPooling
from recbole_lite.model.rec_llm import RecommendationLLM
from recbole_lite.model.seen import Seen
from recbole_lite.model.softmax_loss import cross_entropy, sampled_cross_entropy
from recbole_lite.stages import Stage, read_stages


class LiteLLM4Rec(SequentialRecommender):
    """Item vectors -> Recommendation LLM -> mean -> one score per item; no decoder.

    ========================  ==========================================================
    Item LLM                  text of item i -> ``h_i`` (equations 1-3)
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

    trains_prefixes = True  # train_strategy: prefix
    can_exclude_history = True  # loss_exclude_history

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.rec_llm = RecommendationLLM(
            config["rec_llm"],
            config["rec_llm_init"],
            config["rec_llm_config"],
            config["rec_llm_dropout"],
            self.max_seq_length,
            config["local_files_only"],
            config["rec_llm_causal"],
        )
        if config["train_strategy"] == "prefix" and not self.rec_llm.causal:
            raise ConfigError(
                "train_strategy: prefix needs rec_llm_causal: True; otherwise the inputs contain "
                "the targets"
            )
        stages = read_stages(config)
        d = self.rec_llm.hidden_size
        self.item_tower = ItemTower(config, dataset, d, {s.item_llm_training for s in stages})
        self.item_dropout = Dropout(config["item_dropout"])
        self.pooling = UserPooling(config["user_pooling"])
        self.user_dropout = Dropout(config["user_dropout"])
        # Row i - 1 scores item i.
        self.head = None if config["tie_head"] else nn.Linear(d, self.n_items - 1, bias=False)
        if self.head is None:
            _check_tied(stages)
        self.loss_type, self.n_negatives = config["loss_type"], config["sce_negatives"]
        self.excludes_seen = config["loss_exclude_history"]
        if self.loss_type not in ("CE", "SCE"):
            raise ConfigError(
                f"loss_type must be CE or SCE for LiteLLM4Rec, found {self.loss_type!r}"
            )
        if self.loss_type == "SCE" and self.excludes_seen:
            raise ConfigError("loss_exclude_history works with loss_type: CE only")
        self.enter(stages[0])

    def enter(self, stage: Stage) -> None:
        """Make trainable what a stage trains."""
        self.item_tower.train_as(stage.item_llm_training)
        parts = {
            "rec_llm": [self.rec_llm, self.pooling],
            "adapter": [self.item_tower.adapter],
            "head": [self.head] if self.head is not None else [],
        }
        for name, modules in parts.items():
            for module in modules:
                module.requires_grad_(name not in stage.frozen_parts)

    def head_weight(self) -> torch.Tensor:
        """``W_proj`` (equation 5), ``[n_items - 1, d]``; with ``tie_head`` the item vectors."""
        return self.item_tower.table()[1:] if self.head is None else self.head.weight

    def encode(self, item_seq: torch.Tensor) -> torch.Tensor:
        """Outputs of the Recommendation LLM, ``[B, L]`` ids -> ``[B, L, d]``."""
        return self.rec_llm(self.item_dropout(self.item_tower(item_seq)), item_seq != 0)

    def forward(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> torch.Tensor:
        """User representations ``h_u`` (equation 4).

        Parameters
        ----------
        item_seq : torch.Tensor
            ``[B, L]`` internal item ids, 0 for padding (behind, where the model is causal).
        item_seq_len : torch.Tensor
            ``[B]``; part of RecBole's contract, the mask follows from the ids.

        Returns
        -------
        torch.Tensor
            ``[B, d]``.
        """
        return self.user_dropout(self.pooling(self.encode(item_seq), item_seq != 0))

    def calculate_loss(self, interaction):
        """Cross entropy over all items (equation 6), mean over the targets of the batch."""
        item_seq = interaction[self.ITEM_SEQ]
        if TARGETS in interaction:  # one target for each prefix
            asked = interaction[TARGETS] > 0  # [B, L]
            rows, steps = asked.nonzero(as_tuple=True)
            targets = interaction[TARGETS][asked]  # [N]
            pooled = self.pooling.prefixes(self.encode(item_seq))  # [B, L, d]
            users = self.user_dropout(pooled[asked])  # [N, d]
        else:
            targets = interaction[self.POS_ITEM_ID]
            rows = torch.arange(len(targets), device=targets.device)
            steps = interaction[self.ITEM_SEQ_LEN] - 1
            users = self.forward(item_seq, interaction[self.ITEM_SEQ_LEN])
        if self.loss_type == "SCE":
            return sampled_cross_entropy(users, self.head_weight(), targets - 1, self.n_negatives)
        seen = None
        if self.excludes_seen:
            seen = Seen(interaction[SEEN], item_seq, rows, steps, targets)
        return cross_entropy(users, self.head_weight(), targets - 1, seen)

    def loss_terms(self, interaction) -> int:
        """Number of targets that a batch's loss is the mean over."""
        if TARGETS in interaction:
            return int((interaction[TARGETS] > 0).sum())
        return len(interaction)

    def predict(self, interaction):
        """Scores of the given items, ``[B]``."""
        h_u = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return (h_u * self.head_weight()[interaction[self.ITEM_ID] - 1]).sum(-1)

    def full_sort_predict(self, interaction):
        """Scores of all items, ``[B, n_items]``; -inf for padding (id 0)."""
        h_u = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return F.pad(h_u @ self.head_weight().T, (1, 0), value=-torch.inf)


def _check_tied(stages: list[Stage]) -> None:
    for stage in stages:
        if stage.item_llm_training == "full":
            # Algorithm 1 encodes the items of a batch only; a tied head needs all of them.
            raise ConfigError("tie_head: True does not go with item_llm_training: full")
        if "head" in stage.frozen_parts:
            raise ConfigError("frozen_parts: with tie_head: True there is no head to freeze")
