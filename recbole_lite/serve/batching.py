"""Dynamic batching: requests that arrive while the model is busy are scored together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from recbole_lite.inference.recommender import Recommender

Ranked = tuple[list[int], list[float]]
Result = TypeVar("Result")


class OverloadedError(Exception):
    """More requests are waiting than the service accepts."""


@dataclass(frozen=True)
class RankRequest:
    """One request, in internal ids."""

    history: Sequence[int]
    k: int
    exclude_seen: bool
    candidates: np.ndarray | None  # [C]; None: all items
    exclude: Sequence[int] = ()  # further items that are not recommended


class Batcher:
    """One worker that scores all waiting requests in one pass of the model.

    A request that arrives while the worker is idle starts at once and does not wait for others.
    Under load a batch consists of the requests that arrived during the previous batch, up to
    `max_batch`.

    Parameters
    ----------
    recommender : Recommender
    max_batch : int
        Histories scored together.
    max_waiting : int
        Limit of waiting requests; further ones are refused.
    on_batch : callable
        Gets the size of each batch.
    """

    def __init__(
        self,
        recommender: Recommender,
        max_batch: int,
        max_waiting: int,
        on_batch: Callable[[int], None] = lambda size: None,
    ):
        self.recommender, self.max_batch, self.max_waiting = recommender, max_batch, max_waiting
        self._on_batch = on_batch
        self._executor = _executor()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queue: asyncio.Queue
        self._others = 0  # calls of `run` that have not ended
        self.batches = 0

    async def __call__(self, request: RankRequest) -> Ranked:
        """Best items and their scores.

        Raises
        ------
        OverloadedError
            Too many requests are waiting.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._queue = loop, asyncio.Queue()
            self._worker = loop.create_task(self._work())
        if self.waiting >= self.max_waiting:
            raise OverloadedError
        answer = loop.create_future()
        self._queue.put_nowait((request, answer))
        return await answer

    @property
    def waiting(self) -> int:
        """Number of requests that are not in a batch yet, or in :meth:`run`."""
        return self._others + (self._queue.qsize() if self._loop else 0)

    async def run(self, work: Callable[[], Result]) -> Result:
        """Call a function in the thread of the model, between two batches.

        Raises
        ------
        OverloadedError
            Too many requests are waiting.
        """
        if self.waiting >= self.max_waiting:
            raise OverloadedError
        self._others += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        finally:
            self._others -= 1

    def close(self) -> None:
        """Stop the worker and cancel the waiting requests."""
        if self._loop:
            self._worker.cancel()
            while not self._queue.empty():
                self._queue.get_nowait()[1].cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._executor = _executor()  # an application may be started again

    async def _work(self) -> None:
        while True:
            batch = [await self._queue.get()]
            while len(batch) < self.max_batch and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            batch = [pair for pair in batch if not pair[1].done()]  # of disconnected clients
            if batch:
                await self._serve(batch)

    async def _serve(self, batch) -> None:
        requests = [request for request, _ in batch]
        try:
            loop = asyncio.get_running_loop()
            ranked: list = await loop.run_in_executor(self._executor, self._answer, requests)
        except Exception as error:  # each request reports it, the worker goes on
            ranked = [error] * len(batch)
        for (_, answer), found in zip(batch, ranked, strict=True):
            if answer.done():
                continue
            if isinstance(found, Exception):
                answer.set_exception(found)
            else:
                answer.set_result(found)

    def _answer(self, requests: list[RankRequest]) -> list[Ranked]:
        self.batches += 1
        self._on_batch(len(requests))
        rank = self.recommender.rank
        if self.recommender.searches:  # the width of the search depends on k
            return [
                next(rank([one.history], one.k, one.exclude_seen, one.candidates, [one.exclude]))
                for one in requests
            ]
        histories = [one.history for one in requests]
        exclude = [[*(one.history if one.exclude_seen else []), *one.exclude] for one in requests]
        among = [one.candidates for one in requests]
        chosen = None if all(one is None for one in among) else among
        ranked = rank(histories, max(one.k for one in requests), False, chosen, exclude)
        return [
            (items[: one.k], scores[: one.k])
            for (items, scores), one in zip(ranked, requests, strict=True)
        ]


def _executor() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="model")
