"""Batches of similar length: every row once, equal shares of the targets, little padding."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from recbole_lite import create_dataset, data_preparation
from recbole_lite.data.length_buckets import LengthBuckets, batches_by_length
from recbole_lite.data.prefix_windows import TARGETS


class Rows:
    """What the batches ask of windows."""

    def __init__(self, lengths, targets=None):
        self._lengths = np.asarray(lengths)
        self._targets = np.ones(len(lengths), int) if targets is None else np.asarray(targets)

    def __len__(self):
        return len(self._lengths)

    def lengths(self):
        return self._lengths

    def target_counts(self):
        return self._targets


def geometric(n, longest=50):
    return np.minimum(np.random.default_rng(0).geometric(0.15, n), longest)


def buckets(rows, size, tokens=None, seed=1):
    return LengthBuckets(rows, size, tokens, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("n", "size"), [(20_000, 128), (1000, 7), (5, 3), (3, 1), (1, 9)])
@pytest.mark.parametrize("counted", [False, True])
def test_a_pass_has_every_row_once_in_as_many_batches_as_planned(n, size, counted):
    lengths = geometric(n)
    sampler = buckets(Rows(lengths, lengths if counted else None), size)
    batches = list(sampler)
    assert sorted(row for batch in batches for row in batch) == list(range(n))
    assert len(batches) == len(sampler) == -(-n // size)
    assert sampler.sizes == [len(batch) for batch in batches]


def test_all_batches_have_the_same_number_of_targets_up_to_a_row():
    lengths = geometric(20_000)
    sizes = [len(batch) for batch in buckets(Rows(lengths), 128)]
    assert max(sizes) - min(sizes) <= 1
    per_batch = [lengths[batch].sum() for batch in buckets(Rows(lengths, lengths), 128)]
    mean = lengths.sum() / len(per_batch)
    # The longest history is 6% of a batch, and chunks of 1,000 rows differ by as much.
    assert all(abs(count - mean) <= 0.15 * mean for count in per_batch)
    lengths = geometric(8 * 128)  # one chunk
    per_batch = [lengths[batch].sum() for batch in buckets(Rows(lengths, lengths), 128)]
    assert all(abs(count - lengths.sum() / 8) <= lengths.max() for count in per_batch)


def test_little_is_padding():
    lengths = geometric(20_000)
    slots = sum(len(batch) * lengths[batch].max() for batch in buckets(Rows(lengths), 128))
    assert lengths.sum() / slots > 0.6  # as they come: 0.13


def test_batches_change_from_pass_to_pass_and_follow_the_generator():
    sampler, again = (buckets(Rows(geometric(2000)), 16) for _ in range(2))
    first, second = list(sampler), list(sampler)
    assert [list(again), list(again)] == [first, second]
    assert {tuple(sorted(batch)) for batch in first}.isdisjoint(map(tuple, map(sorted, second)))
    widths = [geometric(2000)[batch].max() for batch in first]
    assert widths != sorted(widths)


def test_as_many_rows_as_fit_into_the_positions():
    lengths = geometric(3000)
    sampler = buckets(Rows(lengths), 1, tokens=200)
    batches = list(sampler)
    assert sorted(row for batch in batches for row in batch) == list(range(3000))
    positions = [len(batch) * lengths[batch].max() for batch in batches]
    assert max(positions) <= 200
    by_length = sorted((lengths[batch] for batch in batches), key=lambda b: (b.max(), b.min()))
    for batch, following in pairwise(by_length):  # its first row has no place any more
        assert (len(batch) + 1) * following.min() > 200
    assert len(sampler) == len(batches)


def test_an_evaluation_begins_with_the_longest_histories():
    batches = batches_by_length(np.array([2, 5, 2, 1, 5]), 2)
    assert [batch.tolist() for batch in batches] == [[1, 4], [0, 2], [3]]
    batches = batches_by_length(np.array([2, 5, 2, 1, 5, 2]), 3, max_tokens=4)
    assert [batch.tolist() for batch in batches] == [[1], [4], [0, 2], [5, 3]]
    assert batches_by_length(np.zeros(0), 3) == []


@pytest.mark.parametrize(
    ("settings", "made"),
    [({}, False), ({"bucket_by_length": True}, True), ({"max_tokens_per_batch": 20}, True)],
)
def test_buckets_are_made_where_they_are_asked_for(settings, made, config_for):
    config = config_for("ItemLM", n_heads=2, train_batch_size=8, **settings)
    train, *_ = data_preparation(config, create_dataset(config))
    assert (train.buckets is not None) == made
    assert len(list(train)) == len(train)


@pytest.mark.parametrize("strategy", ["all", "sampling", "prefix"])
def test_batches_are_as_wide_as_their_longest_history(strategy, config_for):
    seen = []
    for cut in (True, False):
        config = config_for(
            "ItemLM", n_heads=2, train_strategy=strategy, cut_padding=cut, train_batch_size=8
        )
        train, _, test = data_preparation(config, create_dataset(config))
        targets = 0
        for batch in train:
            width = int(batch["item_length"].max()) if cut else 6
            assert batch["item_id_list"].shape[1] == batch["rating_list"].shape[1] == width
            inside = torch.arange(width) < batch["item_length"][:, None]
            assert torch.equal(batch["item_id_list"] > 0, inside)
            if strategy == "prefix":
                assert batch[TARGETS].shape == batch["item_id_list"].shape
            targets += int((batch[TARGETS] > 0).sum()) if strategy == "prefix" else len(batch)
        seen.append(targets)
        order = torch.cat([batch[0]["user_id"] for batch in test])
        assert torch.equal(test.uid_list.sort().values, order.sort().values)
    assert seen[0] == seen[1]
