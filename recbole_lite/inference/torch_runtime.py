"""Scores and top items of a model in torch: the reference, for any model and device."""

from __future__ import annotations

import numpy as np
import torch

from recbole_lite.inference import ranking
from recbole_lite.inference.ranking import Histories, Ranked


class TorchRuntime:
    """A model's ``full_sort_predict`` with the interface of `OnnxRuntime`.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode.
    """

    name = "torch"

    def __init__(self, model: torch.nn.Module):
        self.model = model
        self.n_items, self.max_length = int(model.n_items), int(model.max_seq_length)
        # RecBole's models need rows of full length; ours ignore padding.
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
        items = torch.from_numpy(ranking.pad(histories, max_length=self.max_length))
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
        candidates: np.ndarray | None = None,
    ) -> Ranked:
        """See :meth:`OnnxRuntime.rank`."""
        scores = self.score(histories)
        if exclude is not None:
            seen = torch.from_numpy(ranking.pad(exclude)).to(self.device)
            scores.scatter_(1, seen, -torch.inf)  # padding has -inf already
        if candidates is not None:
            candidates = torch.from_numpy(candidates).to(self.device)
            scores = scores[:, candidates]
        values, places = scores.topk(min(k, scores.shape[1] - (candidates is None)), dim=1)
        items = places if candidates is None else candidates[places]
        items = items.masked_fill(values.isneginf(), 0)
        return items.cpu().numpy(), values.cpu().numpy()

    def warm_up(self, users: int = 32) -> None:
        """Run a batch once, so that no request pays for the start of kernels."""
        self.rank([[1] * self.max_length] * users, 1)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.model.parameters()).device
