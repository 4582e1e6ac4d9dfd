"""How far predicted rows of the head must be stretched to compete with trained ones.

A ridge regression predicts what rows have in common, so its predictions lie nearer to their mean
than the rows themselves, and next to trained items a new one would never be recommended. All
predicted rows are moved away from the mean by one factor, which leaves the order of new items
among themselves as it is.

The factor is found on the trained items: some of them get the row that a fit without them predicts,
stretched; with the right factor they take as many places in the recommendations as is their share
of the catalogue. The users asked are the model's own: histories drawn from its recommendations, so
that no data are needed.
"""

from __future__ import annotations

import torch

from recbole_lite.inference.ranking import padded
from recbole_lite.inference.torch_runtime import TorchRuntime

PLACES = 10  # of each list of recommendations
USERS = 500
STEPS = 10  # items of a drawn history
SHARE = 0.05  # of the items that are treated as new at a time
DRAWS = 8  # of those items
MOST_ITEMS = 20_000  # a sample of larger catalogues serves
LARGEST = 16.0
_SEED = 0


@torch.inference_mode()
def find_stretch(model: torch.nn.Module, ids: torch.Tensor, twins: torch.Tensor) -> float:
    """Factor with which predicted rows are recommended as often as trained ones.

    Parameters
    ----------
    model : LiteLLM4Rec
        With a head of its own.
    ids : LongTensor [n]
        Internal ids of the trained items that have text.
    twins : Tensor [n, d]
        Their rows of the head, each predicted by a fit without it.

    Returns
    -------
    float
        From 1 to `LARGEST`.
    """
    generator = torch.Generator().manual_seed(_SEED)
    device = model.head.weight.device
    histories = drawn_histories(model, ids.tolist(), generator)
    items = torch.from_numpy(padded(histories, max_length=model.max_seq_length)).to(device)
    users = model(items, (items != 0).sum(1))  # [U, d]
    kept = torch.randperm(len(ids), generator=generator)[:MOST_ITEMS]
    ids, twins = ids[kept].to(device), twins[kept].to(device)
    rows = model.head.weight[ids - 1]
    had = torch.zeros(len(users), len(model.head.weight) + 1, dtype=torch.bool, device=device)
    had = had.scatter_(1, items, True)[:, ids]  # [U, n]
    mean = rows.mean(0)
    own = (users @ rows.T).masked_fill(had, -torch.inf)  # [U, n]
    level = (users @ mean)[:, None]
    beyond = (users @ (twins - mean).T).masked_fill(had, -torch.inf)
    as_new = torch.rand(DRAWS, len(ids), generator=generator).to(device) < SHARE
    k = min(PLACES, len(ids))

    def surplus(factor: float) -> float:
        """Places that new items take beyond their share, as a part of all places."""
        stretched = level + factor * beyond
        taken = 0.0
        for new in as_new:
            best = torch.where(new, stretched, own).topk(k).indices
            taken += float(new[best].float().mean() - new.float().mean())
        return taken / DRAWS

    low, high = 1.0, LARGEST
    if surplus(low) >= 0 or surplus(high) <= 0:
        return low if surplus(low) >= 0 else high
    for _ in range(12):  # to within 0.4%
        middle = (low + high) / 2
        low, high = (low, middle) if surplus(middle) > 0 else (middle, high)
    return (low + high) / 2


@torch.inference_mode()
def drawn_histories(model, ids: list[int], generator: torch.Generator) -> list[list[int]]:
    """Histories of trained items: one at random, then one after another by the model's scores."""
    count = min(USERS, len(ids))
    first = torch.randperm(len(ids), generator=generator)[:count].tolist()
    histories, runtime = [[ids[place]] for place in first], TorchRuntime(model)
    for _ in range(min(STEPS, len(ids), model.max_seq_length) - 1):
        scores = runtime.score(histories)
        scores.scatter_(1, torch.tensor(histories, device=scores.device), -torch.inf)
        chances = torch.softmax(scores, 1).cpu()
        drawn = torch.multinomial(chances, 1, generator=generator)[:, 0].tolist()
        for history, item in zip(histories, drawn, strict=True):
            history.append(item)
    return histories
