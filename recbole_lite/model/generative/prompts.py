"""Prompts of a batch, assembled from token tables without a loop over users."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from recbole_lite.utils.errors import ConfigError

CANDIDATE_KEY = "topn_templates"
_SLOTS = ("{user}", "{items}", "{candidates}")


class HostBuffers(nn.Module):
    """Module whose buffers are read on the host, whatever device the model is on.

    A batch's prompts are assembled on the host. The buffers are still part of the model's state
    and move with it.
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
    """Tokens of users, items or template texts, looked up by their number.

    Parameters
    ----------
    tokens : sequence of sequence of int
        Token ids of number 0, 1, ....
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
        """Token ids ``[..., K]`` of ``[...]`` numbers, and their mask; K is the longest entry."""
        table, lengths = self.on_host("table"), self.on_host("lengths")
        return table[numbers], torch.arange(table.shape[1]) < lengths[numbers][..., None]


class Prompts(nn.Module):
    """Token ids of prompts such as ``user_12 item_34 item_56``, on the CPU.

    Parameters
    ----------
    templates : sequence of (list of int, list of int, list of int)
        Token ids before the user, between user and items, and after the items.
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
            Token ids ``[B, T]``; the whole word of each token (P5, Section 3.3: 1 for the user,
            2 ... for the items, 0 for the template); mask. Prompts are left-aligned, T is the
            longest of the batch.
        """
        return _join(
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


class CandidatePrompts(HostBuffers):
    """Token ids of prompts such as ``user_12 item_34 item_56``, the items being candidates.

    Parameters
    ----------
    templates : sequence of (list of int, list of int, list of int or None, list of int)
        Token ids before the user, after the user, after the history (None: the history is not
        shown) and after the candidates.
    """

    def __init__(self, templates: Sequence[tuple]):
        super().__init__()
        columns = zip(*templates, strict=True)
        self.parts = nn.ModuleList(
            TokenTable([part or [] for part in column]) for column in columns
        )
        shown = torch.tensor([template[2] is not None for template in templates])
        self.register_buffer("shows_history", shown)
        self.n_templates = len(templates)

    def forward(
        self,
        prompts: Prompts,
        users: torch.Tensor,
        item_seq: torch.Tensor,
        candidates: torch.Tensor,
        template: torch.Tensor,
        max_length: int,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Prompts of a batch, as :class:`Prompts` makes them.

        Parameters
        ----------
        prompts : Prompts
            Has the tokens of users and items.
        users, item_seq, candidates, template : torch.Tensor
            ``[B]``, ``[B, L]``, ``[B, C]``, ``[B]``.
        max_length : int
            Longest history; L may be less.

        Returns
        -------
        (torch.Tensor, torch.Tensor, torch.Tensor)
            Token ids ``[B, T]``, whole words (2 ... for the history, `max_length` + 2 ... for
            the candidates), mask.
        """
        shown = self.on_host("shows_history")
        history = item_seq * shown[template][:, None]
        if not shown.any():
            history = history[:, :0]
        return _join(
            [
                (*self.parts[0](template), 0),
                (*prompts.users(users), 1),
                (*self.parts[1](template), 0),
                prompts.item_block(history, 2),
                (*self.parts[2](template), 0),
                prompts.item_block(candidates, 2 + max_length),
                (*self.parts[3](template), 0),
            ]
        )


def _join(blocks: Sequence[tuple]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Prompts of blocks (tokens, mask, number of the whole word or ``[B, T]``), left-aligned."""
    tokens, mask = (torch.cat([block[part] for block in blocks], 1) for part in (0, 1))
    words = torch.cat([torch.as_tensor(word).expand_as(there) for _, there, word in blocks], 1)
    lengths = mask.sum(1)
    longest = int(lengths.max())
    # Target columns of the tokens, in order; padding goes to a last column, which is cut off.
    columns = torch.where(mask, mask.cumsum(1) - 1, longest)
    empty = torch.zeros(len(mask), longest + 1, dtype=tokens.dtype)
    tokens, words = (empty.scatter(1, columns, part)[:, :longest] for part in (tokens, words))
    return tokens, words, torch.arange(longest) < lengths[:, None]


def split_template(template: str, key: str) -> tuple[str, str, str]:
    """Texts before, between and after ``{user}`` and ``{items}``.

    Both must be separate words: then their tokens do not depend on the text around them and can
    be looked up.

    Raises
    ------
    ConfigError
        One of them is missing, repeated, in the other order, or touches a word.
    """
    words, slots = str(template).split(), _SLOTS[:2]
    if [word for word in words if word in slots] != list(slots):
        raise ConfigError(
            f"{key}: {template!r} must hold {{user}} and {{items}} once each, between spaces, and "
            "must name {user} before {items}"
        )
    return _texts_around(words, slots)


def split_candidate_template(template: str) -> tuple[str, str, str | None, str]:
    """Texts before ``{user}``, after it, after ``{items}`` (None: not there), at the end.

    Raises
    ------
    ConfigError
        A slot is missing, repeated, in another order, or touches a word.
    """
    words = str(template).split()
    slots = [word for word in words if word in _SLOTS]
    if slots not in ([_SLOTS[0], _SLOTS[2]], list(_SLOTS)):
        raise ConfigError(
            f"{CANDIDATE_KEY}: {template!r} must hold {{user}} and behind it {{candidates}}, once "
            "each, between spaces; {items} (the history) may stand between them"
        )
    texts = _texts_around(words, slots)
    return texts if len(slots) == 3 else (*texts[:2], None, texts[2])


def _texts_around(words: list[str], slots: Sequence[str]) -> tuple[str, ...]:
    places = [-1, *map(words.index, slots), len(words)]
    return tuple(" ".join(words[begin + 1 : end]) for begin, end in pairwise(places))
