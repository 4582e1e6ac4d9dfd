"""Batches of rows of similar length (``bucket_by_length``), so that little of them is padding."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from recbole_lite.data.windows import Windows

# Batches whose rows are sorted by length together. More of them: less padding; fewer: successive
# steps see histories of all lengths, as the moments of Adam expect.
_BATCHES_PER_CHUNK = 8


class LengthBuckets:
    """Batch sampler of a training: shuffled rows, sorted by length within chunks.

    Every pass has each row once. The rows are shuffled and divided into chunks of about 8 batches;
    each chunk is sorted by length and divided into batches, whose order is shuffled. All batches
    of a chunk have the same number of targets, up to one row's, so that each target has the same
    weight in a pass, although a batch's loss is a mean.

    Parameters
    ----------
    windows : Windows
        Resampled before a pass, if they are resampled at all.
    batch_size : int
        Rows per batch, on average: windows with many targets come in batches of fewer rows.
    max_tokens : int, optional
        Instead of `batch_size`: most positions (rows times longest history) of a batch.
    generator : torch.Generator
        Determines all orders; the loader's, whose state a checkpoint holds.

    Attributes
    ----------
    sizes : list of int
        Rows of each batch of the present pass.
    """

    def __init__(
        self,
        windows: Windows,
        batch_size: int,
        max_tokens: int | None,
        generator: torch.Generator,
    ):
        self.windows, self.batch_size, self.max_tokens = windows, batch_size, max_tokens
        self.generator = generator
        self.sizes: list[int] = []

    def __len__(self) -> int:
        """Number of batches, for the present windows."""
        if self.max_tokens is None:
            return -(-len(self.windows) // self.batch_size)
        return len(_token_bounds(np.sort(self.windows.lengths()), self.max_tokens)) + 1

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._batches()
        self.sizes = [len(batch) for batch in batches]
        return (batch.tolist() for batch in batches)

    def _permutation(self, n: int) -> np.ndarray:
        return torch.randperm(n, generator=self.generator).numpy()

    def _shuffled(self, batches: list[np.ndarray]) -> list[np.ndarray]:
        return [batches[number] for number in self._permutation(len(batches))]

    def _batches(self) -> list[np.ndarray]:
        order, lengths = self._permutation(len(self.windows)), self.windows.lengths()
        if self.max_tokens is not None:
            order = order[np.argsort(lengths[order], kind="stable")]
            return self._shuffled(np.split(order, _token_bounds(lengths[order], self.max_tokens)))
        n_batches, targets = len(self), self.windows.target_counts()
        n_chunks = -(-n_batches // _BATCHES_PER_CHUNK)
        ends = np.arange(1, n_chunks + 1) * n_batches // n_chunks  # in batches
        batches = []
        for chunk, count in zip(
            np.split(order, ends[:-1] * len(order) // n_batches),
            np.diff(ends, prepend=0),
            strict=True,
        ):
            chunk = chunk[np.argsort(lengths[chunk], kind="stable")]
            batches += self._shuffled(np.split(chunk, _even_bounds(targets[chunk], count)))
        return batches


def _even_bounds(targets: np.ndarray, n_batches: int) -> np.ndarray:
    """Where to split rows into `n_batches` of nearly as many targets, each of a row or more."""
    steps = np.arange(1, n_batches)
    # A row belongs to the batch that its middle is in.
    middles = 2 * np.cumsum(targets) - targets
    bounds = np.searchsorted(middles * n_batches, 2 * targets.sum() * steps)
    bounds = steps + np.maximum.accumulate(bounds - steps)
    return np.minimum(np.maximum(bounds, steps), len(targets) - n_batches + steps)


def _token_bounds(lengths: np.ndarray, max_tokens: int) -> list[int]:
    """Where to split rows of ascending `lengths` into batches of at most `max_tokens` positions."""
    bounds, start = [], 0
    while start < len(lengths):
        ahead = lengths[start : start + max_tokens]
        start += int(np.searchsorted(ahead * np.arange(1, len(ahead) + 1), max_tokens, "right"))
        bounds.append(start)
    return bounds[:-1]


def batches_by_length(
    lengths: np.ndarray, batch_size: int, max_tokens: int | None = None
) -> list[np.ndarray]:
    """Row numbers of an evaluation's batches, longest histories first; ties keep their order.

    Parameters
    ----------
    lengths : numpy.ndarray
        ``[n]``.
    batch_size : int
        Most rows of a batch.
    max_tokens : int, optional
        Most positions of a batch (rows times longest history), as long as it has several rows.
    """
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        rows = batch_size
        if max_tokens is not None:
            rows = max(min(rows, max_tokens // max(int(lengths[order[start]]), 1)), 1)
        batches.append(order[start : start + rows])
        start += rows
    return batches
