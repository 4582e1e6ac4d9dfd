"""Rows of a batch that ask the same user for another item (``eval_args: {mode: uni99}``)."""

from __future__ import annotations

import torch
from recbole.data.interaction import Interaction


def distinct_rows(
    interaction: Interaction, user: str, item_seq: str
) -> tuple[Interaction, torch.Tensor]:
    """Leave out rows with the user and history of the row before.

    RecBole asks for one score per row, a hundred rows of each user under ``uni99``; the encoder
    needs to read a history only once.

    Parameters
    ----------
    interaction : Interaction
    user, item_seq : str
        Fields of the user ``[B]`` and the history ``[B, L]``.

    Returns
    -------
    (Interaction, torch.Tensor)
        The rows that stay, ``[D]`` of them; which of them each row is, ``[B]``.
    """
    keys = interaction[item_seq]
    if user in interaction:
        keys = torch.cat([interaction[user][:, None], keys], 1)
    _, belongs = torch.unique_consecutive(keys, dim=0, return_inverse=True)
    first = torch.ones_like(belongs, dtype=torch.bool)
    first[1:] = belongs[1:] != belongs[:-1]
    return interaction[first.nonzero().squeeze(1)], belongs
