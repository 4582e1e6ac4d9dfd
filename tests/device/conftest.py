"""Runs on the pretend device, each compared with the same run on the CPU."""

from contextlib import contextmanager

import pretend_device
import pytest
import torch
from recbole_lite import LiteConfig, run
from recbole_lite.checkpoint import BEST_FILE, load_weights


@pytest.fixture(scope="session")
def device():
    """The pretend device, for the whole process: ``pytest -m device`` runs nothing else."""
    if pretend_device.MISSING:
        pytest.skip(pretend_device.MISSING)
    with pretend_device.pretend_device() as found:
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


# What draws random numbers while a model is trained draws others on a GPU: left out.
STILL = {
    "user_dropout": 0.0, "item_dropout": 0.0, "rec_llm_dropout": 0.0, "lm_dropout": 0.0,
    "llm_dropout": 0.0, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "dropout_prob": 0.0,
    "item_embedding_cache_dir": None,
}  # fmt: skip
