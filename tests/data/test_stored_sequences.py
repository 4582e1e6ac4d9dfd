"""Interactions from Parquet and their stored sequences: the batches are those of an atomic file."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_data import QUICK, write_tiny

from recbole_lite import (
    LiteConfig,
    Recommender,
    create_dataset,
    data_preparation,
    load_data_and_model,
    run,
)
from recbole_lite.data.dataset import SequencesMixin
from recbole_lite.data.sources.check_dataset import check
from recbole_lite.utils.errors import DataError, OtherIdsError

SETTINGS = {
    **QUICK,
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "train_strategy": "prefix",
    "loss_exclude_history": False,
    "shuffle": False,
}


def write_parquet(folder, frame, name="tiny"):
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    path = target / f"{name}.inter.parquet"
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), path, row_group_size=64)
    return path


@pytest.fixture
def rows(tmp_path):
    """Rows of the tiny data set, whose atomic files are in the folder atomic."""
    target = write_tiny(tmp_path / "atomic")
    frame = pd.read_csv(target / "tiny.inter", sep="\t")
    return frame.rename(columns=lambda name: name.split(":")[0])


def load(folder, name="tiny", trained=None, **settings):
    config = LiteConfig(
        "ItemLM", name, config_dict={**SETTINGS, "data_path": str(folder), **settings}
    )
    return config, create_dataset(config, trained)


def batches(folder, name="tiny", **settings):
    """All batches of the three parts as NumPy arrays, and the raw ids."""
    config, dataset = load(folder, name, **settings)
    tokens = [list(dataset.field2id_token[field]) for field in ("user_id", "item_id")]
    found = []
    for loader in data_preparation(config, dataset):
        for batch in loader:
            batch = batch[0] if isinstance(batch, tuple) else batch
            found.append({field: batch[field].numpy() for field in batch})
    return tokens, found


def assert_same(one, other):
    assert one[0] == other[0]
    assert len(one[1]) == len(other[1]) > 3
    for first, second in zip(one[1], other[1], strict=True):
        assert list(first) == list(second)
        for field in first:
            assert first[field].dtype == second[field].dtype
            np.testing.assert_array_equal(first[field], second[field])


def stores(folder, name="tiny"):
    return sorted(path.name for path in (folder / name / ".sequences").glob("[!.]*[!k]"))


@pytest.fixture
def reads(monkeypatch):
    """Counts how often the source is read and sorted."""
    calls = []
    original = SequencesMixin._sequence_store

    def counted(self):
        calls.append(self.dataset_name)
        return original(self)

    monkeypatch.setattr(SequencesMixin, "_sequence_store", counted)
    return calls


@pytest.mark.parametrize("filters", [{}, {"item_inter_num_interval": "[12,inf)"}])
def test_batches_are_those_of_the_atomic_file(tmp_path, rows, reads, filters):
    write_parquet(tmp_path, rows)
    wanted = batches(tmp_path / "atomic", **filters)
    reads.clear()
    for _ in range(2):  # written, then opened
        assert_same(batches(tmp_path, **filters), wanted)
    assert len(reads) == 1
    assert len(stores(tmp_path)) == 1


def test_settings_and_source_shape_the_store(tmp_path, rows, reads):
    path = write_parquet(tmp_path, rows)
    load(tmp_path)
    load(tmp_path, MAX_ITEM_LIST_LENGTH=3, train_batch_size=7)
    assert len(reads) == 1
    load(tmp_path, user_inter_num_interval="[7,inf)")
    assert len(reads) == 2
    write_parquet(tmp_path, rows[::-1])
    assert path.is_file()
    load(tmp_path)
    assert len(reads) == 3
    assert len(stores(tmp_path)) == 3


def test_damaged_and_unfinished_stores_are_not_read(tmp_path, rows, reads, caplog):
    write_parquet(tmp_path, rows)
    wanted = batches(tmp_path)
    (name,) = stores(tmp_path)
    folder = tmp_path / "tiny" / ".sequences" / name
    column = folder / "1.npy"
    column.write_bytes(column.read_bytes()[:-8])
    assert_same(batches(tmp_path), wanted)
    assert "damaged" in caplog.text
    folder.rename(folder.with_name(f".{name}.tmp"))  # as a kill leaves it
    assert_same(batches(tmp_path), wanted)
    assert len(reads) == 3
    assert not folder.with_name(f".{name}.tmp").exists()


def test_ids_beyond_32_bits_and_missing_columns(tmp_path, rows):
    numbered = pd.DataFrame(
        {
            "user_id": rows["user_id"].str[1:].astype(np.int64) + 2**40,
            "item_id": rows["item_id"].str[1:].astype(np.int64) + 2**33,
            "timestamp": rows["timestamp"],
        }
    )
    write_parquet(tmp_path, numbered)
    _, dataset = load(tmp_path)
    assert set(dataset.field2id_token["user_id"][1:]) == {str(2**40 + i) for i in range(30)}
    with pytest.raises(DataError, match=r"tiny.inter.parquet is checked by a run"):
        check("tiny", tmp_path)
    path = write_parquet(tmp_path, numbered.rename(columns={"item_id": "product"}))
    with pytest.raises(DataError, match=r"no column 'item_id' \(ITEM_ID_FIELD\).* product"):
        load(tmp_path)
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="no complete Parquet file"):
        load(tmp_path)
    (tmp_path / "tiny" / "tiny.inter").write_text("user_id:token\titem_id:token\n")
    with pytest.raises(DataError, match="remove one of the two"):
        load(tmp_path)


def test_checkpoint_of_other_ids_is_refused(tmp_path, rows):
    write_parquet(tmp_path, rows)
    _, dataset = load(tmp_path)
    trained = dataset.vocabulary
    _, again = load(tmp_path, trained=trained)
    assert again.vocabulary.sha256 == trained.sha256
    write_parquet(tmp_path, rows[rows["user_id"] != "u3"])
    with pytest.raises(OtherIdsError, match="1 missing"):
        load(tmp_path, trained=trained)
    write_parquet(tmp_path, rows[::-1])  # the same ids in another order: numbered as in training
    _, reordered = load(tmp_path, trained=trained)
    assert list(reordered.field2id_token["item_id"]) == list(again.field2id_token["item_id"])
    assert len(stores(tmp_path)) == 1


def test_a_run_has_the_figures_of_the_atomic_file(tmp_path, rows):
    write_parquet(tmp_path, rows)
    (tmp_path / "tiny" / "tiny.item").write_text(
        (tmp_path / "atomic" / "tiny" / "tiny.item").read_text()
    )
    folders = [tmp_path / "atomic", tmp_path, tmp_path]  # the last reads the store
    found = [
        run("ItemLM", "tiny", config_dict={**SETTINGS, "data_path": str(folder), "epochs": 1})
        for folder in folders
    ]
    assert found[0]["test_result"] == found[1]["test_result"] == found[2]["test_result"]
    loaded = load_data_and_model(found[1]["run_dir"])
    assert loaded[2]._stored is not None
    assert Recommender.load(found[1]["run_dir"]).recommend([["i1"]], 1)[0][0].title != ""
