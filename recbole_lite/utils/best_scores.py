"""The best of many scores, found by reading most of them once."""

from __future__ import annotations

import torch

# Columns of the scores that are looked at together.
_GROUP = 32


def maxima(scores: torch.Tensor) -> torch.Tensor:
    """Largest scores of groups of columns, ``[B, n_items]`` -> ``[B, n_groups]``.

    A group is not of neighbours, which would be slower to read. Columns that fill no group are
    groups of their own.
    """
    n_groups = scores.shape[1] // _GROUP
    grouped = scores[:, : n_groups * _GROUP].unflatten(1, (_GROUP, n_groups)).amax(1)
    return torch.cat([grouped, scores[:, n_groups * _GROUP :]], 1)


def top_k(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What ``scores.topk(k)`` gives, but for the choice among equal scores.

    The best `k` are in the `k` groups with the largest maxima, or in none. For millions of columns
    on a CPU, this takes a tenth of the time.
    """
    n_groups = scores.shape[1] // _GROUP
    if k > n_groups:
        return scores.topk(k)
    groups = maxima(scores)[:, :n_groups].topk(k).indices
    columns = torch.arange(_GROUP * n_groups, scores.shape[1], device=scores.device)
    members = torch.arange(_GROUP, device=scores.device) * n_groups
    members = (groups[:, :, None] + members).flatten(1)  # [B, 32 k]
    members = torch.cat([members, columns.expand(len(scores), -1)], 1)
    values, places = scores.gather(1, members).topk(k)
    return values, members.gather(1, places)
