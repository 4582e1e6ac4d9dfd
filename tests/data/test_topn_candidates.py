"""Candidates of the Top-N task against plain sets, and their distribution."""

import json
from collections import Counter

import numpy as np
import pytest
import torch

from recbole_lite import create_dataset, data_preparation
from recbole_lite.data.topn_candidates import NegativeSampler, _repeats, write_candidates
from recbole_lite.data.windows import CANDIDATES
from recbole_lite.utils.errors import DataError

NEGATIVES = 6


@pytest.fixture
def loaders(config_for):
    """``loaders("Pop", key=value, ...)`` -> dataset, loaders of training, validation, test."""

    def build(model="LiteLLM4Rec", **changes):
        settings = {"task": "topn", "topn_negatives": NEGATIVES, **changes}
        config = config_for(model, **settings)
        dataset = create_dataset(config)
        return dataset, *data_preparation(config, dataset)

    return build


def histories(data_path):
    """Raw user -> raw items in order of time, read from the file itself."""
    rows = [line.split("\t") for line in (data_path / "tiny/tiny.inter").read_text().split("\n")]
    users = {}
    for user, item, *_ in sorted(rows[1:-1], key=lambda row: int(row[3])):
        users.setdefault(user, []).append(item)
    return users


def stored(part, dataset, path):
    write_candidates(path, dataset, part)
    return [json.loads(line) for line in path.read_text().splitlines()]


# -- the sampler ---------------------------------------------------------------------------------


def test_repeats_by_hand():
    drawn = np.array([[3, 1, 3, 3], [1, 2, 3, 4], [5, 5, 2, 2]])
    assert _repeats(drawn).astype(int).tolist() == [[0, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 1]]


@pytest.mark.parametrize("left", [4, 5, 40], ids=["all that is left", "nearly all", "many"])
def test_every_item_not_had_is_as_likely_and_no_other_comes(left):
    n_items = 61
    had = np.arange(1, n_items - left)
    sampler = NegativeSampler(np.zeros(len(had), int), had, n_items, 4)
    drawn = sampler.sample(np.zeros(4000, int), np.random.default_rng(0))
    assert all(len(set(row)) == 4 for row in drawn.tolist())
    counts = Counter(drawn.ravel().tolist())
    assert set(counts) == set(range(n_items - left, n_items))
    expected = 4 * 4000 / left
    # 5 standard deviations of a binomial count
    assert all(abs(n - expected) <= 5 * np.sqrt(expected) for n in counts.values())


def test_users_do_not_share_what_they_had():
    sampler = NegativeSampler(np.array([1, 1, 2]), np.array([1, 2, 4]), 5, 2)
    drawn = sampler.sample(np.array([1, 2] * 50), np.random.default_rng(1))
    assert {tuple(sorted(row)) for row in drawn[::2]} == {(3, 4)}
    assert set(drawn[1::2].ravel()) == {1, 2, 3}


def test_a_user_who_has_had_too_much(loaders):
    with pytest.raises(DataError, match=r"user 'u\d+' has not had \d+ of the 24 items; 20 neg"):
        loaders(topn_negatives=20)


# -- validation and test ----------------------------------------------------------------------


def test_the_right_item_is_among_negatives_from_outside_the_whole_history(
    loaders, data_path, tmp_path
):
    dataset, _, valid, test = loaders()
    users = histories(data_path)
    for loader, back in ((valid, 2), (test, 1)):
        rows = stored(loader._dataset, dataset, tmp_path / "candidates.jsonl")
        assert {row["user"] for row in rows} == set(users)
        for row in rows:
            assert row["item"] == users[row["user"]][-back]
            assert len(set(row["candidates"])) == len(row["candidates"]) == NEGATIVES + 1
            assert set(row["candidates"]) & set(users[row["user"]]) == {row["item"]}


def test_all_models_and_seeds_get_the_same_candidates(loaders, tmp_path):
    def files(*arguments, **changes):
        dataset, _, valid, test = loaders(*arguments, **changes)
        return [
            write_candidates(tmp_path / "file", dataset, part._dataset) for part in (valid, test)
        ]

    one = files()
    assert files("Pop") == files("SASRec") == files(seed=5) == files() == one
    assert files(topn_seed=5)[1] != one[1] != one[0]


def test_batches_hold_what_is_stored_and_everything_else_is_masked(loaders, tmp_path):
    dataset, _, _, test = loaders()
    rows = {
        row["user"]: row["candidates"]
        for row in stored(test._dataset, dataset, tmp_path / "candidates.jsonl")
    }
    users = 0
    for batch, hidden, _, targets in test:
        names = dataset.id2token("user_id", batch["user_id"])
        for user, candidates, mask, target in zip(
            names, batch[CANDIDATES], hidden, targets, strict=True
        ):
            assert dataset.id2token("item_id", candidates).tolist() == rows[user]
            assert (~mask).nonzero().flatten().tolist() == sorted(candidates.tolist())
            assert not mask[target]
            users += 1
    assert users == len(rows) == 30


def test_models_that_only_rank_are_not_given_the_candidates(loaders):
    batch, hidden, *_ = next(iter(loaders("SASRec")[3]))
    assert CANDIDATES not in batch
    assert (~hidden).sum(1).tolist() == [NEGATIVES + 1] * len(batch)


# -- training ---------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["all", "sampling"])
def test_training_candidates_are_new_in_every_epoch_and_spare_the_training_items(
    loaders, data_path, strategy
):
    dataset, train, *_ = loaders(train_strategy=strategy)
    users = {user: set(items[:-2]) for user, items in histories(data_path).items()}
    epochs, held_out = [], 0
    for _ in range(3):
        epochs.append({})
        for batch in train:
            names = dataset.id2token("user_id", batch["user_id"])
            items = dataset.id2token("item_id", batch[CANDIDATES].numpy())
            targets = dataset.id2token("item_id", batch["item_id"])
            for user, row, target in zip(names, items.tolist(), targets, strict=True):
                assert len(set(row)) == NEGATIVES + 1
                assert set(row) & users[user] == {target}
                epochs[-1][user, target] = row
                held_out += bool(set(row) & set(histories(data_path)[user][-2:]))
    assert not any(epochs[0][key] == epochs[1].get(key) for key in epochs[0])
    assert held_out  # what is held out is a negative like any other


def test_the_same_seed_draws_the_same_training_candidates(loaders):
    def drawn(**changes):
        return [batch[CANDIDATES] for batch in loaders(**changes)[1]]

    one, again, other = drawn(), drawn(), drawn(topn_seed=3)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one[0], other[0])


def test_the_place_of_the_right_item_is_uniform(loaders):
    """Chi-square with 6 degrees of freedom: 22.5 is exceeded once in a thousand."""
    _, train, valid, test = loaders()
    places = []
    for _ in range(8):
        for batch in train:
            places.append((batch[CANDIDATES] == batch["item_id"][:, None]).long().argmax(1))
    counts = torch.bincount(torch.cat(places), minlength=NEGATIVES + 1).float()
    assert len(counts) == NEGATIVES + 1
    assert counts.sum() > 1000
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 22.5
    for loader in (valid, test):
        targets = [
            (batch[CANDIDATES] == right[:, None]).long().argmax(1) for batch, _, _, right in loader
        ]
        assert len(torch.cat(targets).unique()) >= 5
