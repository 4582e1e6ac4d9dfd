"""Exponential moving average of the trained weights (``ema_decay``)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import get_ema_multi_avg_fn

from recbole_lite.utils.errors import ConfigError


class WeightAverage:
    """Average of a model's trainable weights over the steps of an optimiser.

    After step n the weights w count as ``average = decay * average + (1 - decay) * w``. Of the
    first steps the decay is (1 + n) / (10 + n), where that is less: the weights at the start have
    no part in the average of a short training.

    Parameters
    ----------
    model : torch.nn.Module
    optimizer : torch.optim.Optimizer
        Each of its steps counts.
    decay : float

    Raises
    ------
    ConfigError
        The model has batch norms, whose statistics are those of other weights.
    """

    def __init__(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, decay: float):
        if any(isinstance(module, _BatchNorm) for module in model.modules()):
            raise ConfigError(
                f"ema_decay: {type(model).__name__} has batch norms, whose statistics would not be "
                "those of the averaged weights; leave ema_decay at ~"
            )
        self._weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._averages = {name: p.detach().clone() for name, p in self._weights.items()}
        self._decay, self._steps = decay, 0
        self._hook = optimizer.register_step_post_hook(lambda *_: self._update())

    def _update(self) -> None:
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        weights = [weight.detach() for weight in self._weights.values()]
        get_ema_multi_avg_fn(decay)(list(self._averages.values()), weights, None)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model have the averaged weights within the block."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for name, weight in self._weights.items():
            weight.data, self._averages[name] = self._averages[name], weight.data

    def finish(self) -> None:
        """Let the model keep the averaged weights; later steps are not counted."""
        self._hook.remove()
        self._exchange()

    def state(self) -> dict[str, Any]:
        """What :meth:`restore` takes: steps so far, and the averages on the CPU."""
        return {"steps": self._steps, "averages": {n: a.cpu() for n, a in self._averages.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a :meth:`state`."""
        self._steps = state["steps"]
        for name, average in self._averages.items():
            average.copy_(state["averages"][name])
