"""One row per user instead of one per user and item (``eval_args: {mode: uni99}``)."""

from __future__ import annotations

import torch
from recbole.data.interaction import Interaction


def distinct_rows(
    interaction: Interaction, user: str, item_seq: str
) -> tuple[Interaction, torch.Tensor]:
    """Drop rows with the same user and history as the row before.

    RecBole asks for one score per row, with 100 rows per user under ``uni99``; the encoder reads
    each history only once.

    Parameters
    ----------
    interaction : Interaction
    user, item_seq : str
        Fields of the user ``[B]`` and the history ``[B, L]``.

    Returns
    -------
    (Interaction, torch.Tensor)
        The ``D`` distinct rows; index of each row among them, ``[B]``.
    """
    keys = interaction[item_seq]
    if user in interaction:
        keys = torch.cat([interaction[user][:, None], keys], 1)
    _, inverse = torch.unique_consecutive(keys, dim=0, return_inverse=True)
    is_first = torch.diff(inverse, prepend=inverse.new_full((1,), -1)) > 0
    return interaction[is_first.nonzero().squeeze(1)], inverse
