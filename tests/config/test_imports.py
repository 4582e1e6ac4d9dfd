"""Old import paths, and what importing them does not load."""

import subprocess
import sys

import pytest

import recbole_lite
from recbole_lite import config, trainer
from recbole_lite.trainer.trainer import LiteTrainer


def test_old_paths_lead_to_the_same_classes():
    assert config.LiteConfig is recbole_lite.LiteConfig
    assert trainer.LiteTrainer is LiteTrainer
    for module in (config, trainer):
        with pytest.raises(AttributeError, match="has no attribute 'absent'"):
            _ = module.absent


def test_reading_saved_settings_loads_neither_torch_nor_recbole():
    code = "import sys, recbole_lite.config.saved_config as s; s.with_current_names({'a': 1}); "
    code += "print(sorted({'torch', 'recbole', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
