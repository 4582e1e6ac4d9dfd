"""Calibration of predicted head rows, so that new items compete with trained ones.

Predictions of a ridge regression are shrunk towards the mean row; unscaled, new items would never
be recommended next to trained ones. One factor therefore scales the distance of all predicted rows
from the mean row. It does not change the order of new items among themselves.

The factor is found on the trained items. Some of them are held out: their rows are replaced by the
scaled predictions of fits without them. With the right factor, held-out items appear in the top
lists in proportion to their share of the catalogue. The histories are sampled from the model's own
recommendations, so that no data set is needed.
"""

from __future__ import annotations

import torch

from recbole_lite.inference.ranking import pad
from recbole_lite.inference.torch_runtime import TorchRuntime

TOP_K = 10  # length of the lists of recommendations
N_HISTORIES = 500
HISTORY_LENGTH = 10
HELD_OUT_SHARE = 0.05  # of the items, in each draw
N_DRAWS = 8  # of held-out items
MAX_ITEMS = 20_000  # larger catalogues are sampled
MAX_FACTOR = 16.0
_SEED = 0


@torch.inference_mode()
def calibrate(model: torch.nn.Module, ids: torch.Tensor, predicted: torch.Tensor) -> float:
    """Factor with which items with predicted rows are recommended as often as trained ones.

    Parameters
    ----------
    model : LiteLLM4Rec
        Its head is not tied to the inputs.
    ids : LongTensor [n]
        Internal ids of the trained items that have text.
    predicted : Tensor [n, d]
        Their rows of the head, each predicted by a fit without it.

    Returns
    -------
    float
        From 1 to `MAX_FACTOR`.
    """
    generator = torch.Generator().manual_seed(_SEED)
    device = model.head.weight.device
    histories = sample_histories(model, ids.tolist(), generator)
    items = torch.from_numpy(pad(histories, max_length=model.max_seq_length)).to(device)
    users = model(items, (items != 0).sum(1))  # [U, d]
    kept = torch.randperm(len(ids), generator=generator)[:MAX_ITEMS]
    ids, predicted = ids[kept].to(device), predicted[kept].to(device)
    rows = model.head.weight[ids - 1]
    had = torch.zeros(len(users), len(model.head.weight) + 1, dtype=torch.bool, device=device)
    had = had.scatter_(1, items, True)[:, ids]  # [U, n]
    mean = rows.mean(0)
    own = (users @ rows.T).masked_fill(had, -torch.inf)  # [U, n]
    level = (users @ mean)[:, None]
    beyond = (users @ (predicted - mean).T).masked_fill(had, -torch.inf)
    as_new = torch.rand(N_DRAWS, len(ids), generator=generator).to(device) < HELD_OUT_SHARE
    k = min(TOP_K, len(ids))

    def surplus(factor: float) -> float:
        """Share of places that held-out items take, minus their share of the catalogue."""
        scaled = level + factor * beyond
        taken = 0.0
        for new in as_new:
            best = torch.where(new, scaled, own).topk(k).indices
            taken += float(new[best].float().mean() - new.float().mean())
        return taken / N_DRAWS

    low, high = 1.0, MAX_FACTOR
    if surplus(low) >= 0 or surplus(high) <= 0:
        return low if surplus(low) >= 0 else high
    for _ in range(12):  # to within 0.4%
        middle = (low + high) / 2
        low, high = (low, middle) if surplus(middle) > 0 else (middle, high)
    return (low + high) / 2


@torch.inference_mode()
def sample_histories(model, ids: list[int], generator: torch.Generator) -> list[list[int]]:
    """Histories of trained items: the first is uniform, the next follow the model's softmax."""
    count = min(N_HISTORIES, len(ids))
    first = torch.randperm(len(ids), generator=generator)[:count].tolist()
    histories, runtime = [[ids[place]] for place in first], TorchRuntime(model)
    for _ in range(min(HISTORY_LENGTH, len(ids), model.max_seq_length) - 1):
        scores = runtime.score(histories)
        scores.scatter_(1, torch.tensor(histories, device=scores.device), -torch.inf)
        chances = torch.softmax(scores, 1).cpu()
        drawn = torch.multinomial(chances, 1, generator=generator)[:, 0].tolist()
        for history, item in zip(histories, drawn, strict=True):
            history.append(item)
    return histories
