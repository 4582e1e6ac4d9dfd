"""A user's history, masked in the softmax of the next target (``loss_exclude_history``)."""

from __future__ import annotations

import torch

from recbole_lite.data.device_transfer import to_host


class HistoryMask:
    """Items that each user of a batch interacted with before each target.

    The evaluation ranks I without I_u (paper, Section 5.1.2); with these items masked, the loss is
    the likelihood of the target under the same ranking.

    Parameters
    ----------
    before : torch.Tensor
        ``[B, H]`` ids of items before the window, 0 for padding.
    inputs : torch.Tensor
        ``[B, L]`` ids of the window's items, 0 for padding at the end.
    rows, steps : torch.Tensor
        ``[N]`` row of each target in the batch, ascending, and the position of its last input.
    targets : torch.Tensor
        ``[N]`` ids; a target is never masked, even where it is in the user's history.
    """

    def __init__(self, before, inputs, rows, steps, targets):
        self.before, self.inputs = before, inputs
        self.rows, self.steps, self.targets = rows, steps, targets
        self._rows = to_host(rows)

    def mask_scores(self, scores: torch.Tensor, part: slice) -> None:
        """Set the scores ``[n, n_items]`` of `part` of the targets to -inf in place.

        Column i - 1 belongs to item i.
        """
        first, last = self._rows[part][[0, -1]].tolist()
        rows = self.rows[part]
        # Column 0 is padding; only the rows of this chunk are built.
        seen = torch.zeros(
            last + 1 - first, scores.shape[1] + 1, dtype=torch.bool, device=scores.device
        ).scatter_(1, self.before[first : last + 1], True)[rows - first]
        inputs = self.inputs[rows]  # [n, L]
        steps = torch.arange(inputs.shape[1], device=scores.device)
        seen.scatter_(1, inputs.masked_fill(steps > self.steps[part][:, None], 0), True)
        seen.scatter_(1, self.targets[part][:, None], False)
        scores.masked_fill_(seen[:, 1:], -torch.inf)
