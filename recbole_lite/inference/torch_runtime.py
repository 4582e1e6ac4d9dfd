"""A trained model as torch runs it: the reference, for any model and any device."""

from __future__ import annotations

import numpy as np
import torch

from recbole_lite.inference import ranking
from recbole_lite.inference.ranking import Histories, Ranked


class TorchRuntime:
    """A model's own ``full_sort_predict``, with the interface of `OnnxRuntime`.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode.
    """

    name = "torch"

    def __init__(self, model: torch.nn.Module):
        self.model = model
        self.n_items, self.max_length = int(model.n_items), int(model.max_seq_length)
        # Models with positions for all of the padding want all of it; ours give it no weight.
        self.full_length = not hasattr(model, "reader")

    def scores(self, histories: Histories) -> np.ndarray:
        """See :meth:`OnnxRuntime.scores`."""
        return self.score(histories).cpu().numpy()

    @torch.inference_mode()
    def score(self, histories: Histories) -> torch.Tensor:
        """:meth:`scores` on the model's device."""
        model, device = self.model, self.device
        if not len(histories):
            return torch.empty(0, self.n_items)
        items = torch.from_numpy(ranking.padded(histories, max_length=self.max_length))
        if self.full_length:
            items = torch.nn.functional.pad(items, (0, self.max_length - items.shape[1]))
        batch = {model.ITEM_SEQ: items.to(device), model.ITEM_SEQ_LEN: (items != 0).sum(1)}
        batch[model.ITEM_SEQ_LEN] = batch[model.ITEM_SEQ_LEN].to(device)
        scores = model.full_sort_predict(batch).view(len(items), self.n_items).float()
        scores[:, 0] = -torch.inf
        return scores

    @torch.inference_mode()
    def rank(
        self,
        histories: Histories,
        k: int,
        exclude: Histories | None = None,
        among: np.ndarray | None = None,
    ) -> Ranked:
        """See :meth:`OnnxRuntime.rank`."""
        scores = self.score(histories)
        if exclude is not None:
            seen = torch.from_numpy(ranking.padded(exclude)).to(self.device)
            scores.scatter_(1, seen, -torch.inf)  # padding has -inf already
        if among is not None:
            among = torch.from_numpy(among).to(self.device)
            scores = scores[:, among]
        values, places = scores.topk(min(k, scores.shape[1] - (among is None)), dim=1)
        items = places if among is None else among[places]
        items = items.masked_fill(values.isneginf(), 0)
        return items.cpu().numpy(), values.cpu().numpy()

    def warm_up(self, users: int = 32) -> None:
        """Answer a batch, so that no request waits for kernels."""
        self.rank([[1] * self.max_length] * users, 1)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device
