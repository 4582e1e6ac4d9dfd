"""Numbers of items as a tokenizer's text: ``▁12``, ``▁1 2`` and ``1 2`` all read "12"."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from recbole_lite.model.generative.trie import ItemTrie

SPACE = "▁"  # how SentencePiece writes a space
_MOST_DIGITS = 18  # that an int64 holds


class NumericItemTrie(ItemTrie):
    """Items whose generated tokens are compared as text, as in P5's and POD's code.

    A free beam may split a number into other tokens than the tokenizer would. It still is the item,
    and two beams may be the same item.

    Parameters
    ----------
    paths, eos, item_name
        As :class:`ItemTrie`; the text of each path is a number of its own.
    pieces : sequence of str
        Text of each token, ``▁`` for a space; "" for those that decoding skips.
    """

    def __init__(
        self,
        paths: Sequence[Sequence[int]],
        eos: int,
        pieces: Sequence[str],
        item_name: Callable[[int], str] = str,
    ):
        super().__init__(paths, eos, item_name)
        values, digits, spaces = zip(*map(_read, pieces), strict=True)
        for name, column in (("_values", values), ("_digits", digits), ("_spaces", spaces)):
            # Not in checkpoints: they follow from the tokenizer, which a loaded model reads anew.
            self.register_buffer(name, torch.tensor(column), persistent=False)

    def numbers(self, sequences: torch.Tensor) -> torch.Tensor:
        """Numbers that sequences of tokens ``[N, T]`` spell, ``[N]``; -1 where they spell none."""
        # Ids above the tokenizer's (T5 has 28, to fill its table) have no text.
        known = (sequences >= 0) & (sequences < len(self._values))
        tokens = torch.where(known, sequences, 0)
        value = torch.where(known, self._values[tokens], 0)
        digits = torch.where(known, self._digits[tokens], 0)
        count = digits.clamp_min(0).cumsum(1)
        spaces = (known & self._spaces[tokens]).cumsum(1)
        # Spaces around a number do not matter, one within splits it.
        first = (count > 0).long().argmax(1, keepdim=True)
        split = (digits > 0) & (spaces > spaces.gather(1, first))
        total = count[:, -1]
        is_number = ~((digits < 0) | split).any(1) & (total > 0) & (total <= _MOST_DIGITS)
        following = (total[:, None] - count).clamp(0, _MOST_DIGITS)
        number = (value * 10**following).sum(1)
        # "012" is another text than "12".
        is_number &= number >= 10 ** (total - 1).clamp(0, _MOST_DIGITS)
        return torch.where(is_number, number, -1)

    def items(self, sequences: torch.Tensor) -> torch.Tensor:
        """Items of token sequences, ``[N, T]`` -> ``[N]`` internal ids, 0 where none."""
        own, order = self.numbers(self.labels[1:]).sort()
        numbers = self.numbers(sequences)
        at = torch.searchsorted(own, numbers).clamp_max(len(own) - 1)
        return torch.where((own[at] == numbers) & (numbers >= 0), order[at] + 1, 0)


def _read(piece: str) -> tuple[int, int, bool]:
    """Value, number of digits (-1: other text) and whether there is a space in front."""
    text = piece.removeprefix(SPACE)
    space = text != piece
    if not text:
        return 0, 0, space
    if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS:
        return int(text), len(text), space
    return 0, -1, space
