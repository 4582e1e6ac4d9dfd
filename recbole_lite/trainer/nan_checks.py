"""Checks for NaN and infinity in losses, weights and scores; errors name the users and items."""

from __future__ import annotations

from collections import deque
from logging import getLogger

import torch

from recbole_lite.data.device_transfer import to_host
from recbole_lite.utils.errors import TrainingError
from recbole_lite.utils.log import FILE_ONLY

SHOWN = 5  # ids in the message; the log file has all of them
_ID_FIELDS = ("uid_field", "iid_field")


class NonFiniteGuard:
    """Loss function that remembers its last batches, so that an error can name their ids.

    Parameters
    ----------
    loss_func : callable
        Of the model.
    loader : iterable
        Source of the batches; its dataset maps internal ids to those of the data files.
    epoch : int
    remembered : int
        Number of batches between two checks of the losses.
    """

    def __init__(self, loss_func, loader, epoch: int, remembered: int):
        self.loss_func, self.dataset, self.epoch = loss_func, _dataset(loader), epoch
        self.number, self._batches = -1, deque(maxlen=remembered)

    def __call__(self, batch):
        """Loss of a batch."""
        self.number += 1
        names = [getattr(self.dataset, name, None) for name in _ID_FIELDS]
        self._batches.append({name: to_host(batch[name]) for name in names if name in batch})
        return self.loss_func(batch)

    def where(self, steps_ago: int = 0) -> str:
        """Epoch, batch, and the ids in it; of the last batch or one before it."""
        ids = ids_of(self._batches[-1 - steps_ago], self.dataset)
        return f"epoch {self.epoch}, batch {self.number - steps_ago}{ids}"


def check_weights(model: torch.nn.Module, epoch: int, advice: str) -> None:
    """Check before saving that all weights are finite; the last step of an epoch can break them.

    Raises
    ------
    TrainingError
        Names the first parameter that is not; `advice` ends the message.
    """
    names, parameters = zip(*model.named_parameters(), strict=True)
    finite = torch.stack([parameter.isfinite().all() for parameter in parameters]).tolist()
    if not all(finite):
        raise TrainingError(
            f"the weights of {names[finite.index(False)]} are NaN or infinite after epoch {epoch}. "
            f"Try a smaller learning_rate or set clip_grad_norm={{'max_norm': 1.0}}. {advice}"
        )


def check_scores(largest: torch.Tensor, batch, loader, advice: str, owner=None) -> None:
    """Check before ranking that no score is NaN or +infinity.

    Torch sorts NaN before everything else, and the metrics would look plausible.

    Parameters
    ----------
    largest : torch.Tensor
        ``[B]`` largest score of each row, NaN if there is one; -inf is allowed: an item that is not
        to be recommended.
    batch : Interaction
    loader
        Source of the batch.
    advice : str
        End of the message: which weights are intact.
    owner : torch.Tensor, optional
        Row of `largest` of each row of the batch, where these differ.

    Raises
    ------
    TrainingError
        Names the users.
    """
    wrong = largest.isnan() | largest.isposinf()
    if not wrong.any():
        return
    rows = torch.nonzero(wrong).flatten().cpu()
    n_wrong = len(rows)
    if owner is not None:
        rows = torch.stack([torch.nonzero(owner == row)[0, 0] for row in rows])
    kind = "NaN" if largest.isnan().any() else "infinity"
    raise TrainingError(
        f"the model scores items with {kind} for {n_wrong} of {len(largest)} users of a batch"
        f"{ids_of(batch, _dataset(loader), rows)}. {advice}"
    )


def ids_of(batch, dataset, rows: torch.Tensor | None = None) -> str:
    """Users and target items of a batch by the ids of the data files, ``" (user_id u1, u2)"``.

    The log file gets all of them.
    """
    parts = []
    for name in _ID_FIELDS if rows is None else _ID_FIELDS[:1]:
        field = getattr(dataset, name, None)
        if field is None or batch is None or field not in batch:
            continue
        ids = to_host(batch[field]).flatten()
        ids = ids if rows is None else ids[rows]
        tokens = list(map(str, dataset.id2token(field, ids.numpy())))
        getLogger().error(f"{field} of the batch: {', '.join(tokens)}", extra=FILE_ONLY)
        more = f" and {len(tokens) - SHOWN} more" if len(tokens) > SHOWN else ""
        parts.append(f"{field} {', '.join(tokens[:SHOWN])}{more}")
    return f" ({'; '.join(parts)})" if parts else ""


def _dataset(loader):
    return getattr(loader, "_dataset", None)
