"""Candidates in a model's input, scores and loss (``task: topn``; paper, Section 5.4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def append_candidates(item_seq: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Input ids of history and candidates, with the padding in front.

    Parameters
    ----------
    item_seq : torch.Tensor
        ``[B, L]`` ids, padded with 0 at the end; L may be 0.
    candidates : torch.Tensor
        ``[B, C]`` ids.

    Returns
    -------
    torch.Tensor
        ``[B, L + C]``: histories of any length end just before the candidates.
    """
    length = item_seq.shape[1]
    if length:
        lengths = (item_seq != 0).sum(1, keepdim=True)
        steps = torch.arange(length, device=item_seq.device)
        item_seq = item_seq.gather(1, (steps + lengths) % length)
    return torch.cat([item_seq, candidates], 1)


def score_candidates(
    users: torch.Tensor, weight: torch.Tensor, candidates: torch.Tensor
) -> torch.Tensor:
    """Score each user's candidates only.

    Parameters
    ----------
    users : torch.Tensor
        h_u, ``[B, d]``.
    weight : torch.Tensor
        Head, ``[n_items - 1, d]``; row i - 1 scores item i.
    candidates : torch.Tensor
        ``[B, C]`` ids.

    Returns
    -------
    torch.Tensor
        ``[B, C]``.
    """
    return torch.einsum("bd,bcd->bc", users, F.embedding(candidates - 1, weight))


def candidate_loss(
    scores: torch.Tensor, candidates: torch.Tensor, targets: torch.Tensor, smoothing: float = 0.0
) -> torch.Tensor:
    """Mean cross entropy of the targets ``[B]`` among their candidates, ``[B, C]`` each."""
    place = (candidates == targets[:, None]).long().argmax(1)
    return F.cross_entropy(scores, place, label_smoothing=smoothing)


def scatter_to_catalogue(
    scores: torch.Tensor, candidates: torch.Tensor, n_items: int
) -> torch.Tensor:
    """Spread scores of candidates ``[B, C]`` over all items, ``[B, n_items]``; -inf elsewhere."""
    everything = scores.new_full((len(scores), n_items), -torch.inf)
    return everything.scatter_(1, candidates, scores)
