"""LITE-LLM4Rec: hierarchical LLMs and an item projection head (arXiv 2402.09543, Section 4)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import nn

from recbole_lite.config.stages import Stage, read_stages
from recbole_lite.data.windows import CANDIDATES
from recbole_lite.model.abstract_recommender import NextItemModel
from recbole_lite.model.layers.candidate_scores import (
    append_candidates,
    candidate_loss,
    scatter_to_catalogue,
    score_candidates,
)
from recbole_lite.model.layers.dropout import Dropout
from recbole_lite.model.layers.item_tower import ItemTower
from recbole_lite.model.layers.rec_llm import RecommendationLLM
from recbole_lite.model.layers.row_packing import RowPacking
from recbole_lite.model.layers.user_pooling import UserPooling
from recbole_lite.text.llm_files import weights_fingerprint
from recbole_lite.text.lora import is_adapter, set_trainable
from recbole_lite.utils.errors import ConfigError

# Setting of a language model -> names of its weights, which adapters of ``<setting>_lora`` freeze.
_ADAPTED = {"rec_llm": "rec_llm.encoder.", "item_llm": "item_tower.item_llm.encoder."}


class LiteLLM4Rec(NextItemModel):
    """Item vectors -> Recommendation LLM -> mean -> one score per item; no decoder.

    ========================  ==========================================================
    Item LLM                  text of item i -> ``h_i`` (equations 1-3)
    adapter                   one linear layer where ``h_i`` and the Recommendation LLM
                              differ in dimension (Section 5.5.2)
    Recommendation LLM        ``h_u = mean(Rec_LLM(h_1 ... h_L))`` (equation 4)
    head                      ``logits = W_proj h_u``, no bias (equation 5)
    loss                      cross entropy over all items (equation 6)
    ========================  ==========================================================

    Parameters
    ----------
    config : LiteConfig
        Keys: ``properties/model/LiteLLM4Rec.yaml``.
    dataset : LiteSequentialDataset
        Has the number of items and their text.

    Raises
    ------
    ConfigError, ModelFilesError, DataError
        A key is wrong; a language model or the items' text is not available.
    """

    reads_candidates = True  # task: topn

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        topn = config["task"] == "topn"
        # All candidates share one position, the next after the history.
        max_length = self.max_seq_length * (not topn or config["topn_history"]) + topn
        self.shows_history = config["topn_history"]
        self.rec_llm = RecommendationLLM(
            config["rec_llm"],
            config["rec_llm_init"],
            config["rec_llm_config"],
            config["rec_llm_dropout"],
            max_length,
            config["local_files_only"],
            config["rec_llm_causal"],
            reads_candidates=topn,
            lora=config["rec_llm_lora"],
        )
        if config["train_strategy"] == "prefix" and not self.rec_llm.causal:
            raise ConfigError(
                "train_strategy: prefix needs rec_llm_causal: True; otherwise the inputs contain "
                "the targets"
            )
        stages = read_stages(config)
        d, d_item = self.rec_llm.hidden_size, self.rec_llm.input_size
        if config["tie_head"] and d != d_item:
            raise ConfigError(
                f"tie_head: True scores items by the vectors that the Recommendation LLM reads; "
                f"rec_llm reads {d_item} numbers and gives {d}. Set tie_head: False"
            )
        self.item_tower = ItemTower(config, dataset, d_item, {s.item_llm_training for s in stages})
        self.item_vectors_sha256 = self.item_tower.vectors_sha256
        if topn and config["item_mask_ratio"]:
            raise ConfigError("item_mask_ratio would mask candidates of task: topn; set it to 0")
        self.item_mask = nn.Dropout1d(config["item_mask_ratio"] or 0.0)
        self.item_dropout = Dropout(config["item_dropout"])
        self.pooling = UserPooling(config["user_pooling"])
        self.user_dropout = Dropout(config["user_dropout"])
        # Row i - 1 scores item i.
        self.head = None if config["tie_head"] else nn.Linear(d, self.n_items - 1, bias=False)
        self.read_loss(config)
        # An Item LLM in training reads the ids on the host; packed rows are made on the device.
        self.packs_rows = self.packs_rows and self.item_tower.item_llm is None
        self.frozen_names = frozenset(self._frozen_names(config))
        self.saves_adapters_only = config["checkpoint_adapters_only"]
        if self.saves_adapters_only:
            self._check_adapters(config)
        if self.head is None:
            _check_tied(stages, self.loss_type)
        self.start_stage(stages[0])

    def start_stage(self, stage: Stage) -> None:
        """Make the stage's parts trainable and freeze the others."""
        self.item_tower.set_trainable(stage.item_llm_training)
        parts = {
            "rec_llm": [self.rec_llm, self.pooling],
            "adapter": [self.item_tower.adapter],
            "head": [self.head] if self.head is not None else [],
        }
        for name, modules in parts.items():
            for module in modules:
                set_trainable(module, name not in stage.frozen_parts)

    def _frozen_names(self, config) -> Iterator[str]:
        """Names of the tensors that adapters leave frozen."""
        adapted = tuple(
            prefix for key, prefix in _ADAPTED.items() if config[f"{key}_lora"] is not None
        )
        for name in self.state_dict():
            if adapted and name.startswith(adapted) and not is_adapter(name):
                yield name

    def _check_adapters(self, config) -> None:
        if not self.frozen_names:
            raise ConfigError(
                "checkpoint_adapters_only: True needs adapters: set rec_llm_lora or item_llm_lora"
            )
        if config["rec_llm_lora"] is not None and self.rec_llm.folder is None:
            raise ConfigError(
                "checkpoint_adapters_only: True needs rec_llm_init: pretrained; random weights "
                "cannot be read again"
            )

    def base_llms(self) -> dict[str, str]:
        """SHA-256 of the files of the language models that have adapters, by setting."""
        llms = {"rec_llm": self.rec_llm, "item_llm": self.item_tower.item_llm}
        return {
            key: weights_fingerprint(llms[key].folder)
            for key, prefix in _ADAPTED.items()
            if any(name.startswith(prefix) for name in self.frozen_names) and llms[key].folder
        }

    @property
    def reader(self) -> RecommendationLLM:
        """The Recommendation LLM."""
        return self.rec_llm

    def item_vectors(self, items: torch.Tensor) -> torch.Tensor:
        """Vectors of items behind the adapter, ``[...]`` ids -> ``[..., d]``."""
        return self.item_tower(items)

    def item_table(self) -> torch.Tensor:
        """Vectors of all items behind the adapter, ``[n_items, d]``."""
        return self.item_tower(torch.arange(self.n_items, device=self.item_tower.lacks_text.device))

    def head_weight(self) -> torch.Tensor:
        """``W_proj`` (equation 5), ``[n_items - 1, d]``; with ``tie_head`` the item vectors."""
        return self.item_tower.table()[1:] if self.head is None else self.head.weight

    def head_rows(self, items: torch.Tensor) -> torch.Tensor:
        """Rows of the head of some items, ``[n]`` ids -> ``[n, d]``; no others are computed."""
        return self.item_tower(items) if self.head is None else self.head.weight[items - 1]

    def encode(
        self,
        item_seq: torch.Tensor,
        packing: RowPacking | None = None,
        n_candidates: int = 0,
    ) -> torch.Tensor:
        """Outputs of the Recommendation LLM, ``[B, L]`` ids -> ``[B, L, d]``.

        The last `n_candidates` of the items have no order.
        """
        vectors = self.item_dropout(self.item_mask(self.input_vectors(item_seq)))
        return self.rec_llm(vectors, item_seq != 0, n_candidates, packing)

    def candidate_scores(self, interaction) -> torch.Tensor:
        """Scores of the candidates that the Recommendation LLM reads, ``[B, C]`` (Section 5.4).

        Permuting the candidates permutes the scores.
        """
        candidates, history = interaction[CANDIDATES], interaction[self.ITEM_SEQ]
        inputs = append_candidates(history if self.shows_history else history[:, :0], candidates)
        n_candidates = candidates.shape[1]
        h_u = self.pooling(
            self.encode(inputs, n_candidates=n_candidates), inputs != 0, n_candidates
        )
        h_u = self.score_users(self.user_dropout(h_u))
        return score_candidates(h_u, self.score_head(), candidates)

    def calculate_loss(self, interaction):
        """Cross entropy over all items, with ``task: topn`` over the candidates."""
        if CANDIDATES not in interaction:
            # With tie_head, targets and negatives are read beside the history.
            item_llm = self.item_tower.item_llm if self.head is None else None
            with nullcontext() if item_llm is None else item_llm.encoding_once():
                return super().calculate_loss(interaction)
        scores, candidates = self.candidate_scores(interaction), interaction[CANDIDATES]
        targets = interaction[self.POS_ITEM_ID]
        return candidate_loss(scores, candidates, targets, self.label_smoothing)

    def predict(self, interaction):
        """Scores of the given items, ``[B]``."""
        if CANDIDATES not in interaction:
            return super().predict(interaction)
        scores = self.full_sort_predict(interaction)
        return scores.gather(1, interaction[self.ITEM_ID][:, None]).squeeze(1)

    def full_sort_predict(self, interaction):
        """Scores of all items, ``[B, n_items]``; -inf for padding (id 0).

        With ``task: topn`` of the candidates; -inf for all others.
        """
        if CANDIDATES not in interaction:
            return super().full_sort_predict(interaction)
        scores = self.candidate_scores(interaction)
        return scatter_to_catalogue(scores, interaction[CANDIDATES], self.n_items)


def _check_tied(stages: list[Stage], loss_type: str) -> None:
    for stage in stages:
        if stage.item_llm_training == "full" and loss_type != "InfoNCE":
            # Algorithm 1 encodes only the items of a batch; a loss over all needs all of them.
            raise ConfigError(
                "tie_head: True with item_llm_training: full needs loss_type: InfoNCE; the other "
                "losses read the vectors of all items at each step"
            )
        if "head" in stage.frozen_parts:
            raise ConfigError("frozen_parts: with tie_head: True there is no head to freeze")
