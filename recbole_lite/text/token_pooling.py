"""Pooling of the Item LLM's and the Recommendation LLM's outputs."""

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


def pool_tokens(
    hidden: torch.Tensor, mask: torch.Tensor, mode: str, skipped: int = 0
) -> torch.Tensor:
    """One vector per text from the vectors of its tokens.

    Parameters
    ----------
    hidden : Tensor [B, L, d]
        Outputs of a language model.
    mask : LongTensor [B, L]
        1 where there is a token, 0 for padding on the right.
    mode : str
        ``mean``; ``mean_sqrt_len_tokens``: the sum over the square root of the number of tokens;
        ``weightedmean``: the n-th token counts n times; ``max`` of each dimension; ``cls``: the
        first token; ``lasttoken``, which ``item_token`` is too.
    skipped : int
        Number of tokens at the front that are not pooled; every text has more.

    Returns
    -------
    Tensor [B, d]
    """
    if mode == "cls":
        return hidden[:, skipped]
    if mode in ("lasttoken", "item_token"):
        last = mask.sum(dim=1) - 1  # [B]
        return hidden[torch.arange(len(hidden), device=hidden.device), last]
    pooled = mask.clone()
    pooled[:, :skipped] = 0
    if mode == "mean":
        return masked_mean(hidden, pooled)
    hidden = hidden.masked_fill((pooled == 0).unsqueeze(-1), -torch.inf if mode == "max" else 0.0)
    if mode == "max":
        return hidden.amax(dim=1)
    if mode == "mean_sqrt_len_tokens":
        return hidden.sum(dim=1) / pooled.sum(dim=1, keepdim=True).sqrt()
    weights = pooled * torch.arange(1, mask.size(1) + 1, device=mask.device)  # [B, L]
    total = (hidden * weights.unsqueeze(-1)).sum(dim=1)  # [B, L, d] -> [B, d]
    return total / weights.sum(dim=1, keepdim=True)
