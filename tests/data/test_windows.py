"""Windows against RecBole's own, and against the definition where RecBole's order is wrong."""

import random
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.data.dataset import SequentialDataset
from recbole.data.utils import data_preparation as recbole_data_preparation

from recbole_lite import LiteConfig, create_dataset, data_preparation
from recbole_lite.data.dataset import split_last
from recbole_lite.data.dataset_processing import ProcessingMixin
from recbole_lite.data.dataset_reading import ReadingMixin
from recbole_lite.data.windows import SequenceStore, Windows
from recbole_lite.utils.errors import ConfigError, DataError


class RecBoleWindows(ReadingMixin, ProcessingMixin, SequentialDataset):
    """RecBole's augmentation, order and split over tables that pandas 3 does not break."""


MODELS = ["SASRec", "BERT4Rec", "GRU4Rec", "FDSA", "S3Rec"]


@pytest.fixture
def settings(data_path):
    def build(**changes):
        return {
            "data_path": str(data_path),
            "MAX_ITEM_LIST_LENGTH": 6,
            "train_batch_size": 32,
            "eval_batch_size": 8,
            "eval_exclude_history": False,
            "cut_padding": False,
            "load_col": {
                "inter": ["user_id", "item_id", "rating", "timestamp"],
                "item": ["item_id", "year", "genre"],
            },
            "selected_features": ["genre"],
            "item_attribute": "genre",
            **changes,
        }

    return build


def loaders_of(model, settings, own):
    config = LiteConfig(model, "tiny", config_dict=settings)
    if own:
        return data_preparation(config, create_dataset(config))
    return recbole_data_preparation(config, RecBoleWindows(config))


def assert_same(ours, theirs):
    assert set(ours.columns) == set(theirs.columns)
    for field in theirs.columns:
        assert ours[field].dtype == theirs[field].dtype, field
        assert torch.equal(ours[field], theirs[field]), field


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("split", ["valid_and_test", "valid_only", "test_only"])
def test_batches_equal_recboles_when_its_order_is_right(model, split, settings):
    """Times below 2**24 and distinct per user: float32 orders them rightly."""
    changes = settings(eval_args={"split": {"LS": split}})
    ours, theirs = (loaders_of(model, changes, own) for own in (True, False))
    for loader, reference in zip(ours, theirs, strict=True):
        assert len(loader) == len(reference)
        for epoch in range(2):
            random.seed(epoch)  # BERT4Rec masks with Python's generator
            batches = list(loader)
            random.seed(epoch)
            for batch, expected in zip(batches, reference, strict=True):
                if isinstance(batch, tuple):
                    assert batch[1] is expected[1] is None
                    assert torch.equal(batch[2], expected[2])
                    assert torch.equal(batch[3], expected[3])
                    batch, expected = batch[0], expected[0]
                assert_same(batch, expected)


def test_sampled_ranking_equals_recboles(settings):
    changes = settings(eval_args={"mode": "uni5"}, loss_type="BPR")
    ours, theirs = (loaders_of("SASRec", changes, own) for own in (True, False))
    for loader, reference in zip(ours, theirs, strict=True):
        np.random.seed(0)
        batches = list(loader)
        np.random.seed(0)
        for batch, expected in zip(batches, reference, strict=True):
            if isinstance(batch, tuple):
                for part, wanted in zip(batch[1:], expected[1:], strict=True):
                    assert torch.equal(part, wanted)
                batch, expected = batch[0], expected[0]
            assert_same(batch, expected)


def test_random_and_ratio_splits_still_work(settings):
    changes = settings(eval_args={"split": {"RS": [0.8, 0.1, 0.1]}})
    ours, theirs = (loaders_of("SASRec", changes, own) for own in (True, False))
    for loader, reference in zip(ours, theirs, strict=True):
        for batch, expected in zip(loader, reference, strict=True):
            if isinstance(batch, tuple):
                batch, expected = batch[0], expected[0]
            assert_same(batch, expected)


def write(folder, rows, header="user_id:token\titem_id:token\ttimestamp:float"):
    (folder / "d").mkdir()
    text = "\n".join([header, *("\t".join(map(str, row)) for row in rows)])
    (folder / "d" / "d.inter").write_text(text + "\n")
    return {"data_path": str(folder), "MAX_ITEM_LIST_LENGTH": 50}


def sequence_of(config_dict, user="u"):
    dataset = create_dataset(LiteConfig("SASRec", "d", config_dict=config_dict))
    windows = dataset.build()[0].inter_feat
    store = windows.store
    uid = dataset.token2id("user_id", user)
    items = store.columns["item_id"][store.columns["user_id"] == uid]
    return dataset.id2token("item_id", items).tolist()


@pytest.mark.parametrize(
    "start, step",
    [(978300000, 10), (978300000, 1), (1_700_000_000_000, 7), (1_700_000_000_000_000_000, 3)],
    ids=["unix 10 s apart", "unix 1 s apart", "milliseconds", "nanoseconds"],
)
def test_the_order_is_exact_where_float32_is_not(start, step, tmp_path):
    """Events close in time, in shuffled rows; float32 resolves 64 s near 1e9."""
    rows = [("u", f"i{k}", start + step * k) for k in range(12)]
    random.Random(2).shuffle(rows)
    assert len({np.float32(time) for _, _, time in rows}) < 12
    assert sequence_of(write(tmp_path, rows)) == [f"i{k}" for k in range(12)]


def test_recbole_gets_this_order_wrong(tmp_path):
    """The reason for the test above: RecBole's dataset leaves the rows as in the file."""
    rows = [("u", f"i{k}", 978300000 + 10 * k) for k in (3, 0, 5, 1, 4, 2)]
    config = LiteConfig("SASRec", "d", config_dict=write(tmp_path, rows))
    _, _, test = SequentialDataset(config).build()
    last = test.id2token("item_id", test.inter_feat["item_id"])
    assert last.tolist() != ["i5"]


def test_ties_in_time_keep_the_files_order(tmp_path):
    items = ["c", "a", "d", "b", "e"]
    assert sequence_of(write(tmp_path, [("u", item, 5) for item in items])) == items


def test_fractional_times_are_kept(tmp_path):
    rows = [("u", "b", "978300000.75"), ("u", "a", "978300000.25"), ("u", "c", "978300001")]
    assert sequence_of(write(tmp_path, rows)) == ["a", "b", "c"]


def test_leave_one_out_of_short_histories(tmp_path):
    """1 interaction: nothing; 2: training; 3: training and test; 4: all three."""
    rows = [(f"u{n}", f"i{k}", k) for n in range(1, 5) for k in range(n)]
    config = LiteConfig("SASRec", "d", config_dict=write(tmp_path, rows))
    parts = create_dataset(config).build()
    users = [
        Counter(part.id2token("user_id", part.inter_feat["user_id"].numpy()).tolist())
        for part in parts
    ]
    assert users == [{"u2": 1, "u3": 1, "u4": 1}, {"u4": 1}, {"u3": 1, "u4": 1}]


def test_leave_one_out_orders_users_by_their_first_window():
    """As if all windows were sorted by time first; many times are equal here."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"user": rng.integers(1, 40, 150), "time": rng.integers(0, 9, 150)})
    rows = rows.sort_values(["user", "time"], ignore_index=True)
    columns = {"user": torch.from_numpy(rows["user"].to_numpy()), "item": torch.arange(150)}
    store = SequenceStore(columns, rows["time"].to_numpy(), "user", "item", 40)
    found = split_last(Windows.over_all_targets(store, 5, "_list", "length"), 2)
    by_time = rows[rows["user"].duplicated()].sort_values("time", kind="stable")
    training, validation, test = [], [], []
    for rows_of_user in by_time.groupby("user", sort=False).groups.values():
        own = rows_of_user.tolist()
        kept = max(len(own) - 2, 1)
        training += own[:kept]
        validation += own[kept:-1]
        test += own[max(kept, len(own) - 1) :]
    assert [part.rows.tolist() for part in found] == [training, validation, test]


def test_general_models_are_asked_the_same_questions(settings):
    general, sequential = (
        loaders_of(model, settings(eval_exclude_history=True), own=True)
        for model in ("Pop", "SASRec")
    )
    for one, other in zip(general[1:], sequential[1:], strict=True):
        for a, b in zip(one, other, strict=True):
            assert torch.equal(a[3], b[3])
            assert all(torch.equal(x, y) for x, y in zip(a[1], b[1], strict=True))


def test_pop_counts_every_training_interaction(settings):
    config = LiteConfig("Pop", "tiny", config_dict=settings())
    dataset = create_dataset(config)
    frame = dataset.inter_feat.sort_values(["user_id", "timestamp"], kind="stable")
    training = frame[frame.groupby("user_id").cumcount(ascending=False) >= 2]
    expected = training["item_id"].value_counts()
    train_data, *_ = data_preparation(config, dataset)
    model = config.model_class(config, train_data._dataset)
    for batch in train_data:
        model.calculate_loss(batch)
    assert {i: int(n) for i, n in enumerate(model.item_cnt[:, 0]) if n} == expected.to_dict()


def test_filters_keep_what_has_enough_interactions(settings):
    """Brute force, one removal at a time, until nothing changes."""
    changes = settings(user_inter_num_interval="[9,inf)", item_inter_num_interval="[6,inf)")
    dataset = create_dataset(LiteConfig("SASRec", "tiny", config_dict=changes))
    everything = create_dataset(LiteConfig("SASRec", "tiny", config_dict=settings()))
    pairs = list(zip(*(names(everything, f) for f in ("user_id", "item_id")), strict=True))
    while True:
        users, items = Counter(u for u, _ in pairs), Counter(i for _, i in pairs)
        kept = [(u, i) for u, i in pairs if users[u] >= 9 and items[i] >= 6]
        if kept == pairs:
            break
        pairs = kept
    ours = list(zip(*(names(dataset, f) for f in ("user_id", "item_id")), strict=True))
    assert 0 < len(pairs) < everything.inter_num
    assert ours == pairs


def names(dataset, field):
    return dataset.id2token(field, dataset.inter_feat[field].to_numpy()).tolist()


def test_filters_that_leave_nothing_say_so(settings):
    changes = settings(user_inter_num_interval="[999,inf)")
    with pytest.raises(ConfigError, match=r"user_inter_num_interval \[999,inf\) .* leave no"):
        create_dataset(LiteConfig("SASRec", "tiny", config_dict=changes))


def test_only_items_that_occur_are_ranked(data_path, settings, caplog):
    path = data_path / "tiny" / "tiny.item"
    path.write_text(path.read_text() + "i99\tnever seen\t1999\taction\n")
    caplog.set_level("INFO")
    dataset = create_dataset(LiteConfig("SASRec", "tiny", config_dict=settings()))
    assert dataset.item_num == 25
    assert len(dataset.item_feat) == 25
    assert "1 rows of tiny.item have no interactions and are left out" in caplog.text


def test_ids_do_not_depend_on_the_columns_that_are_loaded(settings):
    inter_only = settings(load_col={"inter": ["user_id", "item_id", "timestamp"]})
    first, second = (
        create_dataset(LiteConfig("SASRec", "tiny", config_dict=changes))
        for changes in (settings(), inter_only)
    )
    assert first.field2id_token["item_id"].tolist() == second.field2id_token["item_id"].tolist()


def test_texts_follow_the_internal_ids(settings):
    dataset = create_dataset(LiteConfig("SASRec", "tiny", config_dict=settings()))
    texts = dataset.item_text_columns(["title"])["title"]
    assert texts[0] == ""
    for item in range(1, dataset.item_num):
        raw = dataset.id2token("item_id", item)
        assert texts[item].endswith(f" {raw[1:]}")
    with pytest.raises(DataError, match=r"no column 'titel' \(item_text_fields\); it has"):
        dataset.item_text_columns(["titel"])


def test_no_time_field(tmp_path):
    settings = write(tmp_path, [("u", "a")], header="user_id:token\titem_id:token")
    with pytest.raises(DataError, match="no column 'timestamp' was read; sequences need it"):
        create_dataset(LiteConfig("SASRec", "d", config_dict=settings)).build()


def test_an_interaction_without_a_time_is_refused(tmp_path):
    settings = write(tmp_path, [("u", "a", 1), ("u", "b", "")])
    with pytest.raises(DataError, match="1 interactions have no timestamp"):
        create_dataset(LiteConfig("SASRec", "d", config_dict=settings))


def test_ml_100k_counts():
    dataset = create_dataset(LiteConfig("SASRec", "ml-100k"))
    assert (dataset.user_num - 1, dataset.item_num - 1, dataset.inter_num) == (943, 1682, 100000)


def test_nothing_of_window_length_is_stored(settings):
    dataset = create_dataset(LiteConfig("SASRec", "tiny", config_dict=settings()))
    train, *_ = dataset.build()
    sizes = [column.numel() for column in train.inter_feat.store.columns.values()]
    assert set(sizes) == {dataset.inter_num + 30}  # 30 first items are targets of no window


def test_frame_is_a_dataframe_until_it_is_split(settings):
    dataset = create_dataset(LiteConfig("SASRec", "tiny", config_dict=settings()))
    assert isinstance(dataset.inter_feat, pd.DataFrame)


# -- segments (train_strategy: sampling) -------------------------------------------------------


def segments_of(settings, **changes):
    config = LiteConfig(
        "SASRec", "tiny", config_dict=settings(train_strategy="sampling", **changes)
    )
    dataset = create_dataset(config)
    return data_preparation(config, dataset)[0]


def test_segments_follow_pods_rule(settings):
    """Start uniform in 0..n-2, end uniform in start+1..n-1, over 20,000 draws of one user."""
    loader = segments_of(settings)
    segments = loader._dataset.inter_feat
    n = segments.last_rows - segments.first_rows + 1
    user = int(np.argmin(n))
    count, expected = Counter(), {}
    for start in range(n[user] - 1):
        for end in range(start + 1, n[user]):
            expected[start, end] = 1 / (n[user] - 1) / (n[user] - 1 - start)
    draws = 20_000
    generator = torch.Generator().manual_seed(0)
    for _ in range(draws):
        segments.resample(generator)
        first = segments.first_rows[user]
        count[int(segments.begins[user] - first), int(segments.rows[user] - first)] += 1
    assert set(count) == set(expected)
    for key, share in expected.items():
        deviation = (share * (1 - share) / draws) ** 0.5
        assert abs(count[key] / draws - share) < 4.5 * deviation, key


def test_segments_end_before_the_last_two_items_and_are_cut(settings):
    loader = segments_of(settings, MAX_ITEM_LIST_LENGTH=5)
    segments = loader._dataset.inter_feat
    store = segments.store
    items, users = store.columns["item_id"], store.columns["user_id"]
    longest = 0
    for _ in range(40):
        for batch in loader:
            longest = max(longest, int(batch["item_length"].max()))
        ends = store.starts[users[segments.rows] + 1]  # first row of the next user
        assert (segments.rows <= ends - 3).all()
        assert (segments.begins < segments.rows).all()
        batch = segments.collate(slice(None))
        for row in range(len(segments)):
            length = int(batch["item_length"][row])
            assert length == min(segments.rows[row] - segments.begins[row], 5)
            end = segments.rows[row]
            assert torch.equal(batch["item_id_list"][row, :length], items[end - length : end])
            assert not batch["item_id_list"][row, length:].any()
            assert batch["item_id"][row] == items[end]
    assert longest == 5


def test_segments_differ_between_epochs_and_not_between_runs(settings):
    first, second = (segments_of(settings) for _ in range(2))
    epochs = [[batch["item_id_list"] for batch in first] for _ in range(2)]
    assert not all(torch.equal(a, b) for a, b in zip(*epochs, strict=True))
    again = [batch["item_id_list"] for batch in second]
    assert all(torch.equal(a, b) for a, b in zip(epochs[0], again, strict=True))


@pytest.mark.parametrize("strategy", ["all", "sampling", "prefix"])
def test_interactions_are_those_of_training(strategy, settings):
    """Whatever the strategy and the draw: every user's interactions but the last two."""
    changes = {"train_strategy": strategy, "rec_llm_causal": True}
    config = LiteConfig("LiteLLM4Rec", "tiny", config_dict=settings(**changes))
    train, *_ = data_preparation(config, create_dataset(config))
    store = train._dataset.inter_feat.store
    users, items = store.columns["user_id"].tolist(), store.columns["item_id"].tolist()
    left, expected = Counter(users), []
    for user, item in zip(users, items, strict=True):
        left[user] -= 1
        if left[user] >= 2:
            expected.append((user, item))
    for _ in range(2):
        found = train._dataset.inter_feat.interactions()
        assert list(zip(*(array.tolist() for array in found), strict=True)) == expected
        list(train)


@pytest.mark.parametrize("strategy", ["all", "sampling", "prefix"])
def test_target_items_are_all_but_the_first_of_each_training_sequence(strategy, settings):
    config = LiteConfig("ItemLM", "tiny", config_dict=settings(n_heads=2, train_strategy=strategy))
    train, *_ = data_preparation(config, create_dataset(config))
    frame = pd.read_csv(f"{config['data_path']}/tiny.inter", sep="\t")
    frame.columns = [name.split(":")[0] for name in frame]
    sequences = frame.sort_values("timestamp", kind="stable").groupby("user_id").item_id
    expected = Counter(item for items in sequences for item in list(items[1])[1:-2])
    found = train._dataset.id2token("item_id", train._dataset.inter_feat.target_items())
    assert Counter(found) == expected
