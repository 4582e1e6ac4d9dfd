"""Where the items of several histories stand, laid out in one row without padding."""

from __future__ import annotations

import torch

from recbole_lite.inference.dense import pad_rows, round_up


class Layout:
    """Two ways to hold vectors of a batch: ``[B * L, d]`` by place, ``[N, d]`` by item.

    Parameters
    ----------
    items : torch.Tensor
        ``[B, L]`` ids, 0 behind.
    padded : bool
        Whether there may be padding.
    rounds : bool
        Whether N shall be one of few numbers (:func:`~recbole_lite.inference.dense.round_up`);
        the rows that are too many repeat the first place.

    Attributes
    ----------
    rows, length : int
        B and L.
    mask : torch.Tensor
        ``[B, L]``, true where there is an item.
    padded : bool
    """

    def __init__(self, items: torch.Tensor, padded: bool, rounds: bool):
        self.rows, self.length = items.shape
        self.mask = items != 0
        self.padded = padded
        self._kept = self._row_of = None
        # On a GPU the count N would have to come back first, which takes longer than the padding.
        packs = padded and items.device.type == "cpu"
        if rounds and round_up(items.numel()) != items.numel():
            packs = True
        if packs:
            seen = self.mask.flatten()
            kept = seen.nonzero()[:, 0]
            self._kept = pad_rows(kept) if rounds else kept
            # Of each place the row among the N; anything for padding.
            self._row_of = (seen.long().cumsum(0) - 1).clamp_min(0)

    def pack(self, by_place: torch.Tensor) -> torch.Tensor:
        """``[B * L, ...]`` -> ``[N, ...]``."""
        return by_place if self._kept is None else by_place.index_select(0, self._kept)

    def unpack(self, by_item: torch.Tensor) -> torch.Tensor:
        """``[N, ...]`` -> ``[B * L, ...]``; what stands at padding means nothing."""
        return by_item if self._row_of is None else by_item.index_select(0, self._row_of)

    def places(self) -> torch.Tensor:
        """Position of each item in its history, ``[N]``, from 0."""
        steps = torch.arange(self.length, device=self.mask.device)
        return self.pack(steps.expand(self.rows, self.length).flatten())

    def last_places(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Each history's last item: its place among the B * L, and in its row, ``[B]`` each."""
        steps = self.mask.sum(1) - 1
        first = torch.arange(self.rows, device=self.mask.device) * self.length
        return first + steps, steps
