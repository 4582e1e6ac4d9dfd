"""Runs on data frames, and recommenders that take and give the ids of frames."""

import uuid
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from tiny_data import QUICK

from recbole_lite import LiteConfig, Recommender, create_dataset, run
from recbole_lite.data.frames import read_frames
from recbole_lite.inference.history_inputs import OriginalIds, histories_of
from recbole_lite.inference.new_items import _records as item_rows
from recbole_lite.utils.errors import ConfigError, DataError, OtherIdsError, RequestError

N_ITEMS = 24


@pytest.fixture
def frames(data_path):
    """Interactions and items of the data set tiny, under names of another program."""
    inter = pd.read_csv(data_path / "tiny" / "tiny.inter", sep="\t")
    inter.columns = ["userId", "movieId", "stars", "ts"]
    item = pd.read_csv(data_path / "tiny" / "tiny.item", sep="\t")
    item.columns = ["movieId", "title", "year", "genre"]
    return inter, item


def as_dicts(frame):
    return frame.to_dict("records")


LIBRARIES = {
    "pandas": lambda frame: frame,
    "polars": pl.from_pandas,
    "lazy": lambda frame: pl.from_pandas(frame).lazy(),
    "pyarrow": lambda frame: pa.Table.from_pandas(frame),
    "dicts": as_dicts,
    "lists": lambda frame: frame.to_dict("list"),
}


def settings(**changes):
    return {**QUICK, "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, **changes}


def config_for(model="SASRec", **changes):
    return LiteConfig(model, "frames", config_dict=settings(**changes))


def dataset_of(interactions, items=None, **changes):
    config = config_for(**changes)
    return create_dataset(config, None, read_frames(config, interactions, items).tables)


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_library_gives_the_data_of_the_files(library, frames, data_path):
    convert = LIBRARIES[library]
    found = dataset_of(*map(convert, frames))
    config = LiteConfig("SASRec", "tiny", config_dict=settings(data_path=str(data_path)))
    expected = create_dataset(config)
    for field in ("user_id", "item_id"):
        assert found.field2id_token[field].tolist() == expected.field2id_token[field].tolist()
    pd.testing.assert_frame_equal(
        found.inter_feat.reset_index(drop=True),
        expected.inter_feat.reset_index(drop=True),
        check_dtype=False,
    )
    assert found.item_text_columns(["title", "genre"]) == expected.item_text_columns(
        ["title", "genre"]
    )


def test_a_run_on_frames_and_its_recommender(frames, capsys):
    inter, item = frames
    inter = inter.assign(movieId=inter["movieId"].str[1:].astype(int))
    item = item.assign(movieId=item["movieId"].str[1:].astype(int))
    result = run(
        model="SASRec",
        config_dict=settings(baselines=["Pop"], title_field="title", state="INFO"),
        interactions=inter,
        items=item,
    )
    assert result["dataset"] == "frames"
    assert result["data"]["interactions"] == len(inter)
    assert result["baselines"]["Pop"]["test_result"]
    assert Path(result["report"]).exists()
    log = " ".join(Path(result["log_file"]).read_text().split())
    assert "movieId item item_id:token" in log
    recommender = Recommender.load(result["run_dir"])
    (first,) = recommender.recommend([[1, 2, 3]], k=3)
    titles = dict(zip(item["movieId"], item["title"], strict=True))
    for found in first:
        assert type(found.id) is int
        assert found.title == titles[found.id]
    # A table of interactions gives one history for each user.
    several = inter[inter["userId"].isin(["u0", "u1"])]
    by_table = recommender.recommend(several, k=2)
    ordered = several.sort_values("ts", kind="stable")
    users = several["userId"].unique()
    lists = [ordered.loc[ordered["userId"] == user, "movieId"].tolist() for user in users]
    assert by_table == recommender.recommend(lists, k=2)
    # A packed folder still knows the type.
    recommender.save_pretrained("packed")
    packed = Recommender.load("packed").recommend([[1, 2, 3]], k=3)
    assert [one.id for one in packed[0]] == [one.id for one in first]
    # The same frames continue the run; others are refused.
    more = settings(epochs=3, title_field="title", resume=result["run_dir"])
    again = run(model="SASRec", config_dict=more, interactions=inter, items=item)
    assert again["epochs"] == 3
    fewer = inter[inter["movieId"] != 3]
    with pytest.raises(OtherIdsError, match="its weights belong to other ids than the data"):
        run(model="SASRec", config_dict=more, interactions=fewer, items=item)


@pytest.mark.parametrize("kind", ["tuple", "uuid"])
def test_ids_of_any_hashable_type_come_back(kind, frames, trained):
    make = {
        "tuple": lambda text: ("shop", int(text[1:])),
        "uuid": lambda text: uuid.uuid5(uuid.NAMESPACE_DNS, text),
    }[kind]
    inter, _ = frames
    ids = [make(text) for text in inter["movieId"]]
    table = {"userId": inter["userId"].tolist(), "movieId": ids, "ts": inter["ts"].tolist()}
    dataset = dataset_of(table)
    assert set(dataset.field2id_token["item_id"][1:]) == set(map(str, ids))
    original = OriginalIds(ids, None)
    assert original.original(str(ids[0])) == ids[0]
    assert original.as_texts([[ids[0], "other"], [ids[1]]]) == [
        [str(ids[0]), "other"],
        [str(ids[1])],
    ]


def test_a_recommender_with_given_ids(trained):
    ids = {f"i{number}": number for number in range(N_ITEMS)}

    class Id(str):  # what a program of the user's might have
        __slots__ = ()

    recommender = Recommender.load(trained("SASRec"), item_ids=[Id(text) for text in ids])
    (found,) = recommender.recommend([[Id("i1"), "i2"]], k=2)
    assert all(type(one.id) is Id for one in found)
    with pytest.raises(RequestError, match="item_ids: 1 and '1' are written alike"):
        Recommender.load(trained("SASRec"), item_ids=[1, "1"])


def test_names_of_the_settings_need_no_guess(frames):
    inter, item = frames
    inter = inter.rename(columns={"userId": "session_id", "movieId": "sku"})
    inter["user_id"] = "someone"
    found = dataset_of(inter, item.rename(columns={"movieId": "sku"}), USER_ID_FIELD="session_id",
                       ITEM_ID_FIELD="sku", TIME_FIELD="ts",
                       load_col={"inter": ["session_id", "sku", "ts"]})  # fmt: skip
    assert found.num("session_id") == 31
    assert found.num("sku") == N_ITEMS + 1


def test_other_columns_that_load_col_names(frames):
    inter, item = frames
    found = dataset_of(
        inter.assign(channel=["web", "app"] * (len(inter) // 2) + ["web"] * (len(inter) % 2)),
        item,
        load_col={"inter": ["user_id", "item_id", "timestamp", "rating", "channel"],
                  "item": ["item_id", "genre"]},
    )  # fmt: skip
    assert found.num("channel") == 3
    assert found.field2type["rating"].value == "float"
    assert "genre" in found.item_feat.columns


GOOD = {"user": ["a", "a"], "item": [1, 2], "ts": [1, 2]}


@pytest.mark.parametrize(
    "table, message",
    [
        ({"who": ["a"], "item": [1], "ts": [1]}, "interactions: no column looks like the user; "
         "columns are who, item, ts: say which with USER_ID_FIELD=COLUMN"),
        ({"user": ["a"], "item": [1]}, "interactions: no column looks like the time.*TIME_FIELD"),
        ({**GOOD, "item": [1, "1"]}, "'item' holds 1 and '1', which are written alike"),
        ({**GOOD, "item": [1, None]}, r"interactions: row 1: item: the id is missing"),
        ({**GOOD, "user": ["a", None]}, r"interactions: row 1: user: the id is missing"),
        ({**GOOD, "user": ["a", ""]}, r"interactions: row 1: user: the id is empty"),
        ({**GOOD, "item": [1.5, 2.0]}, "'item' holds numbers with a fraction, which are no ids"),
        ({**GOOD, "ts": ["1/2/2020", "3/4/2020"]}, "row 0: ts: .*convert the column to datetimes"),
        ({**GOOD, "ts": [1, np.nan]}, "row 1: ts: the time is"),
        (pd.DataFrame({"user": [], "item": [], "ts": []}), "interactions: the table has no rows"),
        ({"user": ["a"], "item": [1, 2]}, "interactions: neither a data frame of pandas"),
        (pd.DataFrame({0: ["a"], 1: [2]}), r"names of columns must be text, found \[0, 1\]"),
        ("ratings.csv", "interactions: neither a data frame of pandas"),
        ({**GOOD, "item": [[1], [2]]}, "no column looks like the item"),
    ],
)  # fmt: skip
def test_one_line_says_what_is_wrong(table, message):
    with pytest.raises(DataError, match=message) as caught:
        read_frames(config_for(), table)
    assert "\n" not in str(caught.value)


def test_items_that_repeat(frames):
    inter, item = frames
    with pytest.raises(DataError, match="items: row 24: movieId 'i0' stands in row 0 already"):
        read_frames(config_for(), inter, pd.concat([item, item[:1]]))


def test_frames_and_settings_that_contradict(frames, data_path):
    inter, item = frames
    with pytest.raises(ConfigError, match=r"the data set tiny exists in .*give dataset another"):
        run("SASRec", "tiny", config_dict=settings(data_path=str(data_path)), interactions=inter)
    with pytest.raises(ConfigError, match="give interactions, too"):
        run("SASRec", "tiny", items=item)
    with pytest.raises(ConfigError, match="nproc: frames cannot be passed to other processes"):
        run("SASRec", config_dict=settings(nproc=2, use_gpu=False), interactions=inter)
    with pytest.raises(DataError, match=r"there is no column 'usr' \(USER_ID_FIELD\)"):
        run("SASRec", config_dict=settings(USER_ID_FIELD="usr"), interactions=inter)


def test_general_models_need_no_times(frames):
    inter = frames[0].drop(columns="ts")
    random = {"eval_args": {"order": "RO", "split": {"RS": [0.8, 0.1, 0.1]}}}
    config = config_for("BPR", load_col=None, **random)
    assert "timestamp" not in read_frames(config, inter).tables["inter"].types


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow", "dicts", "lists"])
def test_histories_in_a_table(library):
    table = pd.DataFrame(
        {"user_id": ["b", "a", "b", "b"], "item_id": [3, 1, 2, 9], "timestamp": [5, 1, 4, 5]}
    )
    assert histories_of(LIBRARIES[library](table), {}) == [["2", "3", "9"], ["1"]]
    without = LIBRARIES[library](table.drop(columns="timestamp"))
    assert histories_of(without, {}) == [["3", "2", "9"], ["1"]]


@pytest.mark.parametrize("library", ["pandas", "polars", "lazy", "pyarrow", "lists"])
def test_items_to_add_in_a_table(library):
    rows = [{"id": 7, "text": "golden eye"}, {"id": 8, "text": "heat"}]
    assert item_rows(LIBRARIES[library](pd.DataFrame(rows))) == rows


def test_a_table_of_something_else_is_no_history():
    with pytest.raises(RequestError, match="histories: no column looks like the user"):
        histories_of(pd.DataFrame({"x": [1]}), {})
