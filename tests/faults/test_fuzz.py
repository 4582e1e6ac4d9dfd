"""A few random settings, runs and files; `make faults` tries many (fuzz.py)."""

import fuzz
import pytest


@pytest.fixture
def count():
    return fuzz.Count()


def test_settings_are_accepted_or_refused_in_one_line(count):
    fuzz.fuzz_settings(40, count)
    assert len(count.counts) >= 2, count


def test_runs_train_or_are_refused_in_one_line(count, tmp_path):
    fuzz.fuzz_runs(12, tmp_path, count)
    assert len(count.counts) >= 2, count


def test_files_hold_what_they_say_or_are_refused(count, tmp_path):
    fuzz.fuzz_files(100, tmp_path, count)
    assert count.counts["accepted"] > 10, count


def test_requests_are_answered_or_refused(count, tmp_path):
    fuzz.fuzz_requests(100, tmp_path, count)
    assert count.counts["accepted"] > 5, count
    assert count.counts.total() >= 90


def test_files_of_histories_are_answered_or_refused(count, tmp_path):
    fuzz.fuzz_histories(60, tmp_path, count)
    assert count.counts["accepted"] > 5, count
    assert count.counts.total() >= 50


@pytest.mark.parametrize(
    "key, value",
    [
        # The last five ended in tracebacks or, hidden_size 0, in a training of nothing.
        ("topk", "abc"),
        ("metrics", 5),
        ("eval_args", {"mode": 3}),
        ("load_col", [1]),
        ("valid_metric", 3),
        ("hidden_size", 0),
        ("clip_grad_norm", {"norm": 1.0}),
        ("hidden_size", 15),
        ("metric_decimal_place", 0.5),
    ],
)
def test_what_it_has_found(key, value, count, quick):
    from recbole_lite import run

    count(lambda: run("SASRec", "tiny", config_dict=quick(**{key: value, "n_heads": 2})))
    assert count.counts["accepted"] == 0
