"""Matrix products in whichever of torch's kernels is the fastest on the processor at hand.

torch sends a float32 product to MKL, which leaves half of an AMD processor's vector width unused.
oneDNN, which comes with torch as well, uses all of it where the matrix is laid out for it
beforehand; torch.compile reaches it by the operators that are used here.
"""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from torch import nn
from transformers import activations

from recbole_lite.inference.blocks import Affine
from recbole_lite.products import wants_onednn

# Activations that oneDNN applies to a product while it is in the registers.
_FUSED = {
    nn.ReLU: ("relu", ""),
    activations.GELUTanh: ("gelu", "tanh"),
    activations.NewGELUActivation: ("gelu", "tanh"),
    activations.GELUActivation: ("gelu", "none"),
}


class Dense(nn.Module):
    """``act(x W + b)``; float32 in, float32 out, the product in a number type of its own.

    Parameters
    ----------
    affine : (torch.Tensor, torch.Tensor or None)
        W ``[in, out]`` and b ``[out]``.
    dtype : torch.dtype
    activation : nn.Module, optional
    """

    def __init__(self, affine: Affine, dtype: torch.dtype, activation: nn.Module | None = None):
        super().__init__()
        weight, bias = affine
        self.shape = tuple(weight.shape)
        self.register_buffer("weight", weight.detach().to(dtype).contiguous())
        self.register_buffer("bias", None if bias is None else bias.detach().float().contiguous())
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, in]`` -> ``[N, out]``."""
        x = (x.to(self.weight.dtype) @ self.weight).float()
        x = x if self.bias is None else x + self.bias
        return x if self.activation is None else self.activation(x)


class PackedDense:
    """:class:`Dense` with oneDNN's layout of the matrix (CPU, inference only).

    Not a module: what ``nn.Module`` does at each call is noticed where one user waits.
    """

    def __init__(self, affine: Affine, dtype: torch.dtype, activation: nn.Module | None = None):
        weight, bias = affine
        self.dtype, self.shape = dtype, tuple(weight.shape)
        self.bias = None if bias is None else bias.detach().to(dtype)
        plain = weight.detach().T.to(dtype).contiguous()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(plain, None)
        self.fused = _FUSED.get(type(activation), ("none", ""))
        self.activation = activation if self.fused[0] == "none" else None
        # Looked up once: by its name alone torch would look for it at every call.
        self.product = torch.ops.mkldnn._linear_pointwise.default

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, in]`` -> ``[N, out]``."""
        name, algorithm = self.fused
        x = x if self.dtype is torch.float32 else x.to(self.dtype)
        x = self.product(x, self.packed, self.bias, name, [], algorithm)
        x = x if self.dtype is torch.float32 else x.float()
        return x if self.activation is None else self.activation(x)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See :meth:`forward`."""
        return self.forward(x)


def fastest(affine: Affine, dtype: torch.dtype, activation: nn.Module | None = None) -> type:
    """Kind of layer that is faster for such a matrix, on the processor at hand.

    oneDNN's operators are not torch's documented interface: where they are absent, fail, or do
    not give the product, the answer is :class:`Dense`. Takes some 20 ms.

    Parameters
    ----------
    affine, dtype, activation
        As of the layers to come.

    Returns
    -------
    type
        :class:`Dense` or :class:`PackedDense`.
    """
    weight = affine[0]
    if weight.device.type != "cpu":
        return Dense
    x = torch.linspace(-1, 1, 64 * weight.shape[0]).view(64, -1)
    try:
        plain, packed = (kind(affine, dtype, activation) for kind in (Dense, PackedDense))
        expected, found = plain(x), packed(x)
    except (AttributeError, RuntimeError, TypeError):
        return Dense
    near = 1e-5 if dtype == torch.float32 else 0.05
    if not torch.allclose(found, expected, rtol=near, atol=near * float(expected.abs().max())):
        return Dense
    return PackedDense if _least_time(packed, x) < _least_time(plain, x) else Dense


def usual(device: torch.device) -> type:
    """Kind of layer by a rule and no measurement: the same numbers whenever a model is loaded.

    Returns
    -------
    type
        :class:`PackedDense` where :func:`~recbole_lite.products.wants_onednn`, else
        :class:`Dense`.
    """
    return PackedDense if device.type == "cpu" and wants_onednn() else Dense


def _least_time(layer: Dense | PackedDense, x: torch.Tensor) -> float:
    times = []
    for _ in range(5):
        started = time.perf_counter()
        layer(x)
        times.append(time.perf_counter() - started)
    return min(times)


class Head(nn.Module):
    """A score for each item.

    Parameters
    ----------
    weight : torch.Tensor
        ``[n_items - 1, d]``: row i - 1 scores item i.
    kind : type
        Of layer: :class:`Dense` or :class:`PackedDense`.
    """

    def __init__(self, weight: torch.Tensor, kind: type):
        super().__init__()
        weight = torch.cat([torch.zeros_like(weight[:1]), weight])  # row i scores item i
        self.shape = tuple(weight.shape)
        if kind is PackedDense:
            padding = torch.zeros(len(weight))
            padding[0] = -torch.inf
            self.packed, weight = PackedDense((weight.T, padding), torch.float32), None
        else:
            self.packed = None
        # MKL is up to twice as fast with a row for each item as with a column.
        self.register_buffer("weight", weight)

    def forward(self, users: torch.Tensor) -> torch.Tensor:
        """``[B, d]`` -> ``[B, n_items]``, -inf for padding (id 0)."""
        if self.packed is None:
            scores = users @ self.weight.T
            scores[:, 0] = -torch.inf
            return scores
        extra = head_rows(len(users)) - len(users)
        if extra:
            return self.packed(F.pad(users, (0, 0, 0, extra)))[: len(users)]
        return self.packed(users)


def head_rows(users: int) -> int:
    """Number of rows that scores are made with; one user, who waits alone, is one row."""
    return users if users == 1 else round_up(users)


def round_up(rows: int) -> int:
    """Number of rows that products are made with: at most an eighth (or 3) more than asked for.

    oneDNN prepares code for each shape that it meets, which takes a millisecond and half a MiB; so
    few numbers must do for histories of all lengths.
    """
    step = max(4, 2 ** (rows.bit_length() - 4))
    return -(-rows // step) * step


def pad_rows(index: torch.Tensor) -> torch.Tensor:
    """Repeat place 0 behind `index` up to a length of :func:`round_up`."""
    return F.pad(index, (0, round_up(len(index)) - len(index)))
