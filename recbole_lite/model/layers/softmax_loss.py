"""Cross entropy over all items, in chunks, or over a sample of them."""

from __future__ import annotations

import math
from logging import getLogger
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable
from torch.distributed import ReduceOp

from recbole_lite.model.layers.history_mask import HistoryMask

if TYPE_CHECKING:
    from recbole_lite.model.layers.sharded_embedding import ShardedEmbedding

# Scores in memory at a time (4 bytes each): on a CPU what its caches hold.
_SCORES = {"cpu": 2**21, "cuda": 2**27}
_FEWEST_ROWS = 128  # fewer rows do not pay for reading the head's weights once per chunk


def cross_entropy(
    users: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    seen: HistoryMask | None = None,
    smoothing: float = 0.0,
    shard: ShardedEmbedding | None = None,
) -> torch.Tensor:
    """Mean cross entropy over all items (paper, equations 5 and 6).

    Scores and gradients are computed for one chunk of rows at a time, so that memory grows with the
    chunk and not with rows times items.

    Parameters
    ----------
    users : torch.Tensor
        h_u, ``[N, d]``.
    weight : torch.Tensor
        Head, ``[n_items, d]``.
    targets : torch.Tensor
        Row of `weight` of each target, ``[N]``.
    seen : HistoryMask, optional
        Items to mask in each row's softmax.
    smoothing : float
        Label smoothing as torch defines it: share of the target that all items of a row's softmax
        have in equal parts, the target among them.
    shard : ShardedEmbedding, optional
        `weight` is its ``head``. Each process scores it for the rows of all processes; the loss is
        the mean over all of these rows, in every process.

    Returns
    -------
    torch.Tensor
        Scalar; 0 where there are no rows.
    """
    if not torch.is_grad_enabled():  # a Function cannot see that, and would compute gradients
        users, weight = users.detach(), weight.detach()
    return _ChunkedCrossEntropy.apply(
        users, weight, targets, seen, smoothing, _NoShard() if shard is None else shard
    )


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, users, weight, targets, seen, smoothing, shard):
        wants_users, wants_weight = ctx.needs_input_grad[:2]
        ctx.dtypes, ctx.shard = (users.dtype, weight.dtype), shard
        n_own = len(users)
        users, targets, seen, sizes = shard.join(users, targets, seen)
        grad_users = torch.empty_like(users, dtype=torch.float32) if wants_users else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        total = torch.zeros((), device=users.device)
        n = len(users)
        step = rows_per_chunk(shard.size or len(weight), users.device)
        with torch.autocast(users.device.type, enabled=False):
            table = weight.float()
            # New memory for each chunk would cost more than the product.
            buffer = table.new_empty(min(step, n), len(table))
            for begin in range(0, n, step):
                part = slice(begin, min(begin + step, n))
                rows = users[part].float()
                scores = torch.mm(rows, table.T, out=buffer[: len(rows)])  # [chunk, n_items]
                if seen is not None:
                    seen.mask_scores(scores, part, shard.first)
                # One pass of exp serves the sum and the gradient.
                largest = shard.all_reduce(torch.amax(scores, 1, keepdim=True), ReduceOp.MAX)
                scores.sub_(largest)
                places = targets[part][:, None] - (shard.first or 0)
                right = places.clamp(0, scores.shape[1] - 1)
                absent = right != places  # a target of another shard
                of_targets = scores.gather(1, right).masked_fill_(absent, 0)
                of_targets = shard.all_reduce(of_targets)
                if smoothing:
                    ranked = scores.isfinite()
                    share = smoothing / shard.all_reduce(ranked.sum(1, keepdim=True))
                    of_all = scores.masked_fill(~ranked, 0).sum(1, keepdim=True)
                    total -= (share * shard.all_reduce(of_all)).sum()
                sums = shard.all_reduce(scores.exp_().sum(1, keepdim=True))
                total += (sums.log() - (1 - smoothing) * of_targets).sum()
                if not (wants_users or wants_weight):
                    continue
                # d loss / d scores = softmax - 1 at the target, here times the sums: to divide the
                # products with h_u costs less.
                of_right = ((smoothing - 1) * sums).masked_fill_(absent, 0)
                grad = scores.scatter_add_(1, right, of_right)
                if smoothing:
                    grad.sub_(ranked * (share * sums))
                if wants_users:
                    grad_users[part] = (grad @ table).div_(sums)
                if wants_weight:
                    grad_weight.addmm_(grad.T, rows / sums)
        if wants_users:
            grad_users = shard.own_sum(grad_users, sizes, n_own)
        ctx.gradients, ctx.n_rows = (grad_users, grad_weight), max(n, 1)
        return total / ctx.n_rows

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        # The processes' weights of the loss; their mean is the same factor of all rows.
        grad_output = ctx.shard.all_reduce(grad_output.clone())
        gradients = (
            None if grad is None else (grad * (grad_output / ctx.n_rows)).to(dtype)
            for grad, dtype in zip(ctx.gradients, ctx.dtypes, strict=True)
        )
        return *gradients, None, None, None, None


def divergence(
    scores: tuple[torch.Tensor, torch.Tensor | None],
    goals: tuple[torch.Tensor, torch.Tensor | None],
    seen: HistoryMask | None = None,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Sum over rows of KL(softmax(goals / T), softmax(scores / T)), in chunks.

    Parameters
    ----------
    scores, goals : pair of torch.Tensor
        h_u ``[N, d]`` and head ``[n_items, d]``, or scores ``[N, n_items]`` and None. Only `scores`
        have a gradient. Items that either gives -inf are in neither softmax.
    seen : HistoryMask, optional
        Items to mask in each row's softmax.
    temperature : float

    Returns
    -------
    torch.Tensor
        Scalar.
    """
    return _ChunkedDivergence.apply(*scores, *goals, seen, temperature)


class _ChunkedDivergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx, users, head, its_users, its_head, seen, temperature):
        wants_users, wants_head = ctx.needs_input_grad[:2]
        ctx.dtypes = users.dtype, head if head is None else head.dtype
        grad_users = torch.empty_like(users, dtype=torch.float32) if wants_users else None
        grad_head = torch.zeros_like(head, dtype=torch.float32) if wants_head else None
        total = torch.zeros((), device=users.device)
        n = len(users)
        n_items = users.shape[1] if head is None else len(head)
        step = rows_per_chunk(n_items, users.device)
        with torch.autocast(users.device.type, enabled=False):
            head, its_head = (x if x is None else x.float() for x in (head, its_head))
            for begin in range(0, n, step):
                part = slice(begin, min(begin + step, n))
                rows, its_rows = (x[part].float() / temperature for x in (users, its_users))
                scores = rows.clone() if head is None else rows @ head.T
                goals = its_rows if its_head is None else its_rows @ its_head.T
                differences = goals - scores
                if head is None or its_head is None:
                    barred = scores.isneginf() | goals.isneginf()
                    for values in (scores, goals):
                        values.masked_fill_(barred, -torch.inf)
                    differences.masked_fill_(barred, 0)
                if seen is not None:
                    seen.mask_scores(scores, part)
                    seen.mask_scores(goals, part)
                found, expected = scores.softmax(1), goals.softmax(1)
                # log of a sum of exponentials: the largest score less the log of its share
                found_sums, expected_sums = (
                    x.amax(1) - shares.amax(1).log()
                    for x, shares in ((scores, found), (goals, expected))
                )
                of_items = torch.linalg.vecdot(expected, differences)
                total += (of_items + found_sums - expected_sums).sum()
                grad = found.sub_(expected)
                if wants_users:
                    grad_users[part] = (grad if head is None else grad @ head) / temperature
                if wants_head:
                    grad_head.addmm_(grad.T, rows)
        ctx.gradients = grad_users, grad_head
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        gradients = (
            None if grad is None else (grad * grad_output).to(dtype)
            for grad, dtype in zip(ctx.gradients, ctx.dtypes, strict=True)
        )
        return *gradients, None, None, None, None


class _NoShard:
    """What :class:`ShardedEmbedding` does for a shard, where there is the whole table."""

    first = size = None

    def join(self, users, targets, seen):
        return users, targets, seen, None

    def all_reduce(self, values, op=ReduceOp.SUM):
        return values

    def own_sum(self, values, sizes, n):
        return values


def rows_per_chunk(n_items: int, device: torch.device) -> int:
    """Rows of scores in a chunk."""
    return max(_SCORES.get(device.type, 2**24) // n_items, _FEWEST_ROWS)


def sampled_cross_entropy(
    users: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    n_negatives: int,
    smoothing: float = 0.0,
) -> torch.Tensor:
    """Mean cross entropy over the target and a uniform sample of the other items.

    One sample serves all rows. Each sampled score stands for n_items / `n_negatives` items (the
    correction of sampled softmax, Jean et al. 2015), so that the sum of exponentials estimates
    the full one. Few negatives make a model overconfident (gSASRec, Petrov & Macdonald, RecSys
    2023); with some thousand the accuracy comes near full cross entropy (Klenitskiy & Vasilev,
    "Turning Dross Into Gold Loss", RecSys 2023).

    Parameters
    ----------
    users, weight, targets, smoothing
        As in :func:`cross_entropy`; `weight` can be what computes the rows that it is asked for
        (:class:`~recbole_lite.model.abstract_recommender.HeadRows`). With smoothing, the mean
        score of all items is estimated by that of the sample.
    n_negatives : int
        Size of the sample, drawn with replacement from torch's generator.

    Returns
    -------
    torch.Tensor
        Scalar; 0 where there are no rows.
    """
    n_items = len(weight)
    sample = torch.randint(n_items, (n_negatives,), device=users.device)
    rows, right = weight[sample], weight[targets]
    if not len(users):  # the rows may be other processes', which wait for this one
        return users.sum() + 0 * (rows.sum() + right.sum())
    negatives = users @ rows.T + math.log(n_items / n_negatives)  # [N, sample]
    negatives = negatives.masked_fill(sample == targets[:, None], -torch.inf)
    positives = (users * right).sum(1, keepdim=True)  # [N, 1]
    scores = torch.cat([positives, negatives], 1).float()
    loss = F.cross_entropy(scores, torch.zeros_like(targets))
    if smoothing:
        loss = loss + smoothing * (positives.squeeze(1) - users @ rows.mean(0)).mean()
    return loss


def smooth_labels(model: nn.Module, smoothing: float) -> None:
    """Smooth labels in RecBole's cross entropy; warn where a model has no such loss or setting."""
    loss = getattr(model, "loss_fct", None)
    if isinstance(loss, nn.CrossEntropyLoss):
        loss.label_smoothing = smoothing
    elif smoothing and not hasattr(model, "label_smoothing"):
        getLogger().warning(
            f"label_smoothing is ignored: the loss of {type(model).__name__} is not the cross "
            "entropy over all items"
        )
