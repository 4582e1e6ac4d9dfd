"""The device for whole runs, and what their training steps wait for.

It is the pretend one, or with RECBOLE_LITE_TEST_DEVICE=cuda a real one.
"""

import warnings
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from device_cases import REAL
from pretend_device import MISSING, pretend_device, synchronisations
from torch.optim.optimizer import register_optimizer_step_post_hook

from recbole_lite import LiteConfig
from recbole_lite.trainer.training_loop import TrainingLoop


@pytest.fixture(scope="session")
def device():
    """The device, for the whole process: ``pytest -m device`` runs nothing else."""
    if REAL:
        yield torch.device(REAL, 0)
        return
    if MISSING:
        pytest.skip(MISSING)
    with pretend_device() as found:
        yield found


@pytest.fixture(autouse=True)
def _cpu_otherwise(monkeypatch):
    """Where there is a GPU, runs outside of ``on_device`` are the CPU's all the same."""
    init_device = LiteConfig._init_device

    def choose(self):
        init_device(self)
        self.final_config_dict["device"] = torch.device("cpu")

    monkeypatch.setattr(LiteConfig, "_init_device", choose)


@contextmanager
def real_synchronisations():
    """As :func:`synchronisations`, by CUDA's own word; the place is where Python was."""
    counter = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")

        def count(message, category, filename, line, *_):
            if "synchroniz" in str(message):
                counter[f"wait at {'/'.join(Path(filename).parts[-2:])}:{line}"] += 1

        warnings.showwarning = count  # restored with the filters
        try:
            yield counter
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def on_device(device):
    """``with on_device():`` lets configurations choose the pretend device."""

    @contextmanager
    def chosen():
        init_device = LiteConfig._init_device

        def choose(self):
            init_device(self)
            self.final_config_dict["device"] = device

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LiteConfig, "_init_device", choose)
            yield device

    return chosen


@pytest.fixture
def waits(monkeypatch):
    """What the host waits for in a training step, ``"item at model/x.py"`` -> times a step."""
    found = Counter()
    epoch_of = TrainingLoop._train_epoch

    def watched(self, *arguments, **others):
        seen = []
        with real_synchronisations() if REAL == "cuda" else synchronisations() as counter:
            hook = register_optimizer_step_post_hook(lambda *_: seen.append(Counter(counter)))
            try:
                losses = epoch_of(self, *arguments, **others)
            finally:
                hook.remove()
        assert len(seen) > 1, "the epoch has too few steps to count between them"
        for place, times in (seen[-1] - seen[0]).items():
            found[place.rsplit(":", 1)[0]] = times / (len(seen) - 1)
        return losses

    monkeypatch.setattr(TrainingLoop, "_train_epoch", watched)
    return found
