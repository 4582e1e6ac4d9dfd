"""Internal item ids as callers give them -> tensors; what cannot be used is named."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from recbole_lite.errors import RequestError

# Rows of ids; a tensor [B, L] has 0 behind the ids of shorter rows.
Ids = Sequence[Sequence[int]] | torch.Tensor


def read_histories(
    histories: Ids, n_items: int, max_length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Read the end of each history.

    Parameters
    ----------
    histories : sequence of sequences of int, or torch.Tensor
        Oldest item first.
    n_items : int
        Ids go from 1 to ``n_items - 1``.
    max_length : int
        Items to read of a history: the last ones.

    Returns
    -------
    (torch.Tensor, torch.Tensor)
        Ids ``[B, L]``, 0 behind, L the longest that is needed; lengths ``[B]``.

    Raises
    ------
    RequestError
        No history, an empty one, or an id outside the catalogue.
    """
    row = _only_row(histories, n_items, max_length)
    if row is not None:
        return torch.tensor([row]), torch.tensor([len(row)])
    items, counts = _as_rows(histories, max_length)
    if not len(items):
        raise RequestError("there is no history to recommend for")
    if int(counts.min()) < 1:
        raise RequestError(f"history {int(counts.argmin()) + 1} is empty: give at least one item")
    _check(items, n_items, "history")
    holes = (items != 0).sum(1) != counts
    if bool(holes.any()):
        row = int(holes.nonzero()[0]) + 1
        raise RequestError(f"history {row}: 0 is padding and may only stand behind the items")
    longest = int(counts.max())
    if longest <= max_length:
        return items[:, :longest], counts
    first = (counts - max_length).clamp_min(0)
    places = first[:, None] + torch.arange(max_length, device=items.device)
    kept = items.gather(1, places.clamp_max(items.shape[1] - 1))
    return kept * (places < counts[:, None]), counts.clamp_max(max_length)


def read_seen(seen: Ids, n_items: int, users: int) -> torch.Tensor:
    """Ids that each user shall not get, ``[B, S]``, 0 for none.

    Raises
    ------
    RequestError
        Another number of rows than `users`, or an id outside the catalogue.
    """
    items = _tensor(seen) if isinstance(seen, torch.Tensor) else _as_rows(seen)[0]
    if len(items) != users:
        raise RequestError(f"seen has {len(items)} rows for {users} histories")
    _check(items, n_items, "seen")
    return items


def read_candidates(candidates: Sequence[int] | torch.Tensor, n_items: int) -> torch.Tensor:
    """Ids without repeats, ``[C]``, ascending.

    Raises
    ------
    RequestError
        None, or an id outside the catalogue.
    """
    chosen = torch.as_tensor(candidates, dtype=torch.long).unique()
    if not len(chosen):
        raise RequestError("candidates: give at least one item")
    if int(chosen[0]) == 0:
        raise RequestError("candidates: 0 is padding, ids begin with 1")
    _check(chosen[None], n_items, "candidates")
    return chosen


def _check(items: torch.Tensor, n_items: int, name: str) -> None:
    if not items.numel():
        return
    for found in map(int, items.aminmax()):
        if not 0 <= found < n_items:
            row = int((items == found).any(1).nonzero()[0]) + 1
            where = name if name == "candidates" else f"{name} {row}"
            raise RequestError(
                f"{where}: there is no item {found}; internal ids go from 1 to {n_items - 1}"
            )


def _only_row(histories: Ids, n_items: int, max_length: int) -> list[int] | None:
    """The only history, where it is as it should be: a list takes less time than tensors do."""
    if len(histories) != 1:
        return None
    row = histories[0]
    if isinstance(histories, torch.Tensor):
        if histories.dim() != 2 or histories.is_floating_point():
            return None
        row = row.tolist()
        while row and row[-1] == 0:
            row.pop()
    row = list(row)[-max_length:]
    usual = row and all(type(item) is int and 0 < item < n_items for item in row)
    return row if usual else None


def _as_rows(ids: Ids, most: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids ``[B, L]`` with 0 behind, and the number in each row; of lists the last `most`."""
    if isinstance(ids, torch.Tensor):
        ids = _tensor(ids)
        places = torch.arange(1, ids.shape[1] + 1, device=ids.device)
        return ids, ((ids != 0) * places).amax(1) if ids.shape[1] else ids.sum(1)
    rows = [list(row) if most is None else list(row)[-most:] for row in ids]
    counts = [len(row) for row in rows]
    longest = max(counts, default=0)
    filled = [row + [0] * (longest - len(row)) for row in rows]
    try:
        items = torch.tensor(filled, dtype=torch.long)
    except (TypeError, ValueError) as error:
        raise RequestError(f"internal ids are whole numbers ({error})") from None
    return items.view(len(rows), longest), torch.tensor(counts)


def _tensor(ids: torch.Tensor) -> torch.Tensor:
    if ids.dim() != 2 or ids.is_floating_point():
        raise RequestError(
            f"ids must be whole numbers [B, L], found {ids.dtype}, shape {list(ids.shape)}"
        )
    return ids.long()
