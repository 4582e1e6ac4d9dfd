"""Settings of the text tower, and a stand-in data set."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recbole_lite.text.item_vectors import load_item_vectors


class Settings(dict):
    """RecBole's Config answers None for a missing key."""

    def __missing__(self, key):
        return None


class Items:
    """Stands in for the data set: text columns per internal id, index 0 is padding."""

    iid_field = "item_id"

    def __init__(self, **columns: list[str]):
        self.columns = {field: ["", *values] for field, values in columns.items()}

    def item_text_columns(self, fields):
        return {f: v for f, v in self.columns.items() if fields is None or f in fields}

    def id2token(self, field, ids):
        assert field == "item_id"
        return [f"token-{i}" for i in ids]


@pytest.fixture
def settings(llm_folders, tmp_path):
    """Build a configuration of the text tower."""

    def build(**changes):
        return Settings(
            {
                "dataset": "tiny",
                "item_llm": str(llm_folders["bert"]),
                "item_llm_pooling": "mean",
                "item_llm_batch_size": 2,
                "item_llm_dtype": "auto",
                "item_text_template": "",
                "item_embedding_cache_dir": str(tmp_path / "cache"),
                "local_files_only": True,
                "device": torch.device("cpu"),
                "show_progress": False,
                **changes,
            }
        )

    return build


@pytest.fixture
def items():
    """Build a data set; without arguments six items, of which one has no text and two agree."""

    def build(**columns):
        return Items(
            **columns
            or {
                "title": ["toy story", "golden eye", "", "four rooms", "toy story", "copycat"],
                "genre": ["animation comedy", "action", "", "thriller", "animation comedy", ""],
            }
        )

    return build


@pytest.fixture
def read_vectors(tmp_path):
    """Load ``item_vectors`` for the items a, b, 007."""

    def read(path, ids=("a", "b", "007"), **settings):
        dataset = SimpleNamespace(
            iid_field="item_id", field2id_token={"item_id": np.array(["[PAD]", *ids])},
            dataset_path=str(tmp_path), dataset_name="tiny",
            _format={"separator": "\t", "encoding": "utf-8"},
        )  # fmt: skip
        config = Settings(item_vectors=str(path), seq_separator=" ", dataset="tiny", **settings)
        return load_item_vectors(config, dataset)

    return read
