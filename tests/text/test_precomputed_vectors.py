"""Runs with precomputed item vectors, and the vectors that a run has made."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from recbole_lite import LiteConfig, Recommender, create_dataset, load_data_and_model, run
from recbole_lite.cli.main import main
from recbole_lite.experiments.ablate import AblationOptions, ablate
from recbole_lite.experiments.tune.encode_items import prepare
from recbole_lite.experiments.tune.space import Parameter, Space
from recbole_lite.experiments.tune.sweep_spec import check_space, make_spec
from recbole_lite.text.item_vectors import load_item_vectors
from recbole_lite.utils.errors import CheckpointError, ConfigError, DataError, RequestError


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
def test_item_embeddings_of_a_run(model, trained, read_vectors):
    folder = trained(model)
    recommender = Recommender.load(folder, runtime="torch")
    ids, trained_model = recommender.catalogue.ids, recommender.model
    found = read_vectors(folder, ids=[ids[4], ids[9]])
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


def test_runs_without_item_embeddings(trained, read_vectors, tmp_path):
    folder = shutil.copytree(trained("SASRec"), tmp_path / "copy")
    (folder / "vocabulary.jsonl").unlink()
    for run_folder, kind, expected in (
        (folder, CheckpointError, "its raw ids"),
        (trained("Pop"), DataError, "no item embeddings"),
    ):
        with pytest.raises(kind, match=expected) as error:
            read_vectors(run_folder)
        assert "\n" not in str(error.value)
