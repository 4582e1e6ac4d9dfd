"""RecBole's loop over the batches of an epoch, in which the host does not wait for the device."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from recbole.trainer import Trainer
from recbole.utils import get_gpu_usage, set_color
from torch.nn.utils.clip_grad import clip_grad_norm_
from tqdm import tqdm

from recbole_lite.data.device_transfer import batch_to_device
from recbole_lite.model.layers.sharded_embedding import sharded_tables
from recbole_lite.trainer.item_shards import clip_gradients
from recbole_lite.trainer.matmul_backend import mixed_precision

# Losses that stay on a GPU until they are checked together. RecBole reads each one, twice, and the
# GPU is idle until the host has prepared the next step.
LOSSES_PER_CHECK = 64


class TrainingLoop(Trainer):
    """RecBole's ``Trainer`` with another epoch loop; RecBole's subclasses precede it in the MRO."""

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        """Train for an epoch.

        Parameters
        ----------
        train_data : DataLoader
        epoch_idx : int
        loss_func : callable, optional
            Interaction -> loss, or a tuple of such; default: the model's.
        show_progress : bool

        Returns
        -------
        float or tuple of float
            Sum over the batches.
        """
        self.model.train()
        loss_func = loss_func or self.model.calculate_loss
        losses = _EpochLoss(self.device, self._refuse_loss)
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.enable_scaler)
        targets_per_batch = getattr(train_data, "targets_per_batch", None)
        accumulated = _Accumulated(self.config["accumulate_steps"], targets_per_batch)
        batches = train_data
        if show_progress:
            title = set_color(f"Train {epoch_idx:>5}", "pink")
            batches = tqdm(train_data, total=len(train_data), ncols=100, desc=title)
        for batch in batches:
            batch = batch_to_device(batch, self.device)
            if not accumulated.losses:
                self.optimizer.zero_grad()
            of_all_parameters = 0
            if not self.config["single_spec"]:
                self.set_reduce_hook()
                of_all_parameters = self.sync_grad_loss()
            with mixed_precision(self.device, self.enable_amp):
                loss = loss_func(batch)
            if accumulated.weighs:
                loss = accumulated.weight(loss, self.count_targets(batch))
            accumulated.losses.append(loss)
            total = sum(loss) if isinstance(loss, tuple) else loss
            scaler.scale(total + of_all_parameters).backward()
            if len(accumulated.losses) == accumulated.steps:
                self._step(accumulated, losses, scaler)
            if self.gpu_available and show_progress:
                memory = "GPU RAM: " + get_gpu_usage(self.device)
                batches.set_postfix_str(set_color(memory, "yellow"))
        if accumulated.losses:  # fewer batches than a step has
            self._step(accumulated, losses, scaler)
        return losses.total()

    def count_targets(self, batch) -> int | torch.Tensor:
        """Number of targets that the loss of a batch is the mean over."""
        return getattr(self.model, "loss_terms", len)(batch)

    def _step(self, accumulated: _Accumulated, losses: _EpochLoss, scaler) -> None:
        """Take a step of the optimiser with the gradients of the last batches."""
        losses.add(accumulated.take(self.model.parameters()))
        if self.clip_grad_norm:
            scaler.unscale_(self.optimizer)
            if sharded_tables(self.model):
                clip_gradients(self.model, **self.clip_grad_norm)
            else:
                clip_grad_norm_(self.model.parameters(), **self.clip_grad_norm)
        scaler.step(self.optimizer)
        scaler.update()

    def set_reduce_hook(self):
        """RecBole's, with a tensor that is made where it is needed."""
        forward = self.model.forward
        self.model.forward = lambda x: x
        self.distributed_model(torch.zeros(1, dtype=torch.int64, device=self.device))
        self.model.forward = forward

    def sync_grad_loss(self):
        """RecBole's, without the tables whose rows are divided among the processes."""
        tables = sharded_tables(self.model)
        return sum(p.sum() * 0 for n, p in self.model.named_parameters() if n not in tables)

    def _refuse_loss(self, value: float, steps_ago: int):
        """Raise over a loss that is not finite."""
        raise NotImplementedError


class _Accumulated:
    """Losses of the batches whose gradients make one step of the optimiser.

    Parameters
    ----------
    steps : int
        Batches of a step (``accumulate_steps``).
    targets_per_batch : float, optional
        Mean of a pass, where the batches' numbers of targets differ: each target is to have the
        same weight in a pass. None: the mean over the targets of the step.

    Attributes
    ----------
    losses : list
        Of the batches so far; with `weighs` relative to the number of targets of the first.
    """

    def __init__(self, steps: int, targets_per_batch: float | None):
        self.steps, self.targets_per_batch = steps, targets_per_batch
        self.weighs = steps > 1 or targets_per_batch is not None
        self.losses: list = []
        self._targets: list = []

    def weight(self, loss, targets):
        """Weight a mean by its number of targets; :meth:`take` divides by that of the step."""
        self._targets.append(targets)
        factor = targets / self._targets[0]
        return tuple(part * factor for part in loss) if isinstance(loss, tuple) else loss * factor

    def take(self, parameters):
        """Loss of the step, whose gradients it scales; the next step begins."""
        losses, self.losses = self.losses, []
        if not self.weighs:
            return losses[0]
        targets, self._targets = self._targets, []
        mean = self.targets_per_batch
        factor = targets[0] / (sum(targets) if mean is None else mean * len(targets))
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
        if isinstance(losses[0], tuple):
            return tuple(sum(parts) * factor for parts in zip(*losses, strict=True))
        return sum(losses) * factor


class _EpochLoss:
    """Sum of the losses of an epoch; checks that they are finite.

    Parameters
    ----------
    device : torch.device
        On a CPU each loss is checked before its step.
    refuse : callable
        ``(value, steps_ago)``; raises.
    """

    def __init__(self, device: torch.device, refuse: Callable[[float, int], None]):
        self._per_check = 1 if device.type == "cpu" else LOSSES_PER_CHECK
        self._refuse = refuse
        self._pending: list[torch.Tensor] = []  # [parts] each
        self._sum: list[float] | None = None
        self._is_tuple = False

    def add(self, loss) -> None:
        self._is_tuple = isinstance(loss, tuple)
        parts = loss if self._is_tuple else (loss,)
        self._pending.append(torch.stack([part.detach().reshape(()) for part in parts]))
        if len(self._pending) == self._per_check:
            self._check()

    def _check(self) -> None:
        values, self._pending = torch.stack(self._pending).tolist(), []
        for steps_ago, parts in zip(range(len(values) - 1, -1, -1), values, strict=True):
            if not math.isfinite(sum(parts)):
                self._refuse(sum(parts), steps_ago)
            self._sum = [a + b for a, b in zip(self._sum or [0.0] * len(parts), parts, strict=True)]

    def total(self):
        if self._pending:
            self._check()
        if self._sum is None:
            return None
        return tuple(self._sum) if self._is_tuple else self._sum[0]
