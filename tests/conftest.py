"""Tiny language models, a small data set in atomic files, a folder of its own for each test."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
import torch
from tiny_llms import BUILDERS

from recbole_lite import LiteConfig, run

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that would ask the hub fails at once

WORDS = ["toy", "story", "golden", "eye", "four", "rooms", "get", "shorty", "copycat"]
GENRES = ["animation", "comedy", "action", "thriller"]
N_USERS, N_ITEMS = 30, 24

# Small and quick; a test changes what it is about.
QUICK = {
    "epochs": 2,
    "train_batch_size": 64,
    "eval_batch_size": 16,
    "MAX_ITEM_LIST_LENGTH": 6,
    "learning_rate": 0.01,
    "show_progress": False,
    "state": "WARNING",
    "topk": [3, 5],
    "valid_metric": "NDCG@5",
    "n_layers": 1,
    "hidden_size": 16,
    "inner_size": 16,
    "embedding_size": 16,
    "load_col": {
        "inter": ["user_id", "item_id", "rating", "timestamp"],
        "item": ["item_id", "year", "genre"],
    },
    "selected_features": ["genre"],
    "item_attribute": "genre",
    "title_field": "title",
    "rec_llm_init": "scratch",
    "rec_llm_config": {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2},
    "user_dropout": 0.1,
}


@pytest.fixture(autouse=True)
def workdir(tmp_path, monkeypatch):
    """Run in a folder of one's own: RecBole writes log/, saved/ and log_tensorboard/."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(autouse=True)
def _two_threads():
    torch.set_num_threads(2)


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


def write_tiny(folder, seed=0, name="tiny"):
    """Data set of 30 users and 24 items; items follow one another, rows are shuffled."""
    rng = random.Random(seed)
    rows = []
    for user in range(N_USERS):
        item = rng.randrange(N_ITEMS)
        for step in range(rng.randrange(5, 14)):
            rows.append((f"u{user}", f"i{item}", rng.randrange(1, 6), 1000 * user + 7 * step))
            item = (item + rng.choice([1, 1, 1, 2, 5])) % N_ITEMS
    rng.shuffle(rows)
    target = folder / name
    target.mkdir(parents=True)
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    lines += ["\t".join(map(str, row)) for row in rows]
    (target / f"{name}.inter").write_text("\n".join(lines) + "\n")
    lines = ["item_id:token\ttitle:token_seq\tyear:token\tgenre:token_seq"]
    for item in range(N_ITEMS):
        title = f"{WORDS[item % 9]} {WORDS[item % 7]} {item}"
        genres = f"{GENRES[item % 4]} {GENRES[(item + 1) % 3]}"
        lines.append(f"i{item}\t{title}\t{1990 + item % 5}\t{genres}")
    (target / f"{name}.item").write_text("\n".join(lines) + "\n")
    return target


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
