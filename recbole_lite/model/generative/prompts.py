"""Prompts of a batch, put together from token tables without a loop over users."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from recbole_lite.utils.errors import ConfigError


class HostBuffers(nn.Module):
    """Module whose buffers are read on the host, wherever the model has taken them.

    A batch's prompts are put together on the host. The buffers are part of the model's state all
    the same, and go where it goes.
    """

    def __init__(self):
        super().__init__()
        self._read: dict[str, tuple] = {}  # name -> buffer, its version, its values on the CPU

    def on_host(self, name: str) -> torch.Tensor:
        """Values of a buffer on the CPU, copied when it has changed."""
        buffer = self.get_buffer(name)
        if buffer.device.type == "cpu":
            return buffer
        known, version, values = self._read.get(name, (None, None, None))
        if known is not buffer or version != buffer._version:
            values = buffer.cpu()
            self._read[name] = buffer, buffer._version, values
        return values


class TokenTable(HostBuffers):
    """Tokens of numbered things: users, items.

    Parameters
    ----------
    tokens : sequence of sequence of int
        By number.
    """

    def __init__(self, tokens: Sequence[Sequence[int]]):
        super().__init__()
        lengths = torch.tensor([len(row) for row in tokens])
        table = torch.zeros(len(tokens), max(int(lengths.max()), 1), dtype=torch.int64)
        for number, row in enumerate(tokens):
            table[number, : len(row)] = torch.tensor(row, dtype=torch.int64)
        self.register_buffer("table", table)
        self.register_buffer("lengths", lengths)

    def forward(self, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens ``[..., K]`` of ``[...]`` numbers, and whether there is one at a place."""
        table, lengths = self.on_host("table"), self.on_host("lengths")
        return table[numbers], torch.arange(table.shape[1]) < lengths[numbers][..., None]


class Prompts(nn.Module):
    """Token ids of prompts such as ``user_12 item_34 item_56``, on the CPU.

    Parameters
    ----------
    templates : sequence of (list of int, list of int, list of int)
        Tokens before the user, between user and items, and behind the items.
    users, items : TokenTable
    """

    def __init__(self, templates: Sequence[tuple], users: TokenTable, items: TokenTable):
        super().__init__()
        parts = zip(*templates, strict=True)
        self.parts = nn.ModuleList(TokenTable(part) for part in parts)
        self.users, self.items = users, items
        self.n_templates = len(templates)

    def forward(
        self, users: torch.Tensor, item_seq: torch.Tensor, template: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Prompts of a batch.

        Parameters
        ----------
        users : torch.Tensor
            ``[B]`` internal ids.
        item_seq : torch.Tensor
            ``[B, L]`` internal ids, 0 for padding.
        template : torch.Tensor
            ``[B]`` number of each prompt's template.

        Returns
        -------
        (torch.Tensor, torch.Tensor, torch.Tensor)
            Token ids ``[B, T]``; the whole word that each belongs to (P5, Section 3.3: 1 for the
            user, 2 ... for the items, 0 for the template's words); mask. All tokens stand at the
            left, T is the longest prompt of the batch.
        """
        return joined(
            [
                (*self.parts[0](template), 0),
                (*self.users(users), 1),
                (*self.parts[1](template), 0),
                self.item_block(item_seq, 2),
                (*self.parts[2](template), 0),
            ]
        )

    def item_block(self, items: torch.Tensor, first_word: int) -> tuple:
        """Tokens, mask and whole words (from `first_word`) of items, ``[B, L]`` ids."""
        tokens, mask = self.items(items)  # [B, L, K]
        mask = mask & (items > 0)[..., None]
        words = torch.arange(first_word, first_word + items.shape[1])
        words = words.repeat_interleave(tokens.shape[2]).expand(len(items), -1)
        return tokens.flatten(1), mask.flatten(1), words


def joined(blocks: Sequence[tuple]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Prompts made of blocks: tokens ``[B, T]``, mask, number of the whole word or ``[B, T]``."""
    tokens = torch.cat([block[0] for block in blocks], 1)
    mask = torch.cat([block[1] for block in blocks], 1)
    word = torch.cat(
        [
            block[2] if torch.is_tensor(block[2]) else torch.full_like(block[0], block[2])
            for block in blocks
        ],
        1,
    )
    return _to_the_left(mask, tokens, word)


def _to_the_left(mask, tokens, word):
    lengths = mask.sum(1)
    longest = int(lengths.max())
    # Places of the tokens that are there, in order; the rest goes to a last column, cut off.
    places = torch.where(mask, mask.cumsum(1) - 1, longest)
    moved = [
        torch.zeros(len(mask), longest + 1, dtype=values.dtype).scatter_(1, places, values)[
            :, :longest
        ]
        for values in (tokens, word)
    ]
    kept = torch.arange(longest) < lengths[:, None]
    return *moved, kept


def split_template(template: str, key: str) -> tuple[str, str, str]:
    """Words before, between and behind ``{user}`` and ``{items}``.

    Both must stand alone between spaces: then their tokens do not depend on the words around
    them, and can be looked up.

    Raises
    ------
    ConfigError
        One of them is missing, repeated, in the other order, or touches a word.
    """
    words = str(template).split()
    if words.count("{user}") != 1 or words.count("{items}") != 1:
        raise ConfigError(
            f"{key}: {template!r} must hold {{user}} and {{items}} once each, between spaces"
        )
    user, items = words.index("{user}"), words.index("{items}")
    if items < user:
        raise ConfigError(f"{key}: {template!r} must name {{user}} before {{items}}")
    parts = words[:user], words[user + 1 : items], words[items + 1 :]
    return tuple(" ".join(part) for part in parts)
