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
        batches = train_data
        if show_progress:
            title = set_color(f"Train {epoch_idx:>5}", "pink")
            batches = tqdm(train_data, total=len(train_data), ncols=100, desc=title)
        for batch in batches:
            batch = batch_to_device(batch, self.device)
            self.optimizer.zero_grad()
            of_all_parameters = 0
            if not self.config["single_spec"]:
                self.set_reduce_hook()
                of_all_parameters = self.sync_grad_loss()
            with mixed_precision(self.device, self.enable_amp):
                loss = loss_func(batch)
            losses.add(loss)
            total = sum(loss) if isinstance(loss, tuple) else loss
            scaler.scale(total + of_all_parameters).backward()
            if self.clip_grad_norm:
                scaler.unscale_(self.optimizer)
                clip_grad_norm_(self.model.parameters(), **self.clip_grad_norm)
            scaler.step(self.optimizer)
            scaler.update()
            if self.gpu_available and show_progress:
                memory = "GPU RAM: " + get_gpu_usage(self.device)
                batches.set_postfix_str(set_color(memory, "yellow"))
        return losses.total()

    def set_reduce_hook(self):
        """RecBole's, with a tensor that is made where it is needed."""
        forward = self.model.forward
        self.model.forward = lambda x: x
        self.distributed_model(torch.zeros(1, dtype=torch.int64, device=self.device))
        self.model.forward = forward

    def _refuse_loss(self, value: float, steps_ago: int):
        """Raise over a loss that is not finite."""
        raise NotImplementedError


class _EpochLoss:
    """Sum of the losses of an epoch; checks that they are finite.

    Parameters
    ----------
    device : torch.device
        On a CPU each loss is checked before its gradients are computed.
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
