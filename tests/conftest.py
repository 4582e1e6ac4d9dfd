"""Tiny language models, a small data set in atomic files, a folder of its own for each test."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path

import pytest
import torch
from tiny_data import QUICK, write_tiny
from tiny_llms import BUILDERS

from recbole_lite import LiteConfig, run

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that would ask the hub fails at once


@pytest.fixture(autouse=True)
def workdir(tmp_path, monkeypatch):
    """Run in a folder of one's own: RecBole writes log/, saved/ and log_tensorboard/."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(autouse=True)
def _threads():
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


@pytest.fixture(scope="session", autouse=True)
def _no_flush():
    """No test loses power, and a run flushes forty times, a third of its time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


SLOWEST = (
    "test_device.py",
    "test_ray_launch.py",
    "test_integration.py",
    "test_sweep.py",
    "test_shell_blocks.py",
)


def pytest_collection_modifyitems(items):
    """Begin with the slowest files, so that no process of two is left alone with them."""
    items.sort(key=lambda item: item.path.name not in SLOWEST)


def pytest_collection_finish():
    """RecBole's SINE turns autograd's anomaly mode on when a test file imports RecBole's models."""
    torch.autograd.set_detect_anomaly(False)
    gc.freeze()  # a collection need not go through all imported modules


@pytest.fixture(scope="session")
def llm_folders(tmp_path_factory):
    """Kind -> folder with config, tokenizer and weights (never changed by a test)."""
    root = tmp_path_factory.mktemp("llms")
    folders = {}
    for kind, build in BUILDERS.items():
        torch.manual_seed(7)
        model, tokenizer = build()
        with torch.no_grad():  # larger than the usual 0.02, so that vectors differ clearly
            for name, parameter in model.named_parameters():
                if "norm" not in name.lower() and "ln_" not in name:
                    parameter.normal_(std=0.3)
        folders[kind] = root / kind
        model.save_pretrained(folders[kind])
        tokenizer.save_pretrained(folders[kind])
    return folders


@pytest.fixture
def llm_copy(llm_folders, tmp_path):
    """Copy a model's folder, to be changed by the test."""

    def copy(kind: str):
        return shutil.copytree(llm_folders[kind], tmp_path / f"{kind}-copy")

    return copy


@pytest.fixture
def data_path(tmp_path):
    """Folder that holds the data set ``tiny``."""
    write_tiny(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def quick(data_path, llm_folders):
    """Settings of a run that takes a second: ``quick(key=value, ...)``."""

    def settings(**changes):
        paths = {"data_path": str(data_path), "item_llm": str(llm_folders["bert"])}
        return {**QUICK, **paths, **changes}

    return settings


@pytest.fixture(scope="session")
def trained(tmp_path_factory, llm_folders):
    """Folder of a finished run, trained once a session: ``trained("SASRec", key=value, ...)``.

    A test that changes it copies it first.
    """
    root = tmp_path_factory.mktemp("trained")
    write_tiny(root / "data")
    paths = {"data_path": str(root / "data"), "checkpoint_dir": str(root / "saved")}
    paths |= {"item_llm": str(llm_folders["bert"]), "item_embedding_cache_dir": str(root / "cache")}
    done = {}

    def folder(model, **changes):
        key = repr((model, sorted(changes.items())))
        if key not in done:
            done[key] = run(model, "tiny", config_dict={**QUICK, **paths, **changes})
        return Path(done[key]["run_dir"])

    return folder


@pytest.fixture
def config_for(quick):
    """``config_for("SASRec", key=value, ...)`` -> LiteConfig on the data set ``tiny``."""

    def build(model, **changes):
        return LiteConfig(model, "tiny", config_dict=quick(**changes))

    return build
