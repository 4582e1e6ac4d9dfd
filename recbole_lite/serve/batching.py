"""Requests that arrive while the model is at work are answered together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from recbole_lite.inference import ranking
from recbole_lite.inference.recommender import Recommender

Ranked = tuple[list[int], list[float]]


class OverloadedError(Exception):
    """More requests wait than the service takes."""


@dataclass(frozen=True)
class Question:
    """What one request asks for, in internal ids."""

    history: Sequence[int]
    k: int
    exclude_seen: bool
    among: np.ndarray | None


class Batcher:
    """One worker that scores all waiting requests in one pass of the model.

    A request that comes while nothing is at work starts at once: there is no waiting for others.
    Under load a batch is what came during the batch before, up to `max_batch`.

    Parameters
    ----------
    recommender : Recommender
    max_batch : int
        Histories scored together.
    max_waiting : int
        Requests that may wait; more are refused.
    """

    def __init__(self, recommender: Recommender, max_batch: int, max_waiting: int):
        self.recommender, self.max_batch, self.max_waiting = recommender, max_batch, max_waiting
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._loop: asyncio.AbstractEventLoop | None = None
        self.batches = 0

    async def __call__(self, question: Question) -> Ranked:
        """Best items and their scores.

        Raises
        ------
        OverloadedError
            Too many requests wait.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._queue = loop, asyncio.Queue()
            self._worker = loop.create_task(self._work())
        if self._queue.qsize() >= self.max_waiting:
            raise OverloadedError
        answer = loop.create_future()
        self._queue.put_nowait((question, answer))
        return await answer

    @property
    def waiting(self) -> int:
        """Number of requests that no batch has taken yet."""
        return self._queue.qsize() if self._loop else 0

    def close(self) -> None:
        """Stop the worker; who still waits is told by cancellation."""
        if self._loop:
            self._worker.cancel()
            while not self._queue.empty():
                self._queue.get_nowait()[1].cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        while True:
            batch = [await self._queue.get()]
            while len(batch) < self.max_batch and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            batch = [pair for pair in batch if not pair[1].done()]  # clients that went away
            if batch:
                await self._serve(batch)

    async def _serve(self, batch) -> None:
        questions = [question for question, _ in batch]
        try:
            ranked = await self._loop.run_in_executor(self._executor, self._answer, questions)
        except Exception as error:  # the worker must outlive it; each request reports it
            ranked = [error] * len(batch)
        for (_, answer), found in zip(batch, ranked, strict=True):
            if answer.done():
                continue
            if isinstance(found, Exception):
                answer.set_exception(found)
            else:
                answer.set_result(found)

    def _answer(self, questions: list[Question]) -> list[Ranked]:
        self.batches += 1
        histories = [question.history for question in questions]
        if any(question.among is not None for question in questions):
            scores = self.recommender.score(histories)
            return [_best(row, question) for row, question in zip(scores, questions, strict=True)]
        most = max(question.k for question in questions)
        exclude = [question.history if question.exclude_seen else [] for question in questions]
        ranked = zip(*self.recommender.runtime.rank(histories, most, exclude), strict=True)
        return [_left(*row, question.k) for row, question in zip(ranked, questions, strict=True)]


def _best(scores: np.ndarray, question: Question) -> Ranked:
    seen = [question.history] if question.exclude_seen else None
    ids, values = ranking.top(scores[None], question.k, seen, question.among)
    return _left(ids[0], values[0], question.k)


def _left(ids: np.ndarray, scores: np.ndarray, k: int) -> Ranked:
    """The first k, without places that no item is left for."""
    n = int((ids[:k] != 0).sum())
    return ids[:n].tolist(), scores[:n].tolist()
