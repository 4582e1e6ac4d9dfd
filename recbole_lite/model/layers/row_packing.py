"""Histories of a batch packed side by side into rows, so that little of them is padding.

Attention is the encoder's own, with a mask. The export (inference/packed_encoder.py) packs all
histories into one row instead, for which it replaces the attention.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import NamedTuple

import numpy as np
import torch

from recbole_lite.data.device_transfer import tensor_to_device, to_host
from recbole_lite.data.windows import expand_ranges

# Packing pays where it leaves at most this share of the rows.
_LARGEST_SHARE = 0.8


class RowPacking(NamedTuple):
    """Two layouts of the items of B histories: padded ``[B, L]`` and packed ``[R, L]``.

    Attributes
    ----------
    places, slots : torch.Tensor
        ``[N]`` place of each item in ``[B * L]`` and in ``[R * L]``.
    histories : torch.Tensor
        ``[R, L]`` number of the history from 1; 0 at padding.
    positions : torch.Tensor
        ``[R, L]`` position in the history, from 0.
    n_histories : int
        B.
    """

    places: torch.Tensor
    slots: torch.Tensor
    histories: torch.Tensor
    positions: torch.Tensor
    n_histories: int

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """``[B, L, ...]`` -> ``[R, L, ...]``; 0 at padding."""
        values = padded.flatten(0, 1).index_select(0, self.places)
        rows = values.new_zeros(self.histories.numel(), *values.shape[1:])
        return rows.index_copy(0, self.slots, values).unflatten(0, self.histories.shape)

    def unpack(self, rows: torch.Tensor) -> torch.Tensor:
        """``[R, L, d]`` -> ``[B, L, d]``; 0 at padding."""
        values = rows.flatten(0, 1).index_select(0, self.slots)
        padded = values.new_zeros(self.n_histories * rows.shape[1], values.shape[1])
        return padded.index_copy(0, self.places, values).unflatten(0, (self.n_histories, -1))

    def slots_of(self, places: torch.Tensor) -> torch.Tensor:
        """Slots of the items at ascending `places`, both on the CPU."""
        return to_host(self.slots)[torch.searchsorted(to_host(self.places), places)]

    def attention_mask(self, causal: bool, dtype: torch.dtype) -> torch.Tensor:
        """``[R, 1, L, L]``, added to the attention scores: each history sees itself alone.

        Not of booleans: T5 adds it to its bias by distance, and torch's flash kernels read no mask
        of either kind.
        """
        visible = self.histories[:, :, None] == self.histories[:, None, :]
        if causal:
            visible = visible.tril()
        mask = torch.full(visible.shape, torch.finfo(dtype).min, dtype=dtype, device=visible.device)
        return mask.masked_fill_(visible, 0)[:, None]


def pack_rows(mask: torch.Tensor, device: torch.device) -> RowPacking | None:
    """Pack histories into rows as wide as the longest (best fit, longest first).

    Parameters
    ----------
    mask : torch.Tensor
        ``[B, L]`` on the CPU, true where there is an item.
    device : torch.device
        Where the result is to be.

    Returns
    -------
    RowPacking or None
        None: the batch has so little padding that packing does not pay.
    """
    lengths, width = mask.sum(1).numpy(), mask.shape[1]
    begins, n_rows = _best_fit(lengths, width)
    if n_rows > _LARGEST_SHARE * len(lengths):
        return None
    owner, slots = expand_ranges(begins, lengths)
    histories, positions = np.zeros((2, n_rows * width), dtype=np.int64)
    histories[slots], positions[slots] = owner + 1, slots - begins[owner]
    places = mask.flatten().nonzero().squeeze(1)
    found = (places, *map(torch.from_numpy, (slots, histories, positions)))
    places, slots, *rows = (tensor_to_device(values, device) for values in found)
    return RowPacking(places, slots, *(x.view(n_rows, width) for x in rows), len(lengths))


def _best_fit(lengths: np.ndarray, width: int) -> tuple[np.ndarray, int]:
    """First slot of each history in rows of `width` one after another, and their number."""
    begins, n_rows = np.zeros(len(lengths), dtype=np.int64), 0
    free: list[tuple[int, int]] = []  # space left in a row and its end, ascending
    for history in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[history])
        fits = bisect_left(free, (length, 0))
        if fits < len(free):
            space, end = free.pop(fits)
        else:
            n_rows += 1
            space, end = width, n_rows * width
        begins[history] = end - space
        insort(free, (space - length, end))
    return begins, n_rows
