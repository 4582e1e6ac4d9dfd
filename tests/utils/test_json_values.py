"""JSON of whatever metrics, users and libraries bring."""

import datetime
import decimal
import enum
import json
from collections import OrderedDict, deque
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from recbole_lite import LiteConfig
from recbole_lite.trainer import checkpoint
from recbole_lite.utils.errors import ConfigError
from recbole_lite.utils.files import to_json, to_plain, write_json


class Size(enum.IntEnum):
    SMALL = 3


class Name(str, enum.Enum):  # noqa: UP042 (what users write)
    A = "a"


VALUES = [
    (np.float32(0.5), 0.5), (np.float64(0.5), 0.5), (np.int64(7), 7), (np.bool_(True), True),
    (np.str_("a"), "a"), (np.array([1, 2]), [1, 2]), (np.array(1.5), 1.5),
    (torch.tensor(0.25), 0.25), (torch.tensor([1, 2]), [1, 2]),
    (torch.tensor(0.5, dtype=torch.bfloat16, requires_grad=True), 0.5),
    (float("nan"), None), (np.float32("inf"), None), (torch.tensor(float("-inf")), None),
    ((1, (2.5, None)), [1, [2.5, None]]), ({"b", "a"}, ["a", "b"]), (frozenset([3]), [3]),
    (datetime.date(2026, 1, 2), "2026-01-02"), (pd.Timestamp("2026-01-02 03:04"),
    "2026-01-02T03:04:00"), (np.datetime64("2026-01-02"), "2026-01-02"),
    (range(2), [0, 1]), ({"a": 1}.keys(), ["a"]), (deque([1]), [1]), (b"a", "b'a'"),
    (Path("a/b"), "a/b"), (decimal.Decimal("0.5"), 0.5), (Size.SMALL, 3), (Name.A, "a"),
    (OrderedDict(b=np.float32(1), a=True), {"b": 1.0, "a": True}), ({np.int64(3): 1}, {"3": 1}),
    (torch.device("cpu"), "cpu"), (torch.float32, "torch.float32"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "expected"),
    VALUES,
    ids=[f"{n}-{type(v).__name__}" for n, (v, _) in enumerate(VALUES)],
)
def test_any_value_is_plain_in_json(value, expected, tmp_path):
    plain = to_plain(value)
    assert plain == expected
    assert type(plain) is type(expected)
    write_json(tmp_path / "a.json", {"in": [value]})

    def refuse(constant):
        raise AssertionError(constant)

    read = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert read == {"in": [expected]}


def test_settings_keep_infinity():
    assert json.loads(to_json({"a": float("inf")}, finite=False)) == {"a": float("inf")}


def test_settings_of_any_type_are_saved_and_read_back(quick, tmp_path):
    values = quick(
        learning_rate=np.float64(0.5), epochs=np.int64(3), topk=(3, np.int32(5)),
        metrics={"Recall", "NDCG"}, stopping_step=torch.tensor(4), data_path=tmp_path,
        clip_grad_norm={"max_norm": np.float32(1), "norm_type": float("inf")},
    )  # fmt: skip
    config = LiteConfig("SASRec", "tiny", config_dict=values)
    expected = {
        "learning_rate": 0.5, "epochs": 3, "topk": [3, 5], "metrics": ["NDCG", "Recall"],
        "stopping_step": 4, "data_path": str(tmp_path),
        "clip_grad_norm": {"max_norm": 1.0, "norm_type": float("inf")},
    }  # fmt: skip
    assert {key: config.settings[key] for key in expected} == expected
    checkpoint.save_config(tmp_path, config)
    assert checkpoint.load_config(tmp_path)["settings"] == config.settings
    from_yaml = LiteConfig(config_file_list=[tmp_path / "config.yaml"])
    assert {key: from_yaml.settings[key] for key in expected} == expected


@pytest.mark.parametrize("value", [object(), print, [len]])
def test_a_setting_that_cannot_be_saved_is_refused_at_once(value, quick):
    kind = type(value[0] if isinstance(value, list) else value).__name__
    with pytest.raises(ConfigError, match=f"config_dict: title_field: a value of type {kind} can"):
        LiteConfig("SASRec", "tiny", config_dict=quick(title_field=value))
