"""Item tables in bfloat16 or float16 (``item_dtype``); arithmetic and gradients are in float32."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

_ROWS_AT_ONCE = 2**15


class ItemEmbedding(nn.Embedding):
    """``nn.Embedding`` whose rows are looked up by :func:`look_up`."""

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Rows of items in float32, ``[...]`` ids -> ``[..., d]``."""
        return look_up(items, self.weight, self.sparse)


def look_up(items: torch.Tensor, weight: torch.Tensor, sparse: bool = False) -> torch.Tensor:
    """``F.embedding`` in float32; the gradient of a table in half precision is sparse, in float32.

    Parameters
    ----------
    items : torch.Tensor
        ``[...]`` rows.
    weight : torch.Tensor
        ``[n, d]``; in half precision with a ``grad_dtype`` of float32.
    sparse : bool
        Of a table in float32.
    """
    if weight.dtype == torch.float32:
        return F.embedding(items, weight, sparse=sparse)
    return _HalfRows.apply(weight, items)


class _HalfRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight, items):
        ctx.save_for_backward(items)
        ctx.shape = weight.shape
        return F.embedding(items, weight).float()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (items,) = ctx.saved_tensors
        values = grad.reshape(-1, ctx.shape[1])
        rows = items.reshape(1, -1)
        return torch.sparse_coo_tensor(rows, values, ctx.shape, check_invariants=False), None


def round_stochastically(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Round to one of the two neighbours in `dtype` at random, so that the mean is the value.

    Rounding to the nearest would lose steps of less than half the distance of the neighbours.

    Parameters
    ----------
    values : torch.Tensor
        float32.
    dtype : torch.dtype
        bfloat16 or float16; float32 gives the values themselves, and draws nothing.
    """
    if dtype == torch.float32:
        return values
    half, whole = torch.finfo(dtype), torch.finfo(torch.float32)
    distance = int(half.eps / whole.eps)  # of neighbours, in numbers of float32
    scale = whole.tiny / half.tiny  # below `tiny`, numbers of both types lose digits alike
    bits = (values * scale).view(torch.int32)
    bits = (bits + torch.randint_like(bits, distance)) & -distance
    return (bits.view(torch.float32) / scale).to(dtype)


def scores_by_blocks(
    users: torch.Tensor, head: torch.Tensor, prepare: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """``users @ prepare(head.float()).T``, ``[B, n]``; few rows of the head are in float32 at once.

    Parameters
    ----------
    users : torch.Tensor
        ``[B, d]``.
    head : torch.Tensor
        ``[n, d]``.
    prepare : callable
        Rows -> rows.
    """
    scores = users.new_empty(len(users), len(head))
    for begin in range(0, len(head), _ROWS_AT_ONCE):
        part = slice(begin, begin + _ROWS_AT_ONCE)
        scores[:, part] = users @ prepare(head[part].float()).T
    return scores
