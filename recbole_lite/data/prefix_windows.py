"""Windows in which every input has its successor as a target (``train_strategy: prefix``).

A causal model scores all prefixes of a window in one pass, so that a window of L inputs trains
L targets at the price of one.
"""

from __future__ import annotations

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_lite.data.device_transfer import to_host
from recbole_lite.data.windows import ResampledWindows, Windows, expand_ranges
from recbole_lite.utils.errors import ConfigError

# Field of a batch: the item after each input, 0 where none is asked for. Not "target_list": that is
# what the inputs' own values in a column "target" are called.
TARGETS = "prefix_targets"


class PrefixWindows(ResampledWindows):
    """Windows that together ask once for every target of a training sequence.

    Where they begin is sampled for every epoch: the position of a target in its window varies,
    and it is learned from contexts of many lengths.

    Parameters
    ----------
    windows : Windows
        The training windows.
    overlap : int
        Inputs that a window shares with the one before. Only targets behind the overlap are
        asked for, so each of them sees more than `overlap` inputs, as far as the user has had
        so many. 0: a pass costs least; ``max_length - 1``: every target sees a full window, as
        under ``train_strategy: all``, and at its price.

    Raises
    ------
    ConfigError
        `overlap` is not in ``0 .. max_length - 1``.
    """

    of_each = ("rows", "counts")

    def __init__(self, windows: Windows, overlap: int = 0):
        super().__init__(windows)
        if not isinstance(overlap, int) or not 0 <= overlap < self.max_length:
            raise ConfigError(
                f"prefix_overlap must be a whole number in 0..{self.max_length - 1} "
                f"(MAX_ITEM_LIST_LENGTH - 1), found {overlap!r}"
            )
        self.stride = self.max_length - overlap
        # Any sample will do here: it gives the loader a typical number of windows.
        self.resample(torch.Generator().manual_seed(0))

    def lay(self, generator: torch.Generator) -> None:
        """Sample new windows, each user's at a random phase."""
        n = self.last_rows - self.first_rows  # targets of each user
        chance = torch.rand(len(n), generator=generator, dtype=torch.float64).numpy()
        tail = np.minimum((chance * self.stride).astype(np.int64), n)  # 0 .. stride - 1
        rows, counts = [self.last_rows[tail > 0]], [tail[tail > 0]]
        left = n - tail
        # Whole strides from the end, as long as more is left than fits into one window.
        strides = -(-np.maximum(left - self.max_length, 0) // self.stride)
        owner, step = expand_ranges(np.zeros_like(strides), strides)
        rows.append((self.first_rows + left)[owner] - step * self.stride)
        counts.append(np.full(len(owner), self.stride))
        # What is left is each user's first window, in which all targets are asked for.
        left = left - strides * self.stride
        rows.append((self.first_rows + left)[left > 0])
        counts.append(left[left > 0])
        self.rows, self.counts = np.concatenate(rows), np.concatenate(counts)

    def target_counts(self) -> np.ndarray:
        """Number of targets that a training asks each window for, ``[n]``."""
        return self.counts

    def collate(self, index, inputs: tuple[np.ndarray, np.ndarray] | None = None) -> Interaction:
        """Batch of windows: as :meth:`Windows.collate`, and ``prefix_targets`` ``[B, L]``."""
        positions, lengths = inputs = inputs or self.inputs(index)
        batch = super().collate(index, inputs)
        rows, counts = np.atleast_1d(self.rows[index]), np.atleast_1d(self.counts[index])
        # Each input is followed by the next; the last one by the row itself.
        steps, last = np.arange(positions.shape[1]), lengths[:, None] - 1
        following = np.where(steps < last, np.roll(positions, -1, axis=1), rows[:, None])
        targets = self.store.take(self.store.item_field, following)
        asked = (steps <= last) & (following > (rows - counts)[:, None])
        targets[torch.from_numpy(~asked)] = 0
        batch.interaction[TARGETS] = targets
        return batch


def count_targets(batch: Interaction) -> int:
    """Number of targets that a batch's loss is the mean over: one per row without prefixes."""
    return int((to_host(batch[TARGETS]) > 0).sum()) if TARGETS in batch else len(batch)
