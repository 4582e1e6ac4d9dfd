"""Settings that name columns and files: wrong ones get one line before the training."""

import pytest

from recbole_lite import LiteConfig, create_dataset, run
from recbole_lite.utils.errors import ConfigError, DataError

INTER = ["user_id", "item_id", "rating", "timestamp"]
LOADED = {"inter": INTER, "item": ["item_id", "year", "genre"]}


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"load_col": {}}, "load_col has no 'inter'"),
        ({"load_col": {"item": ["item_id"]}}, "load_col has no 'inter'"),
        (
            {"load_col": {**LOADED, "items": ["x"]}},
            "'items' is no file of a data set",
        ),
        ({"load_col": {**LOADED, "item": None}}, "load_col: item must be a list of columns"),
        ({"load_col": {"inter": "user_id"}}, "load_col: inter must be a list of columns"),
        ({"unload_col": ["rating"]}, r"unload_col must be like \{inter:"),
        (
            {"load_col": LOADED, "unload_col": {"inter": ["rating"]}},
            r"load_col and unload_col both name columns of \.inter",
        ),
        ({"seq_len": 5}, r"seq_len must be like \{title: 10\}"),
        ({"threshold": {"ratings": 3}}, "no column 'ratings' was read; did you mean rating"),
        ({"threshold": 3}, r"threshold must be like \{rating: 3\}, found 3"),
        ({"threshold": {"rating": 3, "timestamp": 3}}, "threshold must name one column"),
        (
            {"val_interval": {"rating": "[3,inf"}},
            r"val_interval must be like \{rating",
        ),
        ({"val_interval": {"foo": "[3,inf)"}}, "val_interval: no column 'foo' was read"),
        ({"val_interval": {"rating": "[9,inf)"}}, "leaves no interaction of tiny"),
        ({"normalize_field": "rating"}, "normalize_field must be a list of columns"),
        ({"alias_of_user_id": ["foo"]}, "alias_of_user_id: no column 'foo' was read"),
        ({"discretization": {"rating": 5}}, r"discretization must be like \{price"),
    ],
)
def test_one_line_says_what_to_write(settings, message, quick):
    config = LiteConfig("SASRec", "tiny", config_dict={**quick(), "load_col": LOADED, **settings})
    with pytest.raises(ConfigError, match=message) as caught:
        create_dataset(config)
    assert "\n" not in str(caught.value)


TYPES = {"user_id": "token", "item_id": "token", "rating": "float", "timestamp": "float"}


def write_inter(folder, types=TYPES, rows=None) -> dict:
    """Data set "typed" of 3 users with 12 items each, in order of time."""
    rows = rows or [f"u{u}\ti{k:02d}\t{k % 5}\t{k}" for u in range(3) for k in range(1, 13)]
    (folder / "typed").mkdir()
    header = "\t".join(f"{name}:{kind}" for name, kind in types.items())
    (folder / "typed" / "typed.inter").write_text("\n".join([header, *rows]) + "\n")
    return {"data_path": str(folder), "load_col": {"inter": list(types)}}


@pytest.mark.parametrize(
    "types, settings, message",
    [
        ({"timestamp": "token"}, {}, "'timestamp' has type token, but TIME_FIELD needs float"),
        ({"timestamp": "float_seq"}, {}, "'timestamp' has type float_seq, but TIME_FIELD needs"),
        ({"user_id": "float"}, {}, "'user_id' has type float, but USER_ID_FIELD needs token"),
        ({"item_id": "token_seq"}, {}, "'item_id' has type token_seq, but ITEM_ID_FIELD needs"),
        ({"rating": "token"}, {}, "'rating' has type token, but RATING_FIELD needs float"),
        (
            {"rating": "token"},
            {"RATING_FIELD": "stars", "threshold": {"rating": 3}},
            "'rating' has type token, but threshold needs float",
        ),
        (
            {"rating": "token"},
            {"RATING_FIELD": "stars", "val_interval": {"rating": "[3,inf)"}},
            "'rating' has type token, but val_interval needs float",
        ),
        (
            {"rating": "token_seq"},
            {"RATING_FIELD": "stars", "numerical_features": ["rating"]},
            "'rating' has type token_seq, but numerical_features needs float",
        ),
    ],
)
def test_a_type_that_decides_order_or_value_is_the_right_one(
    tmp_path, quick, types, settings, message
):
    settings = quick(**write_inter(tmp_path, TYPES | types), **settings)
    with pytest.raises(DataError, match=message) as caught:
        create_dataset(LiteConfig("SASRec", "typed", config_dict=settings))
    assert caught.value.line == 1
    assert "in the header" in str(caught.value)


def test_times_are_sorted_as_numbers(tmp_path, quick):
    """Fault F5: as tokens they were sorted as text: 1, 10, 11, 12, 2."""
    config = LiteConfig("SASRec", "typed", config_dict=quick(**write_inter(tmp_path)))
    dataset = create_dataset(config)
    last = dataset.build()[2][0]
    read = dataset.id2token("item_id", last["item_id_list"][0].numpy())
    assert read.tolist()[-3:] == ["i09", "i10", "i11"]
    assert dataset.id2token("item_id", last["item_id"].item()) == "i12"


def test_an_empty_column_that_a_run_needs(tmp_path, quick):
    rows = [f"u{u}\ti{k}\t\t{k}" for u in range(3) for k in range(5)]
    settings = quick(**write_inter(tmp_path, rows=rows))
    with pytest.raises(DataError, match="'rating' is empty in every row, but RATING_FIELD names"):
        create_dataset(LiteConfig("SASRec", "typed", config_dict=settings))
    # Nothing asks for its values.
    create_dataset(LiteConfig("SASRec", "typed", config_dict={**settings, "RATING_FIELD": "x"}))


@pytest.mark.parametrize(
    "model, settings, message",
    [
        ("FDSA", {"selected_features": ["foo"]}, "selected_features: no column 'foo' was read"),
        ("FDSA", {"selected_features": "genre"}, "selected_features must be a list of columns"),
        ("FDSA", {"selected_features": []}, "name columns of type token or token_seq"),
        ("SASRecF", {"selected_features": ["rating"]}, "name columns of type token or token_seq"),
        ("S3Rec", {"item_attribute": "rating"}, "name columns of type token or token_seq"),
    ],
)
def test_features_of_items_are_columns_that_were_read(model, settings, message, config_for):
    with pytest.raises(ConfigError, match=message):
        create_dataset(config_for(model, **settings))


def test_features_that_a_model_does_not_read_are_not_its_business(config_for):
    create_dataset(config_for("SASRec", selected_features=["foo"], item_attribute="foo"))


def test_unload_col_alone_reads_all_other_columns(quick):
    settings = quick(unload_col={"inter": ["rating"], "item": ["title"]})
    del settings["load_col"]
    config = LiteConfig("SASRec", "tiny", config_dict=settings)
    assert set(create_dataset(config).field2type) == {
        "user_id", "item_id", "timestamp", "year", "genre",
    }  # fmt: skip


@pytest.mark.parametrize("written", ["\t", r"\t"])
def test_a_tab_as_a_shell_hands_it_over(written, quick):
    given = [f"--field_separator={written}"]
    config = LiteConfig("Pop", "tiny", config_dict=quick(), overrides=given)
    assert create_dataset(config).inter_num > 0


def test_the_text_of_files_with_spaces_between_the_columns(quick, data_path):
    expected = create_dataset(LiteConfig("SASRec", "tiny", config_dict=quick())).item_text_columns()
    for path in (data_path / "tiny").iterdir():
        path.write_text(path.read_text().replace(" ", ",").replace("\t", " "))
    settings = quick(field_separator=" ", seq_separator=",")
    found = create_dataset(LiteConfig("SASRec", "tiny", config_dict=settings)).item_text_columns()
    assert found == {
        field: [text.replace(" ", ",") for text in texts] for field, texts in expected.items()
    }


def test_one_name_in_two_files(quick, data_path):
    (data_path / "tiny" / "tiny.user").write_text("user_id:token\tyear:token\nu1\t1990\n")
    config = LiteConfig("SASRec", "tiny", config_dict=quick(load_col=None))
    with pytest.raises(DataError, match=r"tiny\.item, line 1: column 'year' is in \.user too"):
        create_dataset(config)


def test_vectors_are_no_text(quick, data_path):
    path = data_path / "tiny" / "tiny.item"
    head, *rows = path.read_text().splitlines()
    lines = [f"{head}\temb:float_seq", *(f"{row}\t0.5 1" for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    dataset = create_dataset(LiteConfig("SASRec", "tiny", config_dict=quick()))
    assert list(dataset.item_text_columns()) == ["title", "year", "genre"]
    with pytest.raises(DataError, match=r"column 'emb' has type float_seq.*item_text_fields"):
        run("LiteLLM4Rec", "tiny", config_dict=quick(item_text_fields=["title", "emb"]))


def test_a_side_file_that_is_not_there(config_for):
    with pytest.raises(DataError, match=r"tiny\.foo: additional_feat_suffix names this file"):
        create_dataset(config_for("SASRec", additional_feat_suffix="foo"))


@pytest.fixture
def without_times(data_path):
    path = data_path / "tiny" / "tiny.inter"
    rows = [line.split("\t")[:2] for line in path.read_text().splitlines()]
    path.write_text("".join("\t".join(row) + "\n" for row in rows))


@pytest.mark.parametrize("model", ["Pop", "BPR", "SASRec"])
def test_without_times_the_flag_that_helps_is_named(model, quick, without_times):
    settings = quick(load_col=None, selected_features=None)
    with pytest.raises(DataError, match=r'no column .timestamp. .*--eval_args="\{order: RO\}"'):
        run(model, "tiny", config_dict=settings)
    if model != "SASRec":
        result = run(model, "tiny", config_dict=settings, overrides=["--eval_args={order: RO}"])
        assert result["test_result"]["recall@5"] >= 0


def test_a_random_order_is_not_the_order_of_time(config_for):
    def targets(**args):
        config = config_for("BPR", eval_args=args)
        return create_dataset(config).build()[2].inter_feat["timestamp"].sort().values

    assert len(targets(order="RO")) == len(targets(order="TO")) == 30
    assert not (targets(order="RO") == targets(order="TO")).all()
