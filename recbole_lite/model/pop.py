"""Popularity, counted."""

from __future__ import annotations

import torch
from recbole.model.general_recommender.pop import Pop as RecBolePop


class Pop(RecBolePop):
    """RecBole's Pop with counts of interactions.

    RecBole's adds 1 per batch to each item in it, however often it occurs there, and counts
    the negatives that its default settings draw as well; as a baseline that is too weak.
    """

    def calculate_loss(self, interaction):
        """Count the items of a batch; nothing is learned."""
        items = interaction[self.ITEM_ID]
        self.item_cnt.index_add_(0, items, torch.ones_like(items)[:, None])
        self.max_cnt = self.item_cnt.max(dim=0)[0]
        return torch.zeros(1, device=self.device, requires_grad=True)
