"""Dropout with cheap random numbers on a CPU."""

from __future__ import annotations

import torch
from torch import nn

_LEVELS = 256  # values of one random byte


class Dropout(nn.Dropout):
    """``nn.Dropout`` that draws one byte per element on a CPU.

    torch draws 32 random bits per element, sequentially; eight elements per 64-bit draw make a
    training step of a small encoder a fifth shorter. The rate is rounded to a multiple of 1/256
    (at least 1/256 where it is above 0). The scale follows the rounded rate, so that the
    expectation stays exact.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Zero random elements and scale the others; same shape."""
        if not self.training or self.p in (0, 1) or input.device.type != "cpu":
            return super().forward(input)
        threshold = min(max(round(self.p * _LEVELS), 1), _LEVELS - 1)
        draws = torch.empty(-(-input.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        drawn = draws.view(torch.uint8)[: input.numel()].view(input.shape)
        keep = (drawn >= threshold).to(input.dtype)
        return input * keep.mul_(_LEVELS / (_LEVELS - threshold))


def replace_dropout(model: nn.Module) -> None:
    """Replace every ``nn.Dropout`` inside `model` by :class:`Dropout`."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p).train(child.training))
