"""Scores and top items of a model in torch: the reference, for any model and device."""

from __future__ import annotations

import threading
from logging import getLogger
from typing import Any

import numpy as np
import torch

from recbole_lite.data.device_transfer import tensor_to_device
from recbole_lite.data.windows import CANDIDATES
from recbole_lite.inference import ranking
from recbole_lite.inference.ranking import Histories, Ranked
from recbole_lite.utils.errors import one_line

# Histories for which the kernels of an encoder take less time than Python takes to launch them.
GRAPH_ROWS = 64


class TorchRuntime:
    """A model's ``full_sort_predict`` with the interface of `OnnxRuntime`.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode.
    graphs : bool
        On CUDA, score up to `GRAPH_ROWS` histories by a CUDA graph (LiteLLM4Rec and ItemLM).
    """

    name = "torch"

    def __init__(self, model: torch.nn.Module, graphs: bool = True):
        self.model = model
        self.graphs: dict[int, _Graph] = {}  # number of histories -> graph
        self._rows_by_graph = 0
        if graphs and self.device.type == "cuda" and hasattr(model, "reader"):
            self._rows_by_graph = GRAPH_ROWS
        self._lock = threading.Lock()  # the calls of a graph share its memory
        self.n_items, self.max_length = int(model.n_items), int(model.max_seq_length)
        # RecBole's models need rows of full length; ours ignore padding.
        self.full_length = not hasattr(model, "reader")

    def scores(self, histories: Histories) -> np.ndarray:
        """See :meth:`OnnxRuntime.scores`."""
        with self._lock:
            return self.score(histories).cpu().numpy()

    @torch.no_grad()
    def score(self, histories: Histories, **search) -> torch.Tensor:
        """:meth:`scores` on the model's device; the next call may overwrite them.

        `search` is what :meth:`_search_inputs` gives.
        """
        if not len(histories):
            return torch.empty(0, self.n_items)
        items = torch.from_numpy(ranking.pad(histories, max_length=self.max_length))
        graph = self._graph_of(len(items))
        if self.full_length or graph:
            items = torch.nn.functional.pad(items, (0, self.max_length - items.shape[1]))
        if graph:
            scores = graph.scores_of(items)
        else:
            scores = _all_scores(self.model, tensor_to_device(items, self.device), **search)
        scores = scores.view(len(items), self.n_items)
        scores[:, 0] = -torch.inf
        return scores

    @torch.no_grad()
    def rank(
        self,
        histories: Histories,
        k: int,
        exclude: Histories | None = None,
        candidates: np.ndarray | None = None,
    ) -> Ranked:
        """See :meth:`OnnxRuntime.rank`."""
        with self._lock:
            return self._rank(histories, k, exclude, candidates)

    def _search_inputs(self, n_users, k, exclude, candidates) -> dict[str, Any]:
        """What a beam search has to find: `k` of the candidates that are not excluded."""
        inputs: dict[str, Any] = {"num_beams": max(k, self.model.num_beams)}
        seen = ranking.pad([] if exclude is None else exclude)
        if seen.size:
            inputs["seen"] = tensor_to_device(torch.from_numpy(seen), self.device)
        if candidates is not None:
            ids = tensor_to_device(torch.from_numpy(candidates), self.device)
            inputs["fields"] = {CANDIDATES: ids.expand(n_users, -1)}
        return inputs

    def _rank(self, histories, k, exclude, candidates) -> Ranked:
        search = {}
        if getattr(self.model, "has_decoder", False):
            search = self._search_inputs(len(histories), k, exclude, candidates)
        scores = self.score(histories, **search)
        if exclude is not None:
            seen = tensor_to_device(torch.from_numpy(ranking.pad(exclude)), self.device)
            scores.scatter_(1, seen, -torch.inf)  # padding has -inf already
        if candidates is not None:
            candidates = torch.from_numpy(candidates).to(self.device)
            scores = scores[:, candidates]
        values, places = scores.topk(min(k, scores.shape[1] - (candidates is None)), dim=1)
        items = places if candidates is None else candidates[places]
        items = items.masked_fill(values.isneginf(), 0)
        return items.cpu().numpy(), values.cpu().numpy()

    def _graph_of(self, count: int) -> _Graph | None:
        """Graph for at least so many histories; None: they are scored by single launches."""
        rows = 1 << (count - 1).bit_length()
        if count <= self._rows_by_graph and rows not in self.graphs:
            try:
                self.graphs[rows] = _Graph(self.model, rows)
            except RuntimeError as error:  # an architecture that asks the GPU back
                getLogger().warning(f"no CUDA graph of this model: {one_line(error)}")
                self._rows_by_graph = 0
        return self.graphs.get(rows) if count <= self._rows_by_graph else None

    def warm_up(self, users: int = 32) -> None:
        """Answer batches of several sizes, so that no request waits for kernels or graphs."""
        sizes = {users, *(1 << n for n in range(min(users, self._rows_by_graph).bit_length()))}
        for count in sorted(sizes):
            self.rank([[1] * self.max_length] * count, 1)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.model.parameters()).device


class _Graph:
    """Scores of a fixed number of full-length histories, recorded once and launched as a whole.

    An encoder has some hundred kernels of a few microseconds; launched one by one from Python they
    take several times as long.
    """

    def __init__(self, model: torch.nn.Module, rows: int):
        device = next(model.parameters()).device
        self.items = torch.ones(rows, model.max_seq_length, dtype=torch.long, device=device)
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):  # libraries set themselves up outside the recording
            for _ in range(3):
                _all_scores(model, self.items)
        torch.cuda.current_stream(device).wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.scores = _all_scores(model, self.items)

    def scores_of(self, items: torch.Tensor) -> torch.Tensor:
        """Scores of ``[B, max_length]`` ids on the CPU; the next call overwrites them."""
        self.items[: len(items)].copy_(items.pin_memory(), non_blocking=True)
        self.graph.replay()
        return self.scores[: len(items)]


def _all_scores(model: torch.nn.Module, items: torch.Tensor, fields=(), **search) -> torch.Tensor:
    lengths = (items != 0).sum(1)
    batch = {model.ITEM_SEQ: items, model.ITEM_SEQ_LEN: lengths, **dict(fields)}
    return model.full_sort_predict(batch, **search).float()
