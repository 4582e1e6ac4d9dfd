"""Prefix windows: every training target once, its context as promised, nothing held out."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import RandomSampler, SequentialSampler

from recbole_lite import create_dataset, data_preparation
from recbole_lite.data.dataset import split_last
from recbole_lite.data.prefix_windows import TARGETS, PrefixWindows
from recbole_lite.data.windows import (
    SEEN,
    RandomSegments,
    ReplayedWindows,
    RunWindows,
    SequenceStore,
    Windows,
)
from recbole_lite.utils.errors import ConfigError

LENGTHS = [1, 2, 3, 4, 5, 6, 7, 9, 14, 23, 40]  # interactions; all but 1 have a training target


def training_windows(sequences, max_length):
    """Windows of the training part (leave-one-out) of users 1, 2, ... with these items."""
    users = np.repeat(np.arange(1, len(sequences) + 1), [len(s) for s in sequences])
    columns = {
        "user_id": torch.from_numpy(users),
        "item_id": torch.tensor([item for s in sequences for item in s]),
    }
    store = SequenceStore(columns, None, "user_id", "item_id", len(sequences) + 1)
    windows = Windows.over_all_targets(store, max_length, "_list", "item_length")
    return split_last(windows, 2)[0]


def numbered(lengths):
    """Sequences whose items count on: an item's successor is its number + 1."""
    ends = np.cumsum(lengths).tolist()
    return [list(range(end - n + 1, end + 1)) for end, n in zip(ends, lengths, strict=True)]


def held_in(sequence):
    """Training part of a sequence: one target at least is left, of the others two go."""
    return sequence[: max(len(sequence) - 2, 2)]


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def as_rows(batch):
    """One ``(inputs, targets)`` pair of lists per window, without the padding behind."""
    rows = zip(
        batch["item_id_list"].tolist(),
        batch[TARGETS].tolist(),
        batch["item_length"].tolist(),
        strict=True,
    )
    return [(inputs[:length], targets[:length]) for inputs, targets, length in rows]


def questions(batch):
    """Every ``(history, target)`` that a batch asks for."""
    return Counter(
        (tuple(inputs[: step + 1]), target)
        for inputs, targets in as_rows(batch)
        for step, target in enumerate(targets)
        if target
    )


# -- the layout -------------------------------------------------------------------------------


@pytest.mark.parametrize("max_length", [1, 2, 3, 5, 8])
def test_every_training_target_is_asked_for_once_with_its_context(max_length):
    sequences = numbered(LENGTHS)
    had = {item: k for s in sequences for k, item in enumerate(s)}  # items before it
    inside = {item for s in sequences for item in held_in(s)}
    expected = sorted(item for item in inside if had[item])
    for overlap, seed in itertools.product(range(max_length), range(12)):
        windows = PrefixWindows(training_windows(sequences, max_length), overlap)
        windows.resample(seeded(seed))
        batch = windows.collate(slice(None))
        inputs, targets = batch["item_id_list"], batch[TARGETS]
        asked = targets > 0
        assert sorted(targets[asked].tolist()) == expected
        assert torch.equal(targets[asked], inputs[asked] + 1)  # of the same user: see `had`
        assert set(inputs[inputs > 0].tolist()) <= inside
        assert len(batch) == len(windows) == len(windows.rows) == len(windows.counts)
        assert asked.any(1).all()
        for row, step in asked.nonzero().tolist():
            target = targets[row, step].item()
            assert step + 1 >= min(overlap + 1, had[target])
            begin = target - (step + 1)
            assert inputs[row, : step + 1].tolist() == list(range(begin, target))
            assert had[target] >= step + 1


def test_a_user_without_a_training_target_has_no_window():
    windows = PrefixWindows(training_windows(numbered([1, 1]), 4))
    windows.resample(seeded(0))
    assert len(windows) == 0
    assert len(windows.collate(slice(None))[TARGETS]) == 0


# Items a .. h train, targets b .. h; windows of 4 inputs overlap by 1, so the stride is 3.
A, B, C, D, E, F, G, H = SEQUENCE = [7, 3, 7, 5, 2, 9, 3, 4]
LAYOUTS = {
    0: [([D, E, F, G], [0, F, G, H]), ([A, B, C, D], [B, C, D, E])],
    1: [([D, E, F, G], [0, 0, 0, H]), ([C, D, E, F], [0, E, F, G]), ([A, B, C], [B, C, D])],
    2: [([D, E, F, G], [0, 0, G, H]), ([B, C, D, E], [0, D, E, F]), ([A, B], [B, C])],
}


def test_the_three_layouts_of_a_sequence_by_hand():
    """How many targets the last window has is drawn: 3 (a whole stride), 1 or 2."""
    windows = PrefixWindows(training_windows([[*SEQUENCE, 8, 6]], 4), overlap=1)
    found = Counter()
    for seed in range(60):
        windows.resample(seeded(seed))
        rows = as_rows(windows.collate(slice(None)))
        layout = next(key for key, value in LAYOUTS.items() if sorted(value) == sorted(rows))
        found[layout] += 1
    assert set(found) == set(LAYOUTS)


def test_a_batch_has_what_other_windows_have_and_zeros_behind():
    windows = PrefixWindows(training_windows([[*SEQUENCE, 8, 6]], 4), overlap=1)
    while len(windows) != 3 or windows.counts[0] != 1:  # layout 1
        windows.resample(torch.default_generator)
    (last,) = np.flatnonzero(windows.collate(slice(None))["item_length"].numpy() == 3)
    batch = windows.collate([int(last)])
    assert set(batch.columns) == {"user_id", "item_id", "item_length", "item_id_list", TARGETS}
    assert batch["item_id_list"].tolist() == [[A, B, C, 0]]
    assert batch[TARGETS].tolist() == [[B, C, D, 0]]
    assert batch["item_id"].tolist() == [D]


def test_windows_begin_everywhere_equally_often():
    """Far from a user's first items each target opens a window in one of `stride` draws."""
    max_length, overlap, n, draws = 6, 2, 40, 6000
    stride = max_length - overlap
    windows = PrefixWindows(training_windows([list(range(1, n + 4))], max_length), overlap)
    opens, first, steps = Counter(), Counter(), Counter()
    generator = seeded(3)
    for _ in range(draws):
        windows.resample(generator)
        opens.update((windows.rows - windows.counts + 1).tolist())
        first[int(windows.counts[windows.rows == windows.rows.min()][0])] += 1
        # At which step of its window the target in row 20 is asked for.
        (holder,) = np.flatnonzero((windows.rows >= 20) & (windows.rows - windows.counts < 20))
        steps[max_length - 1 - int(windows.rows[holder] - 20)] += 1
    deviation = (draws / stride * (1 - 1 / stride)) ** 0.5
    for row in range(max_length + 1, n + 1):
        assert abs(opens[row] - draws / stride) < 4.5 * deviation, row
    # The first window has no overlap to fill: 3 .. 6 targets; contexts are 3 .. 6 items long.
    assert sorted(first) == [3, 4, 5, 6]
    assert sorted(steps) == [2, 3, 4, 5]
    for count in (*first.values(), *steps.values()):
        assert abs(count - draws / stride) < 4.5 * deviation


@pytest.mark.parametrize("overlap", [-1, 6, 7, 1.0, 2.5, "1", None])
def test_an_overlap_that_makes_no_sense(overlap):
    with pytest.raises(ConfigError, match=r"prefix_overlap must be a whole number in 0\.\.5 .*"):
        PrefixWindows(training_windows(numbered([8]), 6), overlap)


# -- the loader -------------------------------------------------------------------------------


@pytest.fixture
def loaders(config_for):
    def build(**changes):
        settings = {"train_strategy": "prefix", "rec_llm_causal": True, "train_batch_size": 8}
        config = config_for("LiteLLM4Rec", **{**settings, **changes})
        return data_preparation(config, create_dataset(config))

    return build


def training_targets(loader):
    """Item counts of all training targets, from the validation loader's users and the store."""
    store = loader._dataset.inter_feat.store
    users, items = (store.columns[field].tolist() for field in ("user_id", "item_id"))
    sequences = {}
    for user, item in zip(users, items, strict=True):
        sequences.setdefault(user, []).append(item)
    return Counter(item for s in sequences.values() for item in s[1:-2])


def test_the_loader_follows_the_number_of_windows(loaders):
    train, *_ = loaders()
    expected = training_targets(train)
    sizes = set()
    for _ in range(6):
        batches = list(train)
        asked = torch.cat([batch[TARGETS][batch[TARGETS] > 0] for batch in batches])
        assert Counter(asked.tolist()) == expected
        size = sum(len(batch) for batch in batches)
        assert size == len(train._dataset.inter_feat)
        assert len(batches) == len(train) == -(-size // 8)
        sizes.add(size)
    assert len(sizes) > 1


def test_validation_and_test_are_neither_asked_nor_shown(loaders):
    """Items of the tiny set recur, so the rows are told apart by user and time."""
    train, valid, test = loaders(prefix_overlap=3)
    held_out = set()
    for loader in (valid, test):
        for batch, *_ in loader:
            pairs = zip(batch["user_id"].tolist(), batch["timestamp"].tolist(), strict=True)
            held_out.update(pairs)
    assert len(held_out) == 2 * 30
    store = train._dataset.inter_feat.store
    for _ in range(5):
        seen = set()
        for batch in train:
            times, lengths = batch["timestamp_list"], batch["item_length"]
            for user, row, length in zip(batch["user_id"].tolist(), times, lengths, strict=True):
                seen.update((user, time) for time in row[:length].tolist())
            # The last target of a window is its own row.
            seen.update(zip(batch["user_id"].tolist(), batch["timestamp"].tolist(), strict=True))
        assert not seen & held_out
        assert len(seen) == len(store) - len(held_out)


def test_with_the_largest_overlap_the_questions_are_those_of_strategy_all(loaders):
    prefix, *_ = loaders(prefix_overlap=5)
    plain, *_ = loaders(train_strategy="all")
    expected = Counter()
    for batch in plain:
        for history, target, length in zip(
            batch["item_id_list"].tolist(),
            batch["item_id"].tolist(),
            batch["item_length"],
            strict=True,
        ):
            expected[tuple(history[:length]), target] += 1
    for _ in range(3):
        assert sum((questions(batch) for batch in prefix), Counter()) == expected


def test_epochs_differ_and_runs_do_not(loaders):
    (first, *_), (second, *_) = loaders(), loaders()
    epochs = [[as_rows(batch) for batch in first] for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    assert [as_rows(batch) for batch in second] == epochs[0]


def test_a_resumed_loader_goes_on_as_the_first_would_have(loaders):
    """The generator's state is all that a checkpoint holds of a loader."""
    (first, *_), (second, *_) = loaders(), loaders()
    list(first)
    state = first.generator.get_state()
    expected = [[as_rows(batch) for batch in first] for _ in range(2)]
    second.generator.set_state(state)
    assert [[as_rows(batch) for batch in second] for _ in range(2)] == expected


@pytest.mark.parametrize("shuffle", [True, False])
def test_shuffle_is_about_the_windows_order(shuffle, loaders):
    train, *_ = loaders(shuffle=shuffle)
    assert isinstance(train.sampler, RandomSampler if shuffle else SequentialSampler)
    for _ in range(2):
        rows = [row for batch in train for row in as_rows(batch)]
        laid = as_rows(train._dataset.inter_feat.collate(slice(None)))
        assert (rows == laid) is not shuffle
        assert sorted(rows) == sorted(laid)


@pytest.mark.parametrize(
    "model, changes, message",
    [
        ("NARM", {}, "NARM trains with all or sampling"),
        ("SASRec", {"loss_type": "BPR"}, "trains SASRec with loss_type: CE, found 'BPR'"),
        ("LiteLLM4Rec", {"prefix_overlap": 6}, r"in 0\.\.5 \(MAX_ITEM_LIST_LENGTH - 1\), found 6"),
        ("LiteLLM4Rec", {"prefix_overlap": -1}, "a whole number of at least 0, found -1"),
        ("LiteLLM4Rec", {"prefix_overlap": 0.5}, r"prefix_overlap must be .*, found 0\.5"),
        ("LiteLLM4Rec", {"prefix_overlap": True}, "prefix_overlap must be .*, found True"),
        ("LiteLLM4Rec", {"prefix_overlap": "some"}, "prefix_overlap must be"),
        ("LiteLLM4Rec", {"rec_llm_causal": False}, "prefix needs rec_llm_causal: True"),
    ],
)
def test_bad_settings(model, changes, message, config_for):
    settings = {"train_strategy": "prefix", "rec_llm_causal": True, **changes}

    def build():
        config = config_for(model, **settings)
        train, *_ = data_preparation(config, create_dataset(config))
        config.model_class(config, train._dataset)

    with pytest.raises(ConfigError, match=message):
        build()


# -- what the users had before (loss_exclude_history) ------------------------------------------


def test_a_model_whose_loss_cannot_leave_the_history_out_is_told_of(config_for, caplog):
    config = config_for("SASRec", loss_exclude_history=True)
    train, *_ = data_preparation(config, create_dataset(config))
    assert "seen_list" not in next(iter(train))
    assert "loss_exclude_history is ignored: SASRec's loss counts every item" in caplog.text


def test_what_was_before_a_window_by_hand():
    windows = training_windows([[5, 6, 7, 8, 9, 1, 2], [4, 3, 2, 1]], 2)
    windows.lists_seen = True
    expected = {
        (5,): [],
        (5, 6): [],
        (6, 7): [5],
        (7, 8): [5, 6],
        (4,): [],
    }
    batch = windows.collate(slice(None))
    assert batch[SEEN].shape == (5, 2)
    lists = zip(batch["item_id_list"].tolist(), batch[SEEN].tolist(), strict=True)
    found = {tuple(i for i in inputs if i): [i for i in seen if i] for inputs, seen in lists}
    assert found == expected
    assert windows.collate([0])[SEEN].shape == (1, 0)  # no wider than the batch needs


@pytest.mark.parametrize("strategy", ["all", "sampling", "prefix"])
def test_seen_items_are_those_before_the_window(strategy, loaders):
    train, valid, test = loaders(
        train_strategy=strategy, loss_exclude_history=True, MAX_ITEM_LIST_LENGTH=3
    )
    windows = train._dataset.inter_feat
    assert (
        type(windows)
        is {"all": RunWindows, "sampling": RandomSegments, "prefix": PrefixWindows}[strategy]
    )
    users, items, times = (
        windows.store.columns[name].tolist() for name in ("user_id", "item_id", "timestamp")
    )
    longest = 0
    for _ in range(3):
        for batch in train:
            for k, user in enumerate(batch["user_id"].tolist()):
                begin = batch["timestamp_list"][k, 0].item()
                expected = [
                    item
                    for owner, item, time in zip(users, items, times, strict=True)
                    if owner == user and time < begin
                ]
                seen = batch[SEEN][k].tolist()
                assert seen == expected + [0] * (len(seen) - len(expected))
                longest = max(longest, len(expected))
            assert batch[SEEN].dtype == torch.int64
            assert batch[SEEN].any(0).all()  # no column of padding alone
    assert longest > 3
    for loader in (valid, test):
        assert all(SEEN not in batch for batch, *_ in loader)


@pytest.mark.parametrize("strategy", ["all", "sampling", "prefix"])
def test_seen_items_are_gathered_only_where_the_loss_asks(strategy, loaders):
    train, *_ = loaders(train_strategy=strategy)
    assert all(SEEN not in batch for batch in train)
    assert all((TARGETS in batch) is (strategy == "prefix") for batch in train)


@pytest.mark.parametrize("kind", ["all", "prefix", "sampling"])
def test_replay_keeps_windows_of_new_targets_and_a_share_of_the_others(kind):
    """20 users of 40 items; the last 3 targets of each of the first 10 are new."""
    windows = training_windows(numbered([42] * 20), max_length=8)
    store = windows.store
    new = np.concatenate([np.arange(user * 42 + 37, user * 42 + 40) for user in range(10)])
    store.is_known, store.replay = ~np.isin(np.arange(len(store)), new), 0.25
    makers = {"all": ReplayedWindows, "prefix": PrefixWindows, "sampling": RandomSegments}
    laid, generator, asked, replayed = makers[kind](windows), seeded(1), Counter(), 0
    for _ in range(40):
        laid.resample(generator)
        ends, counts = laid.rows, laid.target_counts()
        assert len(laid) == len(ends) == len(counts)
        targets = [np.arange(e - n + 1, e + 1) for e, n in zip(ends, counts, strict=True)]
        asked.update(np.intersect1d(np.concatenate(targets), new).tolist())
        replayed += sum(bool(store.is_known[rows].all()) for rows in targets)
    if kind == "sampling":  # one label of each user and epoch, mostly late ones
        assert 0.15 < replayed / (40 * 20) < 0.35
        return
    assert asked == dict.fromkeys(new.tolist(), 40)
    everything = {"all": 20 * 39 - 30, "prefix": None}[kind]
    if everything:
        assert replayed / 40 == pytest.approx(everything / 4, rel=0.05)
    else:  # of 5 or 6 windows of each user, 1 or 2 of the first 10 users have new targets
        assert 0.8 < replayed / 40 / (0.25 * (20 * 5.4 - 10 * 1.3)) < 1.2


# -- dropped interactions (history_drop_ratio) --------------------------------------------------


def test_dropped_items_by_hand():
    """Rows 0 .. 6 are user 1's: 5 6 7 8 9 are its training part."""
    windows = training_windows([[5, 6, 7, 8, 9, 1, 2], [4, 3, 2, 1]], 3)
    windows.lists_seen = True
    prefix = PrefixWindows(windows)
    prefix.rows, prefix.counts = np.array([4, 1, 8]), np.array([3, 1, 1])  # targets 9, 6, 3
    for one in (windows, prefix):
        one.dropped = np.zeros(11, dtype=bool)
        one.dropped[[0, 2, 7]] = True  # 5, 7 and 4
    # 7 is neither an input nor a target; what alone is left stays.
    assert as_rows(prefix.collate(slice(None))) == [([6, 8], [8, 9]), ([5], [6]), ([4], [3])]
    batch = windows.collate(slice(None))  # targets 6, 7, 8, 9 and 3
    assert batch["item_id_list"].tolist() == [[5, 0, 0], [6, 0, 0], [6, 0, 0], [6, 8, 0], [4, 0, 0]]
    assert batch["item_length"].tolist() == [1, 1, 1, 2, 1]
    # The history is still excluded from the loss.
    had = [set(seen) | set(inputs) for seen, inputs in
           zip(batch[SEEN].tolist(), batch["item_id_list"].tolist(), strict=True)]  # fmt: skip
    assert had == [{0, 5}, {0, 5, 6}, {0, 5, 6, 7}, {0, 5, 6, 7, 8}, {0, 4}]


@pytest.mark.parametrize("strategy", ["all", "prefix"])
def test_each_epoch_drops_its_own_share(strategy, loaders):
    train, valid, _ = loaders(history_drop_ratio=0.25, train_strategy=strategy, cut_padding=False)
    shares = []
    for _ in range(40):
        next(iter(train))
        shares.append(train._dataset.inter_feat.dropped.mean())
    n = 40 * len(train._dataset.inter_feat.dropped)
    assert np.mean(shares) == pytest.approx(0.25, abs=4.5 * (0.25 * 0.75 / n) ** 0.5)
    assert len(set(shares)) > 1
    assert valid._dataset.inter_feat.dropped is None
