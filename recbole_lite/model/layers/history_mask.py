"""A user's history, masked in the softmax of the next target (``loss_exclude_history``)."""

from __future__ import annotations

import torch

from recbole_lite.data.device_transfer import tensor_to_device, to_host


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
        earlier = to_host(before)
        known = torch.cat([earlier, to_host(inputs)], 1)
        present, rows = known != 0, to_host(rows)
        sizes = present.sum(1)
        # All items of the batch, user by user: a history is the first `counts` of its user's.
        starts = (sizes.cumsum(0) - sizes)[rows]
        counts = (earlier != 0).sum(1)[rows] + to_host(steps) + 1
        self._host_counts = torch.minimum(counts, sizes[rows])
        self.items, self.starts, self.counts = (
            tensor_to_device(values, inputs.device)
            for values in (known[present], starts, self._host_counts)
        )
        self.targets = targets

    def part(self, n: int) -> tuple[torch.Tensor, ...]:
        """What :meth:`joined` takes, of the first `n` targets, on the CPU."""
        return to_host(self.items), to_host(self.starts)[:n], self._host_counts[:n]

    @classmethod
    def joined(cls, parts: list[tuple[torch.Tensor, ...]], targets: torch.Tensor) -> HistoryMask:
        """Mask of the rows of several masks, one after another; `targets` are those of all."""
        mask = cls.__new__(cls)
        items, starts, counts = zip(*parts, strict=True)
        before = torch.tensor([0, *map(len, items[:-1])]).cumsum(0)
        starts = [start + offset for start, offset in zip(starts, before, strict=True)]
        mask._host_counts, mask.targets = torch.cat(counts), targets
        mask.items, mask.starts, mask.counts = (
            tensor_to_device(values, targets.device)
            for values in (torch.cat(items), torch.cat(starts), mask._host_counts)
        )
        return mask

    def mask_scores(self, scores: torch.Tensor, part: slice, first: int | None = None) -> None:
        """Set the scores ``[n, n_items]`` of `part` of the targets to -inf in place.

        Column i - 1 belongs to item i; with `first` there are columns from there on, of some items.
        """
        counts, total = self.counts[part], int(self._host_counts[part].sum())
        numbers = torch.arange(max(total, len(counts)), device=scores.device)
        owner = numbers[: len(counts)].repeat_interleave(counts, output_size=total)
        begins = self.starts[part] - counts.cumsum(0) + counts
        columns = self.items[numbers[:total] + begins[owner]] - 1
        right = self.targets[part][:, None] - 1
        if first is not None:
            known = columns != right[owner, 0]
            columns = columns - first
            known &= (columns >= 0) & (columns < scores.shape[1])
            cells = owner[known] * scores.shape[1] + columns[known]
            scores.view(-1).index_fill_(0, cells, -torch.inf)
            return
        of_targets = scores.gather(1, right)
        scores.view(-1).index_fill_(0, owner * scores.shape[1] + columns, -torch.inf)
        scores.scatter_(1, right, of_targets)
