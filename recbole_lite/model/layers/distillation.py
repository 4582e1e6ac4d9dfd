"""Distillation: the loss of a student that also learns from trained teachers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from recbole_lite.data.device_transfer import tensor_to_device, to_host
from recbole_lite.data.windows import CANDIDATES
from recbole_lite.model.abstract_recommender import NextItemModel
from recbole_lite.model.layers.history_mask import HistoryMask
from recbole_lite.model.layers.softmax_loss import divergence
from recbole_lite.utils.errors import ConfigError


class Distillation(nn.Module):
    r"""A student's loss with what a teacher makes of the same batch (``distill_from``).

    ===========  ===========================================================================
    ``hidden``   loss of the targets :math:`+ \sum_k \alpha (1 - \cos(P_k s_k, t_m)) + \beta
                 \lVert P_k s_k - t_m \rVert_2`, the means over the targets' last inputs
    ``scores``   loss of the targets :math:`+ \alpha T^2 KL(softmax(t / T), softmax(s / T))`,
                 the mean over the targets (Hinton et al., arXiv 1503.02531, Section 2)
    ===========  ===========================================================================

    ``hidden`` is the loss of SLMRec (arXiv 2405.17890, Section 4; its code,
    ``RecDistillationTrainer``, has :math:`\alpha = 1, \beta = 0.1` and reads the last position).
    Block k of the student's K, s_k, learns from the teacher's block m = round(k M / K), t_m. P_k is
    a trained linear map to the teacher's size, the identity where sizes are equal, as in SLMRec.
    With several teachers, t are the means of their scores.

    Weights and state of the teachers are no part of this module.

    Parameters
    ----------
    config : LiteConfig
        Of the student. Keys: ``distill_*`` and ``train_strategy``.
    student : torch.nn.Module
    teachers : sequence of torch.nn.Module
        Sequential models over the same internal ids, in evaluation mode; one for ``hidden``.

    Raises
    ------
    ConfigError
        The models cannot be compared in this way.
    """

    def __init__(self, config, student: nn.Module, teachers: Sequence[nn.Module]):
        super().__init__()
        self.__dict__.update(student=student, teachers=list(teachers))  # not as submodules
        self.compares_blocks = config["distill_loss"] == "hidden"
        self.weight, self.norm_weight = config["distill_weight"], config["distill_norm_weight"]
        self.temperature = config["distill_temperature"]
        if config["train_strategy"] == "prefix":
            bidirectional = [
                f"{type(teacher).__name__} there"
                for teacher in teachers
                if not getattr(getattr(teacher, "reader", None), "causal", False)
            ]
            if bidirectional or not isinstance(student, NextItemModel):
                name = [*bidirectional, type(student).__name__][0]
                raise ConfigError(
                    f"distill_from: {name} gives no outputs after every prefix of a window; set "
                    "train_strategy: all"
                )
        if self.compares_blocks:
            (number, size), (its_number, its_size) = _blocks(student), _blocks(teachers[0])
            steps = range(1, number + 1)
            self.matched = [max(round(k * its_number / number), 1) - 1 for k in steps]
            self.projections = nn.ModuleList(
                nn.Identity() if size == its_size else nn.Linear(size, its_size, bias=False)
                for _ in steps
            )

    def forward(self, interaction):
        """Loss of a training batch; a tuple where the student's is one.

        Raises
        ------
        ConfigError
            The student's scores have no gradient.
        """
        student = self.student
        own = _read(student, interaction, self.compares_blocks)
        with torch.no_grad():
            its = [_read(one, interaction, self.compares_blocks) for one in self.teachers]
        if own.targets is None:
            loss, seen = student.calculate_loss(interaction), None
        else:
            seen = student.history_mask(interaction, own.targets, own.places)
            loss = student.loss_of(own.users, own.targets, seen)
        if self.compares_blocks:
            more = self._of_blocks(own, its[0])
        else:
            more = self._of_scores(own, its, seen)
        return (*loss, more) if isinstance(loss, tuple) else loss + more

    def _of_blocks(self, own: _Reading, its: _Reading) -> torch.Tensor:
        total = torch.zeros((), device=own.users.device)
        for projection, states, place in zip(
            self.projections, own.blocks, self.matched, strict=True
        ):
            states, goals = projection(states).float(), its.blocks[place].float()
            directions = 1 - F.cosine_similarity(states, goals, dim=-1)
            distances = torch.linalg.vector_norm(states - goals, dim=-1)
            total = total + (self.weight * directions + self.norm_weight * distances).sum()
        return total / max(len(own.places), 1)

    def _of_scores(
        self, own: _Reading, its: Sequence[_Reading], seen: HistoryMask | None
    ) -> torch.Tensor:
        if not own.users.requires_grad:
            raise ConfigError(
                f"distill_loss: scores: the scores of {type(self.student).__name__} have no "
                "gradient"
            )
        users, head = own.users, None
        if own.targets is not None:
            users, head = self.student.score_users(users), self.student.score_head()
        with torch.no_grad():
            goals = self._mean_scores(its)
        total = divergence((users, head), goals, seen, self.temperature)
        return self.weight * self.temperature**2 * total / max(len(own.places), 1)

    def _mean_scores(self, its: Sequence[_Reading]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Mean of the teachers' scores, as user vectors and a head; as scores and no head."""
        if all(one.targets is not None for one in its):
            # Vectors side by side have the sum of their products.
            users = torch.cat([m.score_users(one.users) for m, one in self._read_by(its)], 1)
            return users / len(its), self._joined_head
        scores = [
            one.users if one.targets is None else model.score_users(one.users) @ head.T
            for (model, one), head in zip(self._read_by(its), self._their_heads, strict=True)
        ]
        return torch.stack(scores).mean(0), None

    def _read_by(self, its: Sequence[_Reading]) -> Iterator[tuple[nn.Module, _Reading]]:
        return zip(self.teachers, its, strict=True)

    @cached_property
    def _joined_head(self) -> torch.Tensor:
        return torch.cat(self._their_heads, 1)

    @cached_property
    def _their_heads(self) -> list[torch.Tensor | None]:
        """Heads of the teachers that have one."""
        with torch.no_grad():
            return [
                one.score_head() if isinstance(one, NextItemModel) else None
                for one in self.teachers
            ]


class _Reading(NamedTuple):
    """What a model makes of a batch of N targets.

    Attributes
    ----------
    users : torch.Tensor
        h_u ``[N, d]``; of a model with its own way to score, its scores ``[N, n_items - 1]``.
    targets : torch.Tensor or None
        Ids ``[N]``; None where `users` are scores.
    places : torch.Tensor
        On the CPU, the place in ``[B * L]`` of each target's last input ``[N]``.
    blocks : list of torch.Tensor
        Outputs of the blocks at these places, ``[N, d]`` each, if they are wanted.
    """

    users: torch.Tensor
    targets: torch.Tensor | None
    places: torch.Tensor
    blocks: list[torch.Tensor]


def _read(model, interaction, with_blocks: bool) -> _Reading:
    """Read a training batch."""
    item_seq, packing = interaction[model.ITEM_SEQ], None
    with _observed(model, with_blocks) as blocks:
        if isinstance(model, NextItemModel) and CANDIDATES not in interaction:
            users, targets, places = model.represent(interaction)
            packing = model.row_packing(item_seq) if blocks else None
        else:
            users = model.full_sort_predict(interaction).view(len(item_seq), -1)[:, 1:]
            targets, lengths = None, to_host(interaction[model.ITEM_SEQ_LEN])
            places = torch.arange(len(lengths)) * item_seq.shape[1] + lengths - 1
    if blocks:
        slots = places if packing is None else packing.slots_of(places)
        slots = tensor_to_device(slots, item_seq.device)
        blocks = [states.flatten(0, 1).index_select(0, slots) for states in blocks]
    return _Reading(users, targets, places, blocks)


def _encoder(model) -> nn.Module | None:
    """The part of a model that holds its blocks: Hugging Face's, or RecBole's."""
    reader = getattr(model, "reader", None)
    return getattr(model, "trm_encoder", None) if reader is None else reader.encoder


def _blocks(model) -> tuple[int, int]:
    """Number of a model's blocks, and the size of their outputs."""
    encoder = _encoder(model)
    if encoder is None:
        raise ConfigError(
            f"distill_loss: hidden compares the outputs of blocks, {type(model).__name__} has no "
            "blocks that are known here; set distill_loss: scores"
        )
    if isinstance(model, NextItemModel):
        return encoder.config.num_hidden_layers, model.reader.hidden_size
    return len(encoder.layer), model.hidden_size


@contextmanager
def _observed(model, wanted: bool) -> Iterator[list[torch.Tensor]]:
    """Collect the outputs ``[R, L, d]`` of a model's blocks."""
    found: list[torch.Tensor] = []
    hooks = []
    if wanted:
        encoder, ours = _encoder(model), isinstance(model, NextItemModel)
        if ours:
            hooks.append(encoder.register_forward_pre_hook(_ask_for_states, with_kwargs=True))

        def collect(module, args, output):
            found.extend(output.hidden_states[1:] if ours else output)

        hooks.append(encoder.register_forward_hook(collect))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _ask_for_states(module, args, kwargs):
    return args, {**kwargs, "output_hidden_states": True}
