"""Masked mean pooling of the Item LLM's and the Recommendation LLM's outputs."""

from __future__ import annotations

import torch


def masked_mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the unmasked positions: ``h = Mean_pooling(h_1, ..., h_L)`` (paper eqs. 3, 4).

    The Item LLM pools token vectors with it (eq. 3), the Recommendation LLM item
    vectors (eq. 4).

    Parameters
    ----------
    hidden : Tensor [B, L, d]
        Outputs of a language model. Values at masked positions are ignored, NaN included.
    mask : Tensor [B, L]
        Nonzero (or True) where the position counts. Padding may be on either side.

    Returns
    -------
    Tensor [B, d]
        Zeros for a row whose positions are all masked.
    """
    masked = (mask == 0).unsqueeze(-1)  # [B, L] -> [B, L, 1]
    exact = torch.promote_types(hidden.dtype, torch.float32)  # bfloat16 cannot count past 256
    # Filling, not multiplying: 0 * NaN is NaN, in the value and in the gradient.
    total = hidden.masked_fill(masked, 0.0).sum(dim=1, dtype=exact)  # [B, L, d] -> [B, d]
    count = (~masked).sum(dim=1).clamp(min=1)  # [B, 1]
    return (total / count).to(hidden.dtype)
