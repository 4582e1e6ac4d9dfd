"""Trie of the items' token sequences: constrains beam search and maps tokens to items."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from recbole_lite.utils.errors import DataError


class ItemTrie(nn.Module):
    """Trie of the items' token paths, each ended by the end-of-sequence token.

    States are numbered from 0, the root; -1 is the state of a sequence on no path. The transitions
    are one sorted array, so that memory grows with the paths and not with the vocabulary.

    Parameters
    ----------
    paths : sequence of sequence of int
        Tokens of each item by internal id, without the end of sequence; entry 0 (padding) is
        ignored.
    eos : int
        The end-of-sequence token.
    item_name : callable, optional
        Internal id -> name of the item in messages.

    Raises
    ------
    DataError
        Two items have the same path, or one has none.

    Attributes
    ----------
    labels : torch.Tensor
        ``[n_items, max_length]`` paths with their end, then -100 (torch's "ignored").
    """

    def __init__(
        self,
        paths: Sequence[Sequence[int]],
        eos: int,
        item_name: Callable[[int], str] = str,
    ):
        super().__init__()
        self.eos = eos
        sources, tokens, targets, leaves = _trie(paths, eos, item_name)
        rows = [torch.tensor([*path, eos]) for path in paths[1:]]
        labels = pad_sequence([rows[0][:0], *rows], batch_first=True, padding_value=-100)
        # All buffers are in checkpoints: a loaded model must write the items as it learned them,
        # even where another machine would cluster or number them differently.
        self.register_buffer("labels", labels)
        span = tokens.max() + 1  # source * span + token orders the transitions
        keys = sources * span + tokens
        order = np.argsort(keys)
        n_states = len(targets) + 1  # each but the root is the target of one transition
        starts = np.searchsorted(sources[order], np.arange(n_states + 1))
        item_of = np.zeros(n_states, dtype=np.int64)
        item_of[list(leaves)] = list(leaves.values())
        for name, array in (
            ("_keys", keys[order]),
            ("_tokens", tokens[order]),
            ("_targets", targets[order]),
            ("_starts", starts),
            ("_item_of", item_of),
            ("_span", np.array(span)),
        ):
            self.register_buffer(name, torch.from_numpy(array))

    @property
    def max_length(self) -> int:
        """Tokens of the longest path, its end included."""
        return self.labels.shape[1]

    @property
    def n_states(self) -> int:
        """Number of states, the root included."""
        return len(self._item_of)

    def step(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """States after one more token; ``[N]``, ``[N]`` -> ``[N]``."""
        keys = states * self._span + tokens
        at = torch.searchsorted(self._keys, keys).clamp_max(len(self._keys) - 1)
        known = (states >= 0) & (tokens < self._span) & (self._keys[at] == keys)
        return torch.where(known, self._targets[at], -1)

    def walk(self, sequences: torch.Tensor) -> torch.Tensor:
        """States at the end of sequences; tokens after a path's end are ignored.

        Parameters
        ----------
        sequences : torch.Tensor
            ``[N, T]`` tokens, without the decoder's start token.

        Returns
        -------
        torch.Tensor
            ``[N]``.
        """
        states = torch.zeros(len(sequences), dtype=torch.int64, device=sequences.device)
        for tokens in sequences.T:
            ended = (states >= 0) & (self._item_of[states.clamp_min(0)] > 0)
            states = torch.where(ended, states, self.step(states, tokens))
        return states

    def items(self, sequences: torch.Tensor) -> torch.Tensor:
        """Items of token sequences, ``[N, T]`` -> ``[N]`` internal ids, 0 where none."""
        return self._item_of[self.walk(sequences).clamp_min(0)]  # the root is no item's

    def continuations(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens that may follow `states` ``[N]``: rows and tokens, ``[total]`` each."""
        begin = self._starts[states.clamp_min(0)]
        count = torch.where(states >= 0, self._starts[states.clamp_min(0) + 1] - begin, 0)
        rows = torch.repeat_interleave(torch.arange(len(states), device=states.device), count)
        first = torch.cumsum(count, 0) - count
        offset = torch.arange(len(rows), device=states.device) - first[rows]
        return rows, self._tokens[begin[rows] + offset]

    def states_towards(
        self, items: torch.Tensor | None, excluded: torch.Tensor | None = None
    ) -> torch.Tensor:
        """States on the paths of each row's items.

        Parameters
        ----------
        items : torch.Tensor, optional
            ``[B, C]`` ids, 0 for padding; None: all items.
        excluded : torch.Tensor, optional
            ``[B, H]`` ids to be left out, 0 for padding.

        Returns
        -------
        torch.Tensor
            ``[B, n_states]`` bool; the root has no part in it.
        """
        if excluded is None:
            return self._count(items) > 0
        if items is not None:
            out = torch.zeros(len(items), len(self.labels), dtype=torch.bool, device=items.device)
            out.scatter_(1, excluded, True)
            return self._count(items.masked_fill(out.gather(1, items), 0)) > 0
        excluded = excluded.sort(1).values
        again = F.pad(excluded[:, 1:] == excluded[:, :-1], (1, 0))
        everything = torch.arange(len(self.labels), device=excluded.device)[None]
        return self._count(excluded.masked_fill(again, 0)) < self._count(everything)

    def _count(self, items: torch.Tensor) -> torch.Tensor:
        """Number of a row's items ``[B, C]`` whose path has each state, ``[B, n_states]``."""
        found = torch.zeros(len(items), self.n_states + 1, dtype=torch.int32, device=items.device)
        states, one = torch.zeros_like(items), torch.ones_like(items, dtype=torch.int32)
        for tokens in self.labels[items].unbind(2):  # [B, C]
            states = self.step(states.flatten(), tokens.flatten()).view_as(states)
            states = torch.where(tokens < 0, -1, states)  # after a path's end
            found.scatter_add_(1, states.remainder(self.n_states + 1), one)  # -1: the last column
        return found[:, :-1]


def _trie(paths, eos, item_name):
    """Transitions (source, token, target) as arrays, and leaf state -> item."""
    children: dict[tuple[int, int], int] = {}
    leaves: dict[int, int] = {}
    for item, path in enumerate(paths[1:], 1):
        if len(path) == 0:
            raise DataError(f"item {item_name(item)} has no tokens; it could never be recommended")
        state = 0
        for token in [*path, eos]:
            state = children.setdefault((state, int(token)), len(children) + 1)
        if state in leaves:
            raise DataError(
                f"items {item_name(leaves[state])} and {item_name(item)} have the same tokens; a "
                "generated sequence could not tell them apart"
            )
        leaves[state] = item
    edges = np.array([(*edge, target) for edge, target in children.items()], dtype=np.int64)
    return edges[:, 0], edges[:, 1], edges[:, 2], leaves
