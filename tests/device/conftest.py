"""The pretend device for whole runs, and what their training steps wait for."""

from collections import Counter
from contextlib import contextmanager

import pytest
from pretend_device import MISSING, pretend_device, synchronisations
from torch.optim.optimizer import register_optimizer_step_post_hook

from recbole_lite import LiteConfig
from recbole_lite.trainer.training_loop import TrainingLoop


@pytest.fixture(scope="session")
def device():
    """The pretend device, for the whole process: ``pytest -m device`` runs nothing else."""
    if MISSING:
        pytest.skip(MISSING)
    with pretend_device() as found:
        yield found


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
        with synchronisations() as counter:
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
