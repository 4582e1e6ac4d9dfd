"""InfoNCE on cosines, and a learned temperature."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

_FIRST, _LARGEST = math.log(1 / 0.07), math.log(100)
# Negatives this similar to the target are taken to be the same item (HLLM's code: nce_thres).
_SAME = 0.99


class LearnedScale(nn.Module):
    """Factor exp(t) of cosines; t is learned, begins as ln(1 / 0.07), and is at most ln 100.

    That is CLIP's temperature (arXiv 2103.00020, Section 2.5), which HLLM uses.
    """

    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(_FIRST))

    def forward(self) -> torch.Tensor:
        """The factor, a scalar."""
        # Where t is beyond the limit, its gradient stays, so that it can come back.
        beyond = (self.log_scale - _LARGEST).clamp_min(0).detach()
        return (self.log_scale - beyond).exp()


def info_nce(
    users: torch.Tensor,
    items: torch.Tensor,
    targets: torch.Tensor,
    scale: torch.Tensor | float,
    same: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""Mean InfoNCE of targets against the other items (HLLM, arXiv 2409.12740, Section 3.3).

    .. math:: -\ln \frac{e^{s(u, v)}}{e^{s(u, v)} + \sum_{n} e^{s(u, n)}}, \quad
              s(u, v) = e^t \cos(u, v)

    Parameters
    ----------
    users : torch.Tensor
        h_u, ``[N, d]``.
    items : torch.Tensor
        Vectors of targets and negatives, ``[M, d]``.
    targets : torch.Tensor
        Row of `items` of each target, ``[N]``.
    scale : torch.Tensor or float
        Factor of the cosines, a scalar.
    same : torch.Tensor, optional
        Items that are no negatives of a target, bool ``[N, M]``; by default those whose cosine to
        it is above 0.99.

    Returns
    -------
    torch.Tensor
        Scalar; 0 where there are no rows.
    """
    if not len(users):
        return users.sum()
    with torch.autocast(users.device.type, enabled=False):
        users, items = (F.normalize(x.float(), dim=-1) for x in (users, items))
        if same is None:
            with torch.no_grad():
                same = items[targets] @ items.T > _SAME  # [N, M]
        same = same.scatter(1, targets[:, None], False)
        scores = (scale * (users @ items.T)).masked_fill(same, -torch.inf)
        return F.cross_entropy(scores, targets)
