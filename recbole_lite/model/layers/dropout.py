"""Dropout whose random numbers do not cost more than the matrix products (CPU)."""

from __future__ import annotations

import torch
from torch import nn

_STEPS = 256  # values of one random byte


class Dropout(nn.Dropout):
    """``nn.Dropout`` that draws one byte per element on a CPU.

    torch draws its masks on a CPU one number after the other, from 32 bits each; eight masks
    out of every 64-bit draw take a fifth off a training step of a small encoder. The rate is
    rounded to 1/256 (a rate above 0 to at least one such step), and the scale fits the rounded
    rate, so that the expectation stays exact.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Zero random elements and scale the others; same shape."""
        if not self.training or self.p in (0, 1) or input.device.type != "cpu":
            return super().forward(input)
        threshold = min(max(round(self.p * _STEPS), 1), _STEPS - 1)
        draws = torch.empty(-(-input.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        drawn = draws.view(torch.uint8)[: input.numel()].view(input.shape)
        keep = (drawn >= threshold).to(input.dtype)
        return input * keep.mul_(_STEPS / (_STEPS - threshold))


def use_cheap_dropout(model: nn.Module) -> None:
    """Put :class:`Dropout` in the place of every ``nn.Dropout`` inside `model`."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p).train(child.training))
