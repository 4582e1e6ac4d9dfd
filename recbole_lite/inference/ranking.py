"""From histories of internal ids to the best items and their scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence


def windows(
    histories: Sequence[Sequence[int]], max_length: int, full_length: bool, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Last items of each history, the earliest first, zeros behind.

    Parameters
    ----------
    histories : sequence of sequence of int
        Internal ids, none empty.
    max_length : int
        Longest window.
    full_length : bool
        Pad to `max_length`, not only to the longest of these histories.
    device : torch.device

    Returns
    -------
    (LongTensor [B, L], LongTensor [B])
        Ids, and how many of each row are items.
    """
    rows = [torch.tensor(history[-max_length:]) for history in histories]
    items = pad_sequence(rows, batch_first=True)
    if full_length:
        items = torch.nn.functional.pad(items, (0, max_length - items.shape[1]))
    return items.to(device), torch.tensor([len(row) for row in rows], device=device)


@torch.inference_mode()
def score(model: torch.nn.Module, histories: Sequence[Sequence[int]]) -> torch.Tensor:
    """Scores of all items by the model's own ``full_sort_predict``.

    Returns
    -------
    Tensor [B, n_items], float32
        -inf for padding (id 0).
    """
    # LiteLLM4Rec gives padding no weight; RecBole's models may have positions for all of it.
    full_length = not hasattr(model, "rec_llm")
    device = next(model.parameters()).device
    items, lengths = windows(histories, model.max_seq_length, full_length, device)
    scores = model.full_sort_predict({model.ITEM_SEQ: items, model.ITEM_SEQ_LEN: lengths})
    scores = scores.view(len(histories), model.n_items).float()
    scores[:, 0] = -torch.inf
    return scores


@torch.inference_mode()
def top(
    scores: torch.Tensor,
    k: int,
    exclude: Sequence[Sequence[int]] | None = None,
    among: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Best items of each row.

    Parameters
    ----------
    scores : Tensor [B, n_items]
        Changed in place.
    k : int
    exclude : sequence of sequence of int, optional
        Internal ids that row b must not have.
    among : LongTensor [C], optional
        Internal ids to choose from; default: all.

    Returns
    -------
    (LongTensor [B, K], Tensor [B, K]), on the CPU
        Ids, best first, and their scores; K = min(k, number to choose from). -inf marks places
        for which no item is left.
    """
    if exclude is not None:
        seen = pad_sequence([torch.tensor(row) for row in exclude], batch_first=True)
        scores.scatter_(1, seen.to(scores.device), -torch.inf)  # padding has -inf already
    if among is not None:
        scores = scores[:, among]
    values, places = scores.topk(min(k, scores.shape[1] - (among is None)), dim=1)
    items = places if among is None else among[places]
    return items.cpu(), values.cpu()
