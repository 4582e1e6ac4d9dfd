"""Ids in every type that a notebook holds."""

import datetime
from fractions import Fraction

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_lite.inference.history_inputs import raw_id, raw_ids, whole_number
from recbole_lite.utils.errors import RequestError

ONE = [
    "16", b"16", 16, 16.0, np.int64(16), np.int8(16), np.float32(16), np.str_("16"), np.array(16),
    np.bytes_(b"16"), torch.tensor(16), torch.tensor(16.0), torch.tensor([16])[0],
    pd.Series([16, None])[0], pd.Series(["16"])[0], pd.array([16], dtype="Int64")[0],
    pd.Categorical(["16"])[0], pa.scalar(16), pa.scalar("16"),
]  # fmt: skip


@pytest.mark.parametrize("value", ONE, ids=lambda value: f"{type(value).__name__} {value!r}")
def test_one_id_of_every_type(value):
    assert raw_id(value) == "16"


LISTS = [
    ["16", "3"], ("16", "3"), iter(["16", "3"]), np.array([16, 3]), np.array(["16", "3"]),
    np.array(["16", 3], dtype=object), torch.tensor([16, 3]), torch.tensor([16.0, 3.0]),
    pd.Series([16, 3]), pd.Series([16.0, 3.0]), pd.Series(["16", "3"], dtype="string"),
    pd.Index([16, 3]), pd.Series(["16", "3"], dtype="category"), pa.array([16, 3]),
    pa.chunked_array([["16"], ["3"]]), dict.fromkeys(["16", "3"]).keys(), range(16, 2, -13),
    [16, b"3"],
]  # fmt: skip


@pytest.mark.parametrize("values", LISTS, ids=lambda values: f"{type(values).__name__}")
def test_lists_of_every_type(values):
    assert raw_ids(values, "history 0") == ["16", "3"]


@pytest.mark.parametrize(
    "value, message",
    [
        (None, "missing"), (float("nan"), "missing"), (np.nan, "missing"), (pd.NA, "missing"),
        (pd.NaT, "missing"), (torch.tensor(float("nan")), "missing"), ("", "must not be ''"),
        (" ", "must not be ' '"), ("[PAD]", r"must not be '\[PAD\]'"), (b"\xff", "UTF-8"),
        ("bad \ud800", "not valid Unicode"), (True, "a text or a number"), (["16"], "a text or"),
        (np.bool_(True), "a text or a number"), ({"id": 1}, "a text or"), (object(), "a text or"),
        (1j, "a text or a number"), (datetime.date(2026, 1, 1), "a text or a number"),
        (float("inf"), "a number"),
    ],
)  # fmt: skip
def test_what_is_no_id(value, message):
    with pytest.raises(RequestError, match=message):
        raw_id(value)
    with pytest.raises(RequestError, match=f"history 3: .*{message}"):
        raw_ids(["16", value], "history 3")


@pytest.mark.parametrize(
    "values", ["16", b"16", 16, torch.tensor(16), np.array(16), {"16": 1}, None]
)
def test_what_is_no_list(values):
    with pytest.raises(RequestError, match="candidates must be a list of ids, found"):
        raw_ids(values, "candidates")


def test_a_table_is_no_list():
    with pytest.raises(RequestError, match="must be a list of ids, found DataFrame"):
        raw_ids(pd.DataFrame({"id": [1]}), "candidates")


def test_numbers_with_a_fraction_keep_it():
    assert raw_id(1.5) == "1.5"
    assert raw_id(Fraction(3, 1)) == "3"
    assert raw_id(-4.0) == "-4"
    assert raw_id(2.0**60) == str(2**60)


@settings(max_examples=200, deadline=None)
@given(st.integers(-(2**53), 2**53))
def test_a_number_is_the_same_id_in_every_type(number):
    same = [number, float(number), np.int64(number), torch.tensor(number), str(number)]
    assert {raw_id(value) for value in same} == {str(number)}


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_a_text_is_itself_or_refused(text):
    try:
        assert raw_id(text) == text == raw_id(text.encode())
    except (RequestError, UnicodeEncodeError):
        assert (
            not text.strip() or text == "[PAD]" or not text.isprintable() or max(text) >= "\ud800"
        )


@pytest.mark.parametrize("value", [2, np.int64(2), torch.tensor(2), np.array(2), np.uint8(2)])
def test_counts_of_every_type(value):
    assert whole_number(value, "k", 1, 3) == 2


@pytest.mark.parametrize("value", [0, 4, -1, 2.0, "2", None, True, np.bool_(True), [2], 1.5])
def test_what_is_no_count(value):
    with pytest.raises(RequestError, match="k must be a whole number from 1 to 3, found"):
        whole_number(value, "k", 1, 3)
