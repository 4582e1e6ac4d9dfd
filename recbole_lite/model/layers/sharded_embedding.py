"""An item table whose rows are divided among the processes of a training (``shard_items``)."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from recbole_lite.model.layers.half_table import look_up
from recbole_lite.model.layers.history_mask import HistoryMask
from recbole_lite.utils import process_group
from recbole_lite.utils.best_scores import top_k
from recbole_lite.utils.errors import CheckpointError, ConfigError

_BLOCK = 2**22  # numbers of a table that are sent or drawn at a time


class ShardedEmbedding(nn.Module):
    """``nn.Embedding`` over ids of which each process has the rows ``[lo, hi)``.

    All processes make the same calls in the same order; they exchange rows in each of them.

    Gradients follow DistributedDataParallel: each process computes those of its own loss, and the
    mean over the processes counts. Rows get the gradients of all processes, divided by their
    number, and are none of DistributedDataParallel's business.

    Parameters
    ----------
    config : LiteConfig
        Keys ``initializer_range``, ``sparse_item_updates``, ``item_dtype``, ``device``.
    num_embeddings, embedding_dim : int
        Of the whole table.

    Raises
    ------
    ConfigError
        There are too few rows.

    Attributes
    ----------
    rows : slice
        Rows of this process.
    has_rows : bool
        Whether this process has rows of the present batch. Without any it takes part with a row
        that does not count.
    is_whole : bool
        Whether this process has the whole table for the time being (:meth:`whole`).
    """

    def __init__(self, config, num_embeddings: int, embedding_dim: int):
        super().__init__()
        rank, self._world = dist.get_rank(), dist.get_world_size()
        if num_embeddings < 2 * self._world:
            raise ConfigError(
                f"shard_items: {num_embeddings - 1} items are too few for {self._world} workers; "
                "set shard_items: False"
            )
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.sparse = bool(config["sparse_item_updates"])
        self._bounds = [number * num_embeddings // self._world for number in range(self._world + 1)]
        self.rows = slice(*self._bounds[rank : rank + 2])
        # Of its own: DistributedDataParallel's collectives come in between in any order.
        self._group = dist.new_group()
        state = process_group.broadcast(config, torch.get_rng_state())
        with torch.random.fork_rng(devices=[], enabled=rank > 0):
            torch.set_rng_state(state)
            own = initial_rows(config, (num_embeddings, embedding_dim), self.rows)
        self.weight = nn.Parameter(own)
        self.weight.register_hook(lambda grad: grad / self._world)
        self.has_rows, self.is_whole = True, False
        self.keep_best(0, None)

    # -- training ---------------------------------------------------------------------------

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Rows of items, ``[...]`` ids -> ``[..., d]``; each comes from its owner, once."""
        if self.is_whole:
            return look_up(items, self.weight)
        distinct, places = torch.unique(items, return_inverse=True)
        bounds = torch.tensor(self._bounds, device=items.device)
        asked = torch.searchsorted(distinct, bounds).diff()
        given = self._exchange(asked, [1] * self._world, [1] * self._world).tolist()
        asked = asked.tolist()
        wanted = self._exchange(distinct, asked, given) - self.rows.start
        own = look_up(wanted, self.weight, self.sparse)
        return F.embedding(places, _Exchange.apply(own, given, asked, self))

    def head(self) -> torch.Tensor:
        """Rows of this process without padding, ``[n, d]``."""
        return self.weight[1:] if self.rows.start == 0 else self.weight

    @property
    def first(self) -> int:
        """Number of items, without padding, before those of :meth:`head`."""
        return max(self.rows.start - 1, 0)

    @property
    def size(self) -> int:
        """Largest number of rows of a process."""
        return -(-self.num_embeddings // self._world)

    def join(
        self, users: torch.Tensor, targets: torch.Tensor, seen: HistoryMask | None
    ) -> tuple[torch.Tensor, torch.Tensor, HistoryMask | None, list[int]]:
        """Batch of all processes.

        Parameters
        ----------
        users, targets, seen
            Of this process, as ``cross_entropy`` takes them.

        Returns
        -------
        tuple
            The same of all processes, in their order, and the number of rows of each.
        """
        n = len(users) if self.has_rows else 0
        sizes = self._gather_numbers(n)
        targets = self._gather_rows(targets[:n], sizes)
        if seen is not None:
            parts = [None] * self._world
            dist.all_gather_object(parts, seen.part(n), group=self._group)
            seen = HistoryMask.joined(parts, targets + 1)
        return self._gather_rows(users[:n].float(), sizes), targets, seen, sizes

    def own_sum(self, values: torch.Tensor, sizes: list[int], n: int) -> torch.Tensor:
        """Sum over the processes of the rows of this one, filled with zeros to `n` rows.

        `values` are of the rows of :meth:`join`.
        """
        own, d = sizes[dist.get_rank()], values.shape[1]
        parts = self._exchange(values, sizes, [own] * self._world).view(self._world, own, d)
        return F.pad(parts.sum(0), (0, 0, 0, n - own))

    def all_reduce(self, values: torch.Tensor, op=dist.ReduceOp.SUM) -> torch.Tensor:
        """Reduce `values` over the processes, in place."""
        dist.all_reduce(values, op, group=self._group)
        return values

    # -- evaluation -------------------------------------------------------------------------

    def keep_best(self, n: int, history: tuple[torch.Tensor, torch.Tensor] | None) -> None:
        """Set what :meth:`best_scores` keeps of the next batch: `n` scores of each user.

        Parameters
        ----------
        n : int
        history : tuple of torch.Tensor or None
            Rows of the batch, ``[H]``, and the items that these have had, which are left out.
        """
        self._n_best = n
        self._history = torch.stack(history or (torch.empty(0, dtype=torch.long),) * 2, 1)

    def best_scores(
        self, users: torch.Tensor, score: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Best scores of each user, ``[B, n_items]``; -inf for all others. See :meth:`keep_best`.

        Each process scores its rows for the users of all processes and sends the best.

        Parameters
        ----------
        users : torch.Tensor
            ``[B, d]``.
        score : callable
            Users -> scores of the rows of :meth:`head`, ``[..., n]``.
        """
        sizes = self._gather_numbers(len(users))
        k = min(max(self._gather_numbers(self._n_best)), self.num_embeddings)
        scores = score(self._gather_rows(users, sizes))  # [users of all, n]
        n = scores.shape[1]
        scores[self._own_history(sizes, n)] = -torch.inf
        values, places = top_k(scores, min(k, n))
        missing = (0, k - values.shape[1])
        values = F.pad(values, missing, value=-torch.inf)
        items = F.pad(places + self.first + 1, missing)
        own = [len(users)] * self._world
        everything = users.new_full((len(users), self.num_embeddings), -torch.inf)
        values, items = (
            self._exchange(part, sizes, own).unflatten(0, (self._world, -1)).transpose(0, 1)
            for part in (values, items)
        )
        return everything.scatter_(1, items.flatten(1), values.flatten(1))

    def _own_history(self, sizes: list[int], n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of the batch of all processes, and which of these `n` items they have had."""
        own = self._history.to(self.weight.device)
        own = own + own.new_tensor([sum(sizes[: dist.get_rank()]), 0])
        rows, items = self._gather_rows(own, self._gather_numbers(len(own))).T
        items = items - self.first - 1
        mine = (items >= 0) & (items < n)
        return rows[mine], items[mine]

    # -- checkpoints ------------------------------------------------------------------------

    def own_rows(self, table: torch.Tensor) -> torch.Tensor:
        """Rows of this process of a whole table; others as they are."""
        return table[self.rows].clone() if len(table) == self.num_embeddings else table

    def own_state(self, optimizer: torch.optim.Optimizer, saved: dict) -> None:
        """Restrict the state of an optimiser of the whole table to these rows, in place."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        place = next(place for place, p in enumerate(parameters) if p is self.weight)
        state = saved["state"].get(place, {})
        state.update({name: self.own_rows(v) for name, v in state.items() if v.dim()})

    @contextmanager
    def whole(
        self, folder: Path | None, optimizer: torch.optim.Optimizer | None = None
    ) -> Iterator[None]:
        """Block in which the first process has the whole table, and the optimiser's state of it.

        They are in temporary files in `folder` (None: the system's) that are mapped into memory;
        rows come in blocks. In the block the first process uses the table alone.

        Raises
        ------
        CheckpointError
            The files cannot be written.
        """
        state = {} if optimizer is None else optimizer.state.get(self.weight, {})
        own = {name: v for name, v in state.items() if v.dim() and len(v) == len(self.weight)}
        rows, table = self.weight.data, self._whole(self.weight.data, folder)
        tables = {name: self._whole(values, folder) for name, values in own.items()}
        if table is not None:
            self.weight.data, self.is_whole = table, True
            state.update(tables)
        try:
            yield
        finally:
            self.weight.data, self.is_whole = rows, False
            state.update(own)

    def _whole(self, own: torch.Tensor, folder: Path | None) -> torch.Tensor | None:
        """Rows of all processes in the first one, mapped from a file; None in the others."""
        step = max(_BLOCK // own.shape[1:].numel(), 1)
        if dist.get_rank():
            for block in own.split(step):
                dist.send(block.contiguous(), 0, group=self._group)
            return None
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                for block in own.split(step):
                    file.write(_bytes(block))
                for owner in range(1, self._world):
                    n = self._bounds[owner + 1] - self._bounds[owner]
                    for begin in range(0, n, step):
                        block = own.new_empty(min(step, n - begin), *own.shape[1:])
                        dist.recv(block, owner, group=self._group)
                        file.write(_bytes(block))
                file.flush()
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except OSError as error:
            place = folder or tempfile.gettempdir()
            raise CheckpointError(
                f"{place}: the item table cannot be written: {error.strerror or error}. Earlier "
                "checkpoints are intact"
            ) from error
        return torch.frombuffer(mapped, dtype=own.dtype).view(-1, *own.shape[1:])

    # -- exchange ---------------------------------------------------------------------------

    def _exchange(self, rows, sent: list[int], received: list[int]) -> torch.Tensor:
        """Send so many rows to each process, and give those that each has sent to this one."""
        answer = rows.new_empty(sum(received), *rows.shape[1:])
        dist.all_to_all_single(answer, rows.contiguous(), received, sent, group=self._group)
        return answer

    def gather(self, value: torch.Tensor) -> torch.Tensor:
        """Values of the same shape of all processes, ``[n, ...]``."""
        parts = [torch.empty_like(value) for _ in range(self._world)]
        dist.all_gather(parts, value, group=self._group)
        return torch.stack(parts)

    def _gather_numbers(self, number: int) -> list[int]:
        return self.gather(torch.tensor(number, device=self.weight.device)).tolist()

    def _gather_rows(self, rows: torch.Tensor, sizes: list[int]) -> torch.Tensor:
        """Rows of all processes, of which each has `sizes`."""
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = zip(self.gather(padded), sizes, strict=True)
        return torch.cat([part[:size] for part, size in parts])


class _Exchange(torch.autograd.Function):
    """Exchange of rows; their gradients go back to where they came from."""

    @staticmethod
    def forward(ctx, rows, sent, received, table):
        ctx.back = table, received, sent
        own = rows.to(table.weight.dtype)  # the rows as they are kept: fewer bytes, the same values
        return table._exchange(own, sent, received).to(rows.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        table, *back = ctx.back
        return table._exchange(grad, *back), None, None, None


def _bytes(rows: torch.Tensor) -> np.ndarray:
    """The bytes of a tensor; NumPy has no bfloat16."""
    return rows.contiguous().cpu().view(torch.uint8).numpy()


def divides_items(config) -> bool:
    """Whether a model that is built now is one of several processes with ``shard_items``."""
    return bool(config["shard_items"]) and config["single_spec"] is False


def initial_rows(config, shape: tuple[int, int], rows: slice) -> torch.Tensor:
    """Some rows of a new item table of ``item_dtype``, ``[n, d]``: normal noise."""
    dtype = getattr(torch, config["item_dtype"])
    normal_rows(shape, 1.0, rows, dtype=dtype)  # nn.Embedding's own draw
    return normal_rows(shape, config["initializer_range"], rows, dtype=dtype)


def normal_rows(
    shape: tuple[int, int],
    std: float,
    rows: slice,
    block: int = _BLOCK,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Some rows of ``torch.empty(shape).normal_(std=std)``, drawn in blocks: ``[n, d]``."""
    n, d = shape
    step = -(-max(block // d, 1) // 16) * 16  # torch draws 16 numbers at a time, if there are 16
    begins = [*range(0, max(n - 15, 1), step), n]
    own = torch.empty(rows.stop - rows.start, d, dtype=dtype)
    for begin, end in pairwise(begins):
        drawn = torch.empty(end - begin, d).normal_(std=std)
        first, last = max(begin, rows.start), min(end, rows.stop)
        if first < last:
            own[first - rows.start : last - rows.start] = drawn[first - begin : last - begin]
    return own


def sharded_tables(model: nn.Module) -> dict[str, ShardedEmbedding]:
    """Sharded tables of a model by the names of their weights."""
    return {
        f"{place}.weight": module
        for place, module in model.named_modules()
        if isinstance(module, ShardedEmbedding)
    }


def own_rows(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of a checkpoint, of whole tables the rows of this process."""
    tables = sharded_tables(model)
    return {n: tables[n].own_rows(t) if n in tables else t for n, t in tensors.items()}
