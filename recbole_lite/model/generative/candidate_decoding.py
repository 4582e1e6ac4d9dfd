"""Prompts with candidates, and beams that stay among them (``task: topn``)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from recbole_lite.model.generative.prompts import HostBuffers, Prompts, TokenTable, joined
from recbole_lite.model.generative.trie import ItemTrie
from recbole_lite.utils.errors import ConfigError

KEY = "topn_templates"
_SLOTS = ("{user}", "{items}", "{candidates}")


class CandidatePrompts(HostBuffers):
    """Token ids of prompts such as ``user_12 item_34 item_56``, the items being candidates.

    Parameters
    ----------
    templates : sequence of (list of int, list of int, list of int or None, list of int)
        Tokens before the user, behind it, behind the history (None: it is not shown) and behind
        the candidates.
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
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Prompts of a batch, as :class:`Prompts` makes them.

        Parameters
        ----------
        prompts : Prompts
            Has the tokens of users and items.
        users, item_seq, candidates, template : torch.Tensor
            ``[B]``, ``[B, L]``, ``[B, C]``, ``[B]``.

        Returns
        -------
        (torch.Tensor, torch.Tensor, torch.Tensor)
            Token ids ``[B, T]``, whole words (2 ... L + 1 for the history, L + 2 ... for the
            candidates), mask.
        """
        shown = self.on_host("shows_history")
        history = item_seq * shown[template][:, None]
        if not shown.any():
            history = history[:, :0]
        return joined(
            [
                (*self.parts[0](template), 0),
                (*prompts.users(users), 1),
                (*self.parts[1](template), 0),
                prompts.item_block(history, 2),
                (*self.parts[2](template), 0),
                prompts.item_block(candidates, 2 + item_seq.shape[1]),
                (*self.parts[3](template), 0),
            ]
        )


def split_candidate_template(template: str) -> tuple[str, str, str | None, str]:
    """Words before ``{user}``, behind it, behind ``{items}`` (None: not there), behind the rest.

    Raises
    ------
    ConfigError
        One of them is missing or repeated, in the other order, or touches a word.
    """
    words = str(template).split()
    found = [word for word in words if word in _SLOTS]
    if found not in ([_SLOTS[0], _SLOTS[2]], list(_SLOTS)):
        raise ConfigError(
            f"{KEY}: {template!r} must hold {{user}} and behind it {{candidates}}, once each, "
            "between spaces; {items} (the history) may stand between them"
        )
    places = [words.index(slot) for slot in found]
    texts = [
        " ".join(words[begin + 1 : end])
        for begin, end in zip([-1, *places], [*places, len(words)], strict=True)
    ]
    if len(texts) == 3:
        texts.insert(2, None)
    return tuple(texts)


def allowed_states(paths: ItemTrie, candidates: torch.Tensor) -> torch.Tensor:
    """States of the trie on the way to each user's candidates.

    Parameters
    ----------
    paths : ItemTrie
    candidates : torch.Tensor
        ``[B, C]`` ids.

    Returns
    -------
    torch.Tensor
        ``[B, n_states]`` bool.
    """
    labels = paths.labels[candidates]  # [B, C, T]
    allowed = torch.zeros(
        len(candidates), paths.n_states + 1, dtype=torch.bool, device=candidates.device
    )
    states = torch.zeros_like(candidates)
    for step in range(labels.shape[2]):
        tokens = labels[..., step]
        states = paths.step(states.flatten(), tokens.flatten()).view_as(states)
        states = torch.where(tokens < 0, -1, states)  # behind a path's end
        allowed.scatter_(1, states.remainder(paths.n_states + 1), True)  # -1: the last column
    return allowed[:, :-1]
