"""Precomputed item vectors: every format, bad input, and what becomes of them in a run."""

import json
import logging
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from recbole_lite import LiteConfig, Recommender, create_dataset, load_data_and_model, run
from recbole_lite.cli.main import main
from recbole_lite.experiments.ablate import AblationOptions, ablate
from recbole_lite.experiments.tune.encode_items import prepare
from recbole_lite.experiments.tune.space import Parameter, Space
from recbole_lite.experiments.tune.sweep_spec import check_space, make_spec
from recbole_lite.text import vector_files
from recbole_lite.text.item_vectors import load_item_vectors
from recbole_lite.utils.errors import CheckpointError, ConfigError, RecboleLiteError, RequestError

# Three items of the data in an order of their own, and one that is not in the data.
IDS = ["007", "x", "b", "a"]
ROWS = np.array([[1, 2], [9, 9], [0.25, -4], [-0.5, 3]])
# By internal id: padding, a, b, 007.
EXPECTED = [[0, 0], [-0.5, 3], [0.25, -4], [1, 2]]


class Settings(dict):
    def __missing__(self, key):
        return None


@pytest.fixture
def load(tmp_path):
    """Load ``item_vectors`` for the items a, b, 007."""

    def read(path, ids=("a", "b", "007"), **settings):
        dataset = SimpleNamespace(
            iid_field="item_id", field2id_token={"item_id": np.array(["[PAD]", *ids])},
            dataset_path=str(tmp_path), dataset_name="tiny",
            _format={"separator": "\t", "encoding": "utf-8"},
        )  # fmt: skip
        config = Settings(item_vectors=str(path), seq_separator=" ", dataset="tiny", **settings)
        return load_item_vectors(config, dataset)

    return read


def message(load, path, kind=RecboleLiteError, **settings) -> str:
    with pytest.raises(kind) as error:
        load(path, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


# -- formats ----------------------------------------------------------------------------------


def npy(folder, dtype=np.float32):
    np.save(folder / "v.npy", ROWS.astype(dtype))
    (folder / "v.ids.txt").write_text("\n".join(IDS) + "\n")
    return folder / "v.npy"


def npy_with_npy_ids(folder):
    np.save(folder / "v.npy", ROWS)
    np.save(folder / "v.ids.npy", np.array([text.encode() for text in IDS]))
    return folder / "v.npy"


def npy_structured(folder):
    rows = np.array(
        list(zip(IDS, ROWS, strict=True)), dtype=[("item_id", "U8"), ("vector", "f8", 2)]
    )
    np.save(folder / "v.npy", rows)
    return folder / "v.npy"


def npz(folder):
    np.savez_compressed(folder / "v.npz", ids=np.array(IDS), vectors=ROWS)
    return folder / "v.npz"


def safetensors_metadata(folder):
    rows = torch.from_numpy(ROWS).bfloat16()  # these numbers are exact in it
    save_torch({"emb": rows}, folder / "v.safetensors", {"ids": json.dumps(IDS)})
    return folder / "v.safetensors"


def safetensors_beside(folder):
    save_file({"vectors": ROWS, "scale": np.ones(1)}, folder / "v.safetensors")
    (folder / "v.ids.txt").write_text("\n".join(IDS))
    return folder / "v.safetensors"


def parquet_lists(folder, kind=None):
    kind = kind or pa.list_(pa.float16())
    rows = pa.array([row.astype(np.float16) for row in ROWS], pa.list_(pa.float16())).cast(kind)
    table = pa.table({"title": ["t"] * 4, "item_id": IDS, "emb": rows})
    pq.write_table(table, folder / "v.parquet")
    return folder / "v.parquet"


def parquet_fixed_lists(folder):
    return parquet_lists(folder, pa.list_(pa.float32(), 2))


def parquet_of_pandas(folder):
    frame = pd.DataFrame({"id": pd.Categorical(IDS), "embedding": list(ROWS)})
    frame.to_parquet(folder / "v.parquet")
    return folder / "v.parquet"


def parquet_columns(folder):
    frame = pd.DataFrame({"d0": ROWS[:, 0], "item_id": IDS, "d1": ROWS[:, 1]})
    frame.to_parquet(folder / "v.parquet", index=False)
    return folder / "v.parquet"


def csv_of_json(folder):
    cells = [json.dumps(row.tolist()) for row in ROWS]
    frame = pd.DataFrame({"item_id": IDS, "title": 'a "b",\nc', "embedding": cells})
    frame.to_csv(folder / "v.csv", index=False)
    return folder / "v.csv"


def csv_columns(folder):
    (folder / "v.csv").write_text("item_id,x,y\n007,1,2\nx,9,9\nb,0.25,-4e0\na,-.5,3\n")
    return folder / "v.csv"


def column(folder):
    """Of .item, read although load_col does not name it."""
    lines = [f"{i}\t{row[0]} {row[1]}" for i, row in zip(IDS, ROWS, strict=True)]
    text = "\n".join(["item_id:token\temb:float_seq", *lines, "c\t", ""])
    (folder / "tiny.item").write_text(text)
    return "emb"


FORMATS = [npy, npy_with_npy_ids, npy_structured, npz, safetensors_metadata, safetensors_beside,
           parquet_lists, parquet_fixed_lists, parquet_of_pandas, parquet_columns, csv_of_json,
           csv_columns, column]  # fmt: skip


@pytest.mark.parametrize("block", [8192, 1])
@pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__)
def test_formats_are_matched_by_raw_ids(write, block, load, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(vector_files, "BLOCK_ROWS", block)
    found = load(write(tmp_path))
    assert found.vectors.dtype == torch.float32
    assert found.vectors.tolist() == EXPECTED
    assert found.has_text.tolist() == [False, True, True, True]
    (line,) = [record.getMessage() for record in caplog.records if record.name == "root"]
    assert "3 of 3 items, 2 dimensions" in line
    assert line.endswith("; 1 vectors are of no item of the data")


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4"])
def test_numbers_of_other_types(dtype, load, tmp_path):
    assert load(npy(tmp_path, dtype)).vectors.tolist() == EXPECTED


def test_whole_numbers_as_ids_and_as_vectors(load, tmp_path):
    np.savez(tmp_path / "v.npz", ids=np.array([12, 3]), embeddings=np.array([[1, 2], [3, 4]]))
    found = load(tmp_path / "v.npz", ids=["3", "12"])
    assert found.vectors.tolist() == [[0, 0], [3, 4], [1, 2]]


def test_ids_in_a_file_of_a_name_of_its_own_come_first(load, tmp_path):
    npz(tmp_path)
    (tmp_path / "order.txt").write_text("b\n007\na\nx")
    found = load(tmp_path / "v.npz", item_vector_ids=str(tmp_path / "order.txt"))
    assert found.vectors.tolist() == [[0, 0], [0.25, -4], [1, 2], [9, 9]]


def test_types_of_a_later_block_of_csv(load, tmp_path, monkeypatch):
    """Whole numbers first, then others; ids that are numbers first."""
    monkeypatch.setattr(vector_files, "BLOCK_BYTES", 32)
    lines = [f"{i},{i},1" for i in range(40)]
    (tmp_path / "v.csv").write_text("\n".join(["item_id,x,y", *lines, "a,.5,-1.5"]))
    found = load(tmp_path / "v.csv", ids=["7", "a"])
    assert found.vectors.tolist() == [[0, 0], [7, 1], [0.5, -1.5]]
    (tmp_path / "v.csv").write_text("\n".join(["item_id,x,y", *lines, "a,red,1"]))
    assert "conversion error to double: invalid value 'red'" in message(load, tmp_path / "v.csv")


def test_a_column_of_a_side_file_with_its_own_id_column(load, tmp_path):
    (tmp_path / "tiny.item").write_text("item_id:token\ttitle:token\na\tx\n")
    (tmp_path / "tiny.clip").write_text("iid:token\tpic:float_seq\nb\t1 2\na\t3 4\n007\t5 6\n")
    found = load("pic", additional_feat_suffix=["clip"], alias_of_item_id=["iid"])
    assert found.vectors.tolist() == [[0, 0], [3, 4], [1, 2], [5, 6]]


# -- what is wrong ----------------------------------------------------------------------------


def test_items_without_a_vector_and_vectors_of_zeros_are_counted(load, tmp_path, caplog):
    path = tmp_path / "v.csv"
    path.write_text('item_id,embedding\na,"[0, 0]"\nb,\nc,"[1, 2]"\n')
    found = load(path, ids=["a", "b", "c", "d"])
    assert found.has_text.tolist() == [False, True, False, True, False]
    assert found.vectors[2].tolist() == [0, 0]
    missing, zeros = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert missing == (
        f"{path}: 2 of 4 items (50.0%) have no vector (item ids: b, d); each gets a learned vector "
        "instead"
    )
    assert zeros.startswith(f"{path}: the vectors of 1 items are zeros (item ids: a)")


def test_ids_of_another_kind(load, tmp_path):
    np.savez(tmp_path / "v.npz", ids=np.arange(1, 6), vectors=np.ones((5, 2)))
    found = message(load, tmp_path / "v.npz", ConfigError)
    assert "none of the 5 ids" in found
    assert "(in it: 1, 2, 3; items: a, b, 007)" in found


def arrays(**values):
    return lambda path: np.savez(path.with_suffix(".npz"), **values)


def text(content, suffix=".csv"):
    return lambda path: path.with_suffix(suffix).write_text(content)


def parquet(**columns):
    return lambda path: pq.write_table(pa.table(columns), path.with_suffix(".parquet"))


AB = np.array(["a", "b"])
BAD = {
    "no ids": (lambda path: np.save(path.with_suffix(".npy"), ROWS), "order of rows is no key"),
    "fewer ids": (arrays(ids=AB, vectors=ROWS), "there are 4 vectors and 2 item ids"),
    "no matrix": (arrays(ids=AB, vectors=ROWS[0]), "must be a matrix of numbers"),
    "texts": (arrays(ids=AB, vectors=np.array([["1"], ["2"]])), "must be a matrix of numbers"),
    "no columns": (arrays(ids=AB, vectors=np.ones((2, 0))), "must be a matrix of numbers"),
    "float ids": (arrays(ids=np.ones(4), vectors=ROWS), "texts or whole numbers, found float64"),
    "which": (arrays(ids=AB, x=ROWS, y=ROWS), "the file holds ids, x, y; name the array"),
    "objects": (arrays(ids=AB.astype(object), vectors=ROWS[:2]), "ids.astype(str)"),
    "pickle": (
        lambda path: np.save(path.with_suffix(".npy"), np.array([{}], object), allow_pickle=True),
        "Pickled objects are never loaded",
    ),
    "twice": (arrays(ids=np.array(["a", "b", "a"]), vectors=ROWS[:3]), "item 'a' has 2 vectors"),
    "NaN": (arrays(ids=AB, vectors=np.array([[1.0], [np.nan]])), "item 'b' has an empty cell, NaN"),
    "too large": (arrays(ids=AB, vectors=np.array([[1e300], [1]])), "the vector of item 'a'"),
    "garbage": (text("no zip", ".npz"), "cannot be read"),
    "cut": (text("\x93NUMPY", ".npy"), "cannot be read"),
    "no tensors": (text("{}", ".safetensors"), "cannot be read"),
    "no parquet": (text("PAR1", ".parquet"), "cannot be read"),
    "empty": (text(""), "cannot be read"),
    "ragged CSV": (text("item_id,x\na,1,2\n"), "cannot be read"),
    "no id column": (text("name,x\na,1\n"), "no column of item ids among 'name', 'x'; name one"),
    "same columns": (text("item_id,x,x\na,1,2\n"), "several columns of one name"),
    "words": (text("item_id,x,y\na,1,red\n"), "'y': not numbers"),
    "a word": (text("item_id,x\na,1\nb,red\n"), "'x': not numbers"),
    "empty cell": (text("item_id,x,y\nb,1,2\na,1,\n"), "item 'a' has an empty cell"),
    "no id": (text("item_id,x,y\n,1,2\n"), "none of the 1 ids"),
    "lengths": (
        text('item_id,embedding\na,"[1, 2]"\nb,"[1]"\n'),
        "item 'a' has 2 numbers, item 'b' has 1",
    ),
    "lengths of blocks": (
        parquet(item_id=["x"] * 8192 + ["a"], v=[[1.0]] * 8192 + [[1.0, 2.0]]),
        "item 'x' has 1 numbers, item 'a' has 2",
    ),
    "NumPy's text": (
        text('item_id,embedding\na,"[0.1 0.2]"\n'),
        "item 'a': '[0.1 0.2]' is no list of numbers in JSON",
    ),
    "words in JSON": (text('item_id,embedding\na,"[""x""]"\n'), "item 'a': '[\"x\"]' is no list"),
    "empty list": (text('item_id,embedding\na,"[]"\n'), "no lists of numbers"),
    "lists of texts": (parquet(item_id=["a"], v=[["x"]]), "no lists of numbers"),
    "two lists": (parquet(item_id=["a"], v=[[1.0]], w=[[1.0]]), "'v', 'w': not numbers"),
    "null id": (parquet(item_id=["a", None], v=[[1.0], [2.0]]), "1 rows have no item id"),
    "float id": (parquet(item_id=[1.0], v=[[1.0]]), "texts or whole numbers, found double"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_one_line(case, load, tmp_path):
    write, expected = BAD[case]
    write(tmp_path / "v")
    (path,) = tmp_path.glob("v.*")
    found = message(load, path)
    assert expected in found
    assert str(path) in found


def test_names_that_are_nothing(load, tmp_path):
    assert "there is no such file" in message(load, tmp_path / "none.parquet")
    column(tmp_path)
    found = message(load, "embb", ConfigError)
    assert found.endswith("(emb); did you mean emb?")
    assert "no file of vectors (.npy, .npz, " in message(load, tmp_path / "v.pt", ConfigError)
    path = parquet_columns(tmp_path)
    assert "leave item_vector_ids out" in message(load, path, item_vector_ids="ids.txt")
    assert "no such file" in message(load, npy(tmp_path), item_vector_ids=str(tmp_path / "no.npy"))
    assert "needs item_vectors" in message(load, "", ConfigError, item_vector_ids="ids.txt")


# -- in a run ---------------------------------------------------------------------------------


@pytest.fixture
def own(quick, tmp_path):
    """``own(n=24, d=16, seed=0)`` -> path of vectors of the items i0 ... of the data set tiny."""

    def write(n=24, d=16, seed=0, name="own.npz"):
        vectors = np.random.default_rng(seed).normal(size=(n, d))
        np.savez(tmp_path / name, ids=np.array([f"i{i}" for i in range(n)]), vectors=vectors)
        return str(tmp_path / name)

    return write


def losses(result):
    return [entry["train_loss"] for entry in result["history"]]


MODELS = {
    "lite": ("LiteLLM4Rec", {}),
    "lite-embeddings": (
        "LiteLLM4Rec",
        {"item_llm_training": "embeddings", "item_vector_norm": "standardize"},
    ),
    "itemlm-text": ("ItemLM", {"item_init": "text", "n_heads": 2}),
    "itemlm-both": ("ItemLM", {"item_init": "text_plus_id", "n_heads": 2, "item_adapter": "pca"}),
}


@pytest.mark.parametrize("kind", MODELS)
def test_the_item_llms_own_vectors_give_the_same_run(kind, quick, tmp_path):
    model, changes = MODELS[kind]
    encoded = run(model, "tiny", config_dict=quick(**changes), saved=False)
    config = LiteConfig(model, "tiny", config_dict=quick(**changes))
    dataset = create_dataset(config)
    items = load_item_vectors(config, dataset)
    assert items.from_cache
    order = np.random.default_rng(1).permutation(np.arange(1, 25))
    ids = dataset.id2token("item_id", order)
    frame = pd.DataFrame({"item_id": ids, "embedding": list(items.vectors[order].numpy())})
    frame.to_parquet(tmp_path / "v.parquet")
    (tmp_path / "data/tiny/tiny.item").rename(tmp_path / "tiny.item")  # no text is needed
    changes = {**changes, "item_vectors": str(tmp_path / "v.parquet"), "item_llm": "none/such"}
    changes |= {"title_field": None, "load_col": {"inter": "*"}, "selected_features": []}
    given = run(model, "tiny", config_dict=quick(**changes), saved=False)
    assert losses(given) == losses(encoded)
    assert given["test_result"] == encoded["test_result"]


def test_a_run_without_item_file_recommends_by_ids(quick, own, tmp_path):
    (tmp_path / "data/tiny/tiny.item").unlink()
    changes = {"item_vectors": own(n=22, d=5), "title_field": None, "load_col": {"inter": "*"}}
    folder = run("LiteLLM4Rec", "tiny", config_dict=quick(**changes, sample_users=1))["run_dir"]
    recommender = Recommender.load(folder, runtime="torch")
    assert recommender.catalogue.titles[1:] == recommender.catalogue.ids[1:]
    (row,) = recommender.recommend([["i3", "i4"]], k=3)
    assert len(row) == 3
    out = tmp_path / "packed"
    assert main(["pack", f"--model={folder}", f"--out={out}"]) == 0
    assert "Precomputed item vectors: `own.npz`" in (out / "README.md").read_text()
    settings = json.loads((out / "config.json").read_text())["settings"]
    assert settings["item_vectors"] == "own.npz"
    (again,) = Recommender.from_pretrained(str(out)).recommend([["i3", "i4"]], k=3)
    assert [r.id for r in again] == [r.id for r in row]


@pytest.mark.parametrize("norm", ["none", "unit", "standardize"])
@pytest.mark.parametrize("adapter", ["linear", "pca"])
def test_new_items_with_vectors(norm, adapter, quick, own, tmp_path):
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    changes = {"item_vector_norm": norm, "item_adapter": adapter, "rec_llm_config": sizes}
    path = own()
    result = run("LiteLLM4Rec", "tiny", config_dict=quick(item_vectors=path, epochs=1, **changes))
    (tmp_path / "own.npz").rename(tmp_path / "moved.npz")  # a trained model does not read it
    recommender = Recommender.load(result["run_dir"])
    ids = recommender.catalogue.ids
    vectors = np.load(tmp_path / "moved.npz")["vectors"]
    known = [vectors[int(ids[k][1:])] for k in (4, 9)]
    assert recommender.add_items([{"id": "x"}, "toy"], vectors=known) == ["x", "new-1"]
    table = recommender.model.item_tower.vectors
    torch.testing.assert_close(table[25:], table[[4, 9]], atol=1e-5, rtol=1e-5)
    assert recommender.catalogue.titles[25:] == ["x", "toy"]
    for items, given, expected in (
        (["toy"], None, "need vectors from the same source"),
        (["toy"], np.ones((1, 3)), r"1 rows .* of 16 finite numbers"),
        (["toy"], [["a"] * 16], "finite numbers"),
        (["toy"], np.full((1, 16), np.inf), "finite numbers"),
    ):
        with pytest.raises(RequestError, match=expected):
            recommender.add_items(items, given)


def test_vectors_where_the_model_has_none_to_compare_them_with(trained, own):
    with pytest.raises(RequestError, match="come from its Item LLM"):
        Recommender.load(trained("LiteLLM4Rec")).add_items(["toy"], np.ones((1, 16)))
    changes = {"item_vectors": own(), "item_llm_training": "embeddings"}
    with pytest.raises(RequestError, match="train with frozen"):
        Recommender.load(trained("LiteLLM4Rec", **changes)).add_items(["toy"], np.ones((1, 16)))


def test_a_changed_file_is_not_resumed_evaluated_or_started_from(quick, own, tmp_path):
    settings = quick(item_vectors=own(), epochs=3, checkpoint_dir="saved")
    folder = run("LiteLLM4Rec", "tiny", config_dict={**settings, "last_epoch": 1})["run_dir"]
    whole = shutil.copy(tmp_path / "own.npz", tmp_path / "kept.npz")
    own(seed=1)
    for changes in ({"resume": folder}, {"init_from": folder}):
        with pytest.raises(CheckpointError, match="began with other item vectors"):
            run("LiteLLM4Rec", "tiny", config_dict={**settings, **changes})
    with pytest.raises(CheckpointError, match="began with other item vectors"):
        load_data_and_model(folder)
    shutil.move(whole, tmp_path / "own.npz")
    load_data_and_model(folder)
    resumed = run("LiteLLM4Rec", "tiny", config_dict={**settings, "resume": folder})
    assert len(resumed["history"]) == 3
    with pytest.raises(CheckpointError, match="began with other item vectors"):
        run("LiteLLM4Rec", "tiny", config_dict={**quick(), "init_from": folder})


def test_settings_that_do_not_go_together(quick, own, caplog):
    path = own()
    with pytest.raises(ConfigError, match="item_llm_training: full"):
        LiteConfig(
            "LiteLLM4Rec", "tiny",
            config_dict=quick(item_vectors=path, item_llm_training="full"),
        )  # fmt: skip
    run("ItemLM", "tiny", config_dict=quick(item_vectors=path, n_heads=2, epochs=1), saved=False)
    assert "item_vectors is not read with item_init: random" in caplog.text


def test_rows_of_an_ablation_that_the_vectors_would_replace(quick, own, tmp_path):
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "other.yaml").write_text("item_llm_pooling: cls\n")
    options = AblationOptions(rows=["other"], rows_folder=rows)
    with pytest.raises(ConfigError, match="row other: item_llm_pooling has no effect"):
        ablate("LiteLLM4Rec", "tiny", config_dict=quick(item_vectors=own()), options=options)


def test_sweeps_over_files_and_over_what_a_file_replaces(quick, own, config_for, caplog):
    good, bad = own(), own(n=3, name="bad.npz")
    np.savez(bad, ids=np.array(["z"]), vectors=np.ones((1, 2)))

    def space(key, *values):
        return Space((Parameter(key, "choice", values, "space.yaml, line 1"),), "space.yaml")

    def configure(params):
        return config_for("LiteLLM4Rec", **params)

    prepare(space("item_vectors", good, bad), configure)
    assert "none of the 1 ids" in caplog.text
    with pytest.raises(ConfigError, match="none of the 1 ids"):
        prepare(space("item_vectors", bad), configure)
    pooling = space("item_llm_pooling", "mean", "cls")
    with pytest.raises(ConfigError, match="item_llm_pooling has no effect, because item_vectors"):
        check_space(make_spec(configure({"item_vectors": good}), pooling, {}))
    check_space(make_spec(configure({}), pooling, {}))
    prepare(space("learning_rate", 0.1), lambda params: config_for("ItemLM", item_llm="none/such"))


# -- the vectors of a run ---------------------------------------------------------------------


@pytest.mark.parametrize("model", ["SASRec", "BERT4Rec", "GRU4Rec", "LiteLLM4Rec"])
def test_item_embeddings_of_a_run(model, trained, load):
    folder = trained(model)
    ids = Recommender.load(folder).catalogue.ids
    found = load(folder, ids=[ids[4], ids[9]])
    trained_model = Recommender.load(folder, runtime="torch").model
    table = (
        trained_model.item_tower.vectors
        if model == "LiteLLM4Rec"
        else trained_model.item_embedding.weight
    )
    assert torch.equal(found.vectors[1:], table[[4, 9]].detach())


def test_a_run_on_the_embeddings_of_another(quick, trained, data_path):
    folder = trained("SASRec")
    result = run("LiteLLM4Rec", "tiny", config_dict=quick(item_vectors=str(folder)))
    recommender = Recommender.load(result["run_dir"], runtime="torch")
    sasrec = Recommender.load(folder, runtime="torch")
    places = [sasrec.catalogue.index[raw] for raw in recommender.catalogue.ids[1:]]
    expected = sasrec.model.item_embedding.weight[places]
    assert torch.equal(recommender.model.item_tower.vectors[1:], expected)


def test_runs_without_item_embeddings(trained, load, tmp_path):
    folder = shutil.copytree(trained("SASRec"), tmp_path / "copy")
    (folder / "vocabulary.jsonl").unlink()
    assert "its raw ids" in message(load, folder, CheckpointError)
    assert "no item embeddings" in message(load, trained("Pop"))
