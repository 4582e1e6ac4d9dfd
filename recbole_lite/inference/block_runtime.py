"""Top items by blocks of the catalogue, or from an approximate index, for millions of items."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from recbole_lite.data.device_transfer import tensor_to_device
from recbole_lite.inference import item_index, ranking
from recbole_lite.inference.ranking import Histories, Ranked
from recbole_lite.inference.torch_runtime import TorchRuntime

ITEMS_AT_ONCE = 2**15


class BlockRuntime(TorchRuntime):
    """The interface of `TorchRuntime`; memory grows with a block of items, not with all of them.

    Parameters
    ----------
    model : NextItemModel
        In evaluation mode; from now on its items' vectors and head are in `dtype`.
    dtype : str
        float32, bfloat16 or float16. Scores are computed in float32 from it.
    """

    name = "blocks"

    def __init__(self, model: torch.nn.Module, dtype: str = "float32"):
        super().__init__(model, graphs=False)
        self.head = model.keep_items(getattr(torch, dtype))  # [n_items - 1, d]

    @torch.no_grad()
    def score(self, histories: Histories, **search) -> torch.Tensor:
        """See :meth:`TorchRuntime.score`."""
        users = self.users(histories)
        found = users.new_full((len(users), self.n_items), -torch.inf)
        for ids, rows in self._blocks(None):
            found[:, ids] = users @ rows.T
        return found

    @torch.no_grad()
    def users(self, histories: Histories) -> torch.Tensor:
        """Vectors of users whose products with the head's rows are scores, ``[B, d]``."""
        items = torch.from_numpy(ranking.pad(histories, max_length=self.max_length))
        items = tensor_to_device(items, self.device)
        return self.model.score_users(self.model(items, (items != 0).sum(1))).float()

    def _blocks(self, candidates: np.ndarray | None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Ids ``[n]``, ascending, and their rows of the head in float32 ``[n, d]``.

        The next block can overwrite the rows: to allocate memory takes longer than to convert.
        """
        buffer = torch.empty(ITEMS_AT_ONCE, self.head.shape[1], device=self.device)
        total = self.n_items - 1 if candidates is None else len(candidates)
        for begin in range(0, total, ITEMS_AT_ONCE):
            part = slice(begin, min(begin + ITEMS_AT_ONCE, total))
            if candidates is None:
                ids, rows = torch.arange(part.start + 1, part.stop + 1), self.head[part]
            else:
                ids = torch.from_numpy(candidates[part])
                rows = self.head[(ids - 1).to(self.device)]
            exact = rows.dtype == torch.float32
            yield ids, rows if exact else buffer[: len(ids)].copy_(rows)

    def _rank(self, histories, k, exclude, candidates) -> Ranked:
        users = self.users(histories)
        candidates = None if candidates is None else np.unique(candidates)
        seen = torch.from_numpy(ranking.pad([[]] * len(users) if exclude is None else exclude))
        k = min(k, self.n_items - 1 if candidates is None else len(candidates))
        values, items = users.new_empty(len(users), 0), torch.empty(len(users), 0, dtype=torch.long)
        for ids, rows in self._blocks(candidates):
            scores = users @ rows.T
            places = torch.searchsorted(ids, seen).clamp_(max=len(ids) - 1)
            row, column = (ids[places] == seen).nonzero(as_tuple=True)
            scores[row.to(self.device), places[row, column].to(self.device)] = -torch.inf
            best, places = scores.topk(min(k, len(ids)), dim=1)
            values, items = torch.cat([values, best], 1), torch.cat([items, ids[places.cpu()]], 1)
            values, order = values.topk(min(k, values.shape[1]), dim=1)
            items = items.gather(1, order.cpu())
        return items.masked_fill(values.isneginf().cpu(), 0).numpy(), values.cpu().numpy()


class IndexRuntime(BlockRuntime):
    """Top items of the whole catalogue from an approximate index; everything else is exact.

    The items that the index finds get their exact scores. The index is asked for as many more items
    as are excluded. Where fewer than k are left, and among given candidates, blocks are ranked.

    Parameters
    ----------
    model, dtype
        See :class:`BlockRuntime`.
    path : Path
        File of the index; it is made if need be.

    Raises
    ------
    CheckpointError
        The file is damaged, or of another model.
    """

    name = "ann"

    def __init__(self, model: torch.nn.Module, path: Path, dtype: str = "float32"):
        super().__init__(model, dtype)
        self.index = item_index.open_index(
            path,
            tuple(self.head.shape),
            lambda: (rows.cpu().numpy() for _, rows in self._blocks(None)),
        )

    def _rank(self, histories, k, exclude, candidates) -> Ranked:
        if candidates is not None:
            return super()._rank(histories, k, exclude, candidates)
        users, k = self.users(histories), min(k, self.n_items - 1)
        seen = ranking.pad([[]] * len(users) if exclude is None else exclude)
        wanted = min(k + seen.shape[1], self.n_items - 1)
        found = item_index.search(self.index, users.cpu().numpy(), wanted) + 1  # 0: none
        found[(found[:, :, None] == seen[:, None, :]).any(2)] = 0
        rows = self.head[torch.from_numpy(np.maximum(found - 1, 0)).to(self.device)].float()
        scores = (rows @ users[:, :, None]).squeeze(2).cpu().numpy()  # [B, wanted]
        scores[found == 0] = -np.inf
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        items, values = (np.take_along_axis(part, order, 1) for part in (found, scores))
        short = np.flatnonzero((items == 0).any(1))
        if len(short):
            own = None if exclude is None else [exclude[row] for row in short]
            items[short], values[short] = super()._rank(
                [histories[row] for row in short], k, own, None
            )
        return items, values
