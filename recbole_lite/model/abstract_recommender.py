"""Base class of models with a head over all items: h_u, the loss, the scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender

from recbole_lite.data.device_transfer import tensor_to_device, to_host
from recbole_lite.data.prefix_windows import TARGETS, count_targets
from recbole_lite.data.windows import SEEN
from recbole_lite.model.layers.contrastive_loss import LearnedScale, info_nce
from recbole_lite.model.layers.deduplicate import distinct_rows
from recbole_lite.model.layers.half_table import scores_by_blocks
from recbole_lite.model.layers.history_mask import HistoryMask
from recbole_lite.model.layers.row_packing import RowPacking, pack_rows
from recbole_lite.model.layers.sharded_embedding import ShardedEmbedding
from recbole_lite.model.layers.softmax_loss import cross_entropy, sampled_cross_entropy
from recbole_lite.utils.errors import ConfigError

if TYPE_CHECKING:  # it imports transformers, which trainings of SASRec need not wait for
    from recbole_lite.model.layers.rec_llm import EmbeddingEncoder

_COPIED = 2**21  # items up to which an evaluation copies the head
LOSSES = ("CE", "SCE", "InfoNCE")


class NextItemModel(SequentialRecommender):
    """Sequence of items -> outputs -> h_u -> one score per item.

    A subclass sets ``pooling`` and ``user_dropout``, calls :meth:`read_loss`, and implements
    :attr:`reader`, :meth:`item_table`, :meth:`encode` and :meth:`head_weight`. With
    :meth:`item_vectors`, :meth:`encode` can take its inputs from :meth:`input_vectors`.

    Attributes
    ----------
    pooling : UserPooling
        Outputs ``[B, L, d]`` -> h_u ``[B, d]``.
    user_dropout : torch.nn.Module
        Applied to h_u.
    packs_rows : bool
        Whether training batches may be packed (``cut_padding``); set by :meth:`read_loss`.
    item_vectors_sha256 : str or None
        Of the precomputed vectors (``item_vectors``) that the model began with.
    """

    item_vectors_sha256: str | None = None

    trains_prefixes = True  # train_strategy: prefix
    can_exclude_history = True  # loss_exclude_history
    reads_any_length = True  # cut_padding
    loss_terms = staticmethod(count_targets)
    item_shard: ShardedEmbedding | None = None  # with shard_items, this process's rows of the table
    item_dtype = torch.float32  # of the item table
    _kept: dict[str, torch.Tensor] | None = None  # within `fixed_items`, by name

    def read_loss(self, config) -> None:
        """Set the loss by its keys, from ``loss_type`` to ``label_smoothing``.

        Raises
        ------
        ConfigError
            There is no such loss, or ``loss_exclude_history`` does not support it.
        """
        self.loss_type, self.n_negatives = config["loss_type"], config["num_negatives"]
        self.excludes_history = config["loss_exclude_history"]
        self.label_smoothing = config["label_smoothing"]
        self.packs_rows = config["cut_padding"]
        if self.loss_type not in LOSSES:
            raise ConfigError(
                f"loss_type must be one of {', '.join(LOSSES)} for {config['model']}, found "
                f"{self.loss_type!r}"
            )
        if self.loss_type != "CE" and self.excludes_history:
            raise ConfigError(
                "loss_exclude_history works with loss_type: CE only; set it to False for "
                f"{self.loss_type}"
            )
        if self.loss_type == "InfoNCE" and self.label_smoothing:
            raise ConfigError("label_smoothing works with loss_type: CE and SCE only")
        cosines = self.loss_type == "InfoNCE" or config["cosine_head"]
        self.scale = LearnedScale() if cosines else None

    @property
    def reader(self) -> EmbeddingEncoder | None:
        """The language model over item vectors; None: another reader, whose rows are not packed."""
        return None

    def item_vectors(self, items: torch.Tensor) -> torch.Tensor:
        """Input vectors of items, ``[...]`` ids -> ``[..., d]``."""
        raise NotImplementedError

    def input_vectors(self, items: torch.Tensor) -> torch.Tensor:
        """:meth:`item_vectors`; rows of a table within :meth:`fixed_items`."""
        if self._kept is None or self.item_shard is not None:
            return self.item_vectors(items)
        return F.embedding(items, self._keep("table", self.item_table)).float()

    def item_table(self) -> torch.Tensor:
        """Input vectors of all items, ``[n_items, d]``; row 0 is padding.

        No gradients flow through an Item LLM.
        """
        raise NotImplementedError

    def encode(self, item_seq: torch.Tensor, packing: RowPacking | None = None) -> torch.Tensor:
        """Outputs of the language model, ``[B, L]`` ids -> ``[B, L, d]``.

        With a `packing` a row holds several histories.
        """
        raise NotImplementedError

    def head_weight(self) -> torch.Tensor:
        """``W_proj`` (equation 5), ``[n_items - 1, d]``: row i - 1 scores item i."""
        raise NotImplementedError

    def head_rows(self, items: torch.Tensor) -> torch.Tensor:
        """Rows of the head of some items, ``[n]`` ids -> ``[n, d]``."""
        return self.head_weight()[items - 1]

    def score_head(self) -> torch.Tensor:
        """Rows whose product with :meth:`score_users` gives scores, ``[n_items - 1, d]``.

        With ``shard_items`` those of this process. With cosines (``cosine_head``, InfoNCE) of
        length exp(t): scores are exp(t) cos(u, v).
        """
        return self._scored(self.head_weight())

    def _scored(self, rows: torch.Tensor) -> torch.Tensor:
        return rows if self.scale is None else self.scale() * F.normalize(rows, dim=-1)

    def score_users(self, h_u: torch.Tensor) -> torch.Tensor:
        """h_u as it is scored, ``[B, d]``: with cosines of length 1."""
        return h_u if self.scale is None else F.normalize(h_u, dim=-1)

    def forward(self, item_seq: torch.Tensor, item_seq_len: torch.Tensor) -> torch.Tensor:
        """User representations ``h_u`` (equation 4).

        Parameters
        ----------
        item_seq : torch.Tensor
            ``[B, L]`` internal item ids, 0 for padding (at the end, where the model is causal).
        item_seq_len : torch.Tensor
            ``[B]``; part of RecBole's interface, the mask follows from the ids.

        Returns
        -------
        torch.Tensor
            ``[B, d]``.
        """
        mask = item_seq != 0
        skips = not self.training and self.pooling.kind == "last" and self.reader is not None
        with self.reader.only_last(mask) if skips else nullcontext():
            hidden = self.encode(item_seq)
        return self.user_dropout(self.pooling(hidden, mask))

    def row_packing(self, item_seq: torch.Tensor) -> RowPacking | None:
        """Packing of a training batch with ``cut_padding``, where it pays.

        Batches of similar length would have as little padding, but they train worse in the same
        number of steps (results/README.md).
        """
        if not (self.packs_rows and self.reader is not None and self.reader.packs):
            return None
        return pack_rows(to_host(item_seq) != 0, item_seq.device)

    def _outputs(self, item_seq: torch.Tensor) -> torch.Tensor:
        """Outputs of :meth:`encode`, ``[B, L, d]``; values at padding are meaningless."""
        packing = self.row_packing(item_seq)
        if packing is None:
            return self.encode(item_seq)
        return packing.unpack(self.encode(packing.pack(item_seq), packing))

    def _of_prefixes(self, item_seq: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Representations after the inputs at `places` in ``[B * L]``, ``[N, d]``.

        `places` are ascending and on the CPU, as their number decides shapes.
        """
        packing = self.row_packing(item_seq)
        if packing is None:
            pooled = self.pooling.prefixes(self.encode(item_seq))  # [B, L, d]
        else:
            hidden = self.encode(packing.pack(item_seq), packing)  # [R, L, d]
            pooled = self.pooling.prefixes(hidden, packing.histories)
            places = packing.slots_of(places)
        return pooled.flatten(0, 1).index_select(0, tensor_to_device(places, item_seq.device))

    def represent(self, interaction) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """h_u at every target of a training batch.

        Returns
        -------
        tuple of torch.Tensor
            h_u ``[N, d]``; ids of the targets ``[N]``; on the CPU, the place in ``[B * L]`` of each
            target's last input ``[N]``, ascending.
        """
        item_seq = interaction[self.ITEM_SEQ]
        if TARGETS in interaction:  # one target for each prefix
            targets = to_host(interaction[TARGETS]).flatten()  # [B * L]
            places = targets.nonzero().squeeze(1)
            users = self.user_dropout(self._of_prefixes(item_seq, places))
            return users, tensor_to_device(targets[places], item_seq.device), places
        lengths = to_host(interaction[self.ITEM_SEQ_LEN])
        places = torch.arange(len(lengths)) * item_seq.shape[1] + lengths - 1
        users = self.user_dropout(self.pooling(self._outputs(item_seq), item_seq != 0))
        return users, interaction[self.POS_ITEM_ID], places

    def history_mask(self, interaction, targets, places) -> HistoryMask | None:
        """Items that ``loss_exclude_history`` takes out of the loss of :meth:`represent`'s rows."""
        if not self.excludes_history:
            return None
        item_seq = interaction[self.ITEM_SEQ]
        rows, steps = places // item_seq.shape[1], places % item_seq.shape[1]
        return HistoryMask(interaction[SEEN], item_seq, rows, steps, targets)

    def calculate_loss(self, interaction):
        """The loss of ``loss_type`` (equation 6: CE), mean over the targets of the batch.

        A distillation (``distill_from``) computes it in the same three steps.
        """
        users, targets, places = self.represent(interaction)
        return self.loss_of(users, targets, self.history_mask(interaction, targets, places))

    def loss_of(self, users, targets, seen: HistoryMask | None) -> torch.Tensor:
        """Loss of ``loss_type`` for what :meth:`represent` gives."""
        if self.loss_type == "InfoNCE":
            return self._contrastive_loss(users, targets)
        users = self.score_users(users)
        if self.loss_type == "SCE":
            return sampled_cross_entropy(
                users, HeadRows(self), targets - 1, self.n_negatives, self.label_smoothing
            )
        return cross_entropy(
            users, self.score_head(), targets - 1, seen, self.label_smoothing, self.item_shard
        )

    def _contrastive_loss(self, users, targets):
        """InfoNCE against the batch's other targets and a uniform sample, each item once."""
        targets = to_host(targets)  # the number of distinct items decides shapes
        sample = torch.randint(1, self.n_items, (self.n_negatives,))
        items = torch.cat([targets, sample]).unique()
        rows = torch.searchsorted(items, targets)
        items, rows = (tensor_to_device(x, users.device) for x in (items, rows))
        return info_nce(users, self.head_rows(items), rows, self.scale())

    def predict(self, interaction):
        """Scores of the given items, ``[B]``."""
        rows, inverse = distinct_rows(interaction, self.USER_ID, self.ITEM_SEQ)
        h_u = self.forward(rows[self.ITEM_SEQ], rows[self.ITEM_SEQ_LEN])[inverse]
        head = self.head_weight()[interaction[self.ITEM_ID] - 1]
        return (self.score_users(h_u) * self._scored(head.float())).sum(-1)

    def full_sort_predict(self, interaction):
        """Scores of all items, ``[B, n_items]``; -inf for padding (id 0).

        With ``shard_items`` only the best ones, see :meth:`ShardedEmbedding.best_scores`.
        """
        h_u = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        h_u = self.score_users(h_u)
        if self.item_shard is not None:
            return self.item_shard.best_scores(h_u, self._scores)
        if self.n_items > _COPIED or self.item_dtype != torch.float32:
            return F.pad(self._scores(h_u), (1, 0), value=-torch.inf)
        scores = h_u @ self._keep("padded head", self._padded_head)
        scores[:, 0] = -torch.inf
        return scores

    def _scores(self, users: torch.Tensor) -> torch.Tensor:
        """Scores of the rows of :meth:`score_head`, ``[B, n]``."""
        if self.item_dtype != torch.float32:
            return scores_by_blocks(users, self.head_weight(), self._scored)
        return users @ self._keep("head", self.score_head).T

    @torch.no_grad()
    def keep_items(self, dtype: torch.dtype) -> torch.Tensor:
        """Compute the items' vectors once and keep them in `dtype`: the model is to score alone.

        Returns
        -------
        torch.Tensor
            :meth:`score_head` in `dtype`; where the head is tied, a part of the kept table.
        """
        table, head = self.item_table().detach().to(dtype), self.score_head().detach().to(dtype)
        self._kept = {"table": table}
        return head

    @contextmanager
    def fixed_items(self) -> Iterator[None]:
        """Compute the items' vectors and the head once, for all batches of an evaluation."""
        self._kept = {}
        try:
            with torch.no_grad():
                yield
        finally:
            self._kept = None

    def _padded_head(self) -> torch.Tensor:
        """``[d, n_items]``; a column for padding in the scores would be a copy of them."""
        return F.pad(self.score_head(), (0, 0, 1, 0)).T.contiguous()  # products read it faster

    def _keep(self, name: str, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What `compute` gives, within :meth:`fixed_items` computed once."""
        if self._kept is None:
            return compute()
        if name not in self._kept:
            self._kept[name] = compute().detach()
        return self._kept[name]


class HeadRows:
    """:meth:`~NextItemModel.score_head`; its rows are computed when they are asked for."""

    def __init__(self, model: NextItemModel):
        self._model = model

    def __len__(self) -> int:
        return self._model.n_items - 1

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        return self._model._scored(self._model.head_rows(rows + 1))


def fixed_items(model: torch.nn.Module) -> AbstractContextManager:
    """Block of an evaluation; a :class:`NextItemModel` computes its items once in it."""
    return model.fixed_items() if isinstance(model, NextItemModel) else nullcontext()
