"""What a user had before a target, left out of its softmax (``loss_exclude_history``)."""

from __future__ import annotations

import torch

from recbole_lite.data.device_transfer import to_host


class HistoryMask:
    """Items that the users of a batch had before each of its targets.

    The evaluation ranks I without I_u (paper, Section 5.1.2); with these items left out, the
    loss is the likelihood of the target under that very ranking.

    Parameters
    ----------
    before : torch.Tensor
        ``[B, H]`` ids of items before the window, 0 for padding.
    inputs : torch.Tensor
        ``[B, L]`` ids of the window's items, 0 for padding behind.
    rows, steps : torch.Tensor
        ``[N]`` row of each target in the batch, ascending, and step of the input before it.
    targets : torch.Tensor
        ``[N]`` ids; a target stays in its own softmax though the user had it before.
    """

    def __init__(self, before, inputs, rows, steps, targets):
        self.before, self.inputs = before, inputs
        self.rows, self.steps, self.targets = rows, steps, targets
        self._rows = to_host(rows)

    def exclude(self, scores: torch.Tensor, part: slice) -> None:
        """Set the scores ``[n, n_items]`` of `part` of the targets to -inf in place.

        Column i - 1 belongs to item i.
        """
        first, last = self._rows[part][[0, -1]].tolist()
        rows = self.rows[part]
        # Column 0 takes the padding; only as many rows as the chunk touches.
        had = torch.zeros(
            last + 1 - first, scores.shape[1] + 1, dtype=torch.bool, device=scores.device
        ).scatter_(1, self.before[first : last + 1], True)[rows - first]
        inputs = self.inputs[rows]  # [n, L]
        steps = torch.arange(inputs.shape[1], device=scores.device)
        had.scatter_(1, inputs.masked_fill(steps > self.steps[part][:, None], 0), True)
        had.scatter_(1, self.targets[part][:, None], False)
        scores.masked_fill_(had[:, 1:], -torch.inf)
