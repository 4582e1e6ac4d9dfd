"""The Recommendation LLM's outputs pooled to h_u, for a sequence or each of its prefixes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from recbole_lite.text.token_pooling import masked_mean


class UserPooling(nn.Module):
    r"""Pooling of the outputs ``o_1 ... o_t`` into one vector.

    =============  =========================================================================
    ``mean``       :math:`\frac1t\sum_s o_s` (paper, equation 4)
    ``last``       :math:`o_t`
    ``recency``    :math:`\sum_s w_s o_s` with :math:`w_s \propto e^{-r(t-s)}`, the rate r > 0
                   learned: the mean is its limit for r -> 0, the last output for r -> infinity
    =============  =========================================================================

    Parameters
    ----------
    kind : {"mean", "last", "recency"}
    """

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        if kind == "recency":
            self.raw_rate = nn.Parameter(torch.zeros(()))  # r = softplus(raw_rate), at first 0.69

    def forward(
        self, hidden: torch.Tensor, mask: torch.Tensor, n_candidates: int = 0
    ) -> torch.Tensor:
        """Pool whole sequences.

        Parameters
        ----------
        hidden : torch.Tensor
            ``[B, L, d]``.
        mask : torch.Tensor
            ``[B, L]``, true where there is an item; padding may be on either side.
        n_candidates : int
            The last `n_candidates` positions count as one, the last: they have no order.

        Returns
        -------
        torch.Tensor
            ``[B, d]``.
        """
        if self.kind == "mean":
            return masked_mean(hidden, mask)
        # Number of items after each position, 0 at the last one.
        age = mask.flip(1).cumsum(1).flip(1) - mask.long()  # [B, L]
        if n_candidates:
            age = (age - n_candidates + 1).clamp_min(0)
        if self.kind == "last":
            return masked_mean(hidden, mask & (age == 0))
        weights = self._weights(age, mask, hidden.dtype)
        return torch.einsum("bl,bld->bd", weights, hidden.masked_fill(~mask[..., None], 0.0))

    def prefixes(self, hidden: torch.Tensor, histories: torch.Tensor | None = None) -> torch.Tensor:
        """Pool every prefix of sequences that start at the first position.

        Parameters
        ----------
        hidden : torch.Tensor
            ``[B, L, d]``, outputs of a causal model.
        histories : torch.Tensor, optional
            ``[B, L]`` number of the sequence at each position, where a row holds several.

        Returns
        -------
        torch.Tensor
            ``[B, L, d]``; at t the result of :meth:`forward` for the first t positions.
        """
        if self.kind == "last":
            return hidden
        steps = torch.arange(hidden.shape[1], device=hidden.device)
        age = steps[:, None] - steps  # [L, L]: prefix, position
        mask = age >= 0
        if histories is not None:
            mask = mask & (histories[:, :, None] == histories[:, None, :])  # [B, L, L]
        weights = self._weights(age, mask, hidden.dtype)
        return weights @ hidden

    def _weights(self, age, mask, dtype) -> torch.Tensor:
        rate = F.softplus(self.raw_rate) if self.kind == "recency" else 0.0
        # Not -inf: in a row without items that would be 0 / 0, also in the gradient.
        scores = torch.where(mask, -rate * age, torch.finfo(torch.float32).min)
        return (torch.softmax(scores, -1) * mask).to(dtype)
