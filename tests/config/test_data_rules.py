"""``data_rules``: settings by the size of the data."""

import json
from pathlib import Path

import pytest

from recbole_lite import LiteConfig, run
from recbole_lite.config.data_rules import settings_by_data
from recbole_lite.utils.errors import ConfigError
from recbole_lite.utils.paths import PROPERTIES

RULES = {
    "interactions": [{"below": 100, "lm_dropout": 0.5}, {"below": 1000, "lm_dropout": 0.3}],
    "users": [{"below": 10, "epochs": 4}, {"epochs": 2, "n_layers": 1}],
}


@pytest.mark.parametrize(
    ("interactions", "users", "expected"),
    [
        (99, 9, {"lm_dropout": 0.5, "epochs": 4}),
        (100, 10, {"lm_dropout": 0.3, "epochs": 2, "n_layers": 1}),
        (1000, 10, {"epochs": 2, "n_layers": 1}),
    ],
)
def test_the_first_entry_that_fits_counts(interactions, users, expected):
    found = settings_by_data(RULES, {"interactions": interactions, "users": users})
    assert {key: setting.value for key, setting in found.items()} == expected
    assert found["epochs"].origin == f"data_rules: users = {users}"


def test_a_later_measure_replaces_an_earlier_one():
    rules = {"users": [{"epochs": 3}], "items": [{"below": 5, "epochs": 7}]}
    assert settings_by_data(rules, {"users": 1, "items": 4})["epochs"].value == 7
    assert settings_by_data(rules, {"users": 1, "items": 5})["epochs"].value == 3
    assert settings_by_data(None, {}) == {}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"rows": []}, "data_rules: rows: no measure of the data; there are users, items"),
        ({"users": {"below": 3}}, r"data_rules: users: write a list such as \[{below: 30"),
        ({"users": [{"below": 3, "epochs": 1}, {"below": 3, "epochs": 2}]}, "'below' must be a n"),
        ({"users": [{"epochs": 1}, {"below": 3, "epochs": 2}]}, "only the last entry may be with"),
        ({"users": [{"below": "few", "epochs": 1}]}, "'below' must be a number that grows"),
        (
            {"users": [{"epoch": 1}]},
            "data_rules: users: unknown key 'epoch'.*epochs",
        ),
        ({"users": [{"lm_dropout": 2}]}, "data_rules: users: lm_dropout must be"),
        ({"users": [{"MAX_ITEM_LIST_LENGTH": 5}]}, "MAX_ITEM_LIST_LENGTH decides how the data are"),
        ({"users": [{"metrics": ["Hit"]}]}, "metrics decides how the data are read or measured"),
        ("users", "data_rules must be"),
    ],
)
def test_rules_that_mean_nothing_are_refused(rules, message):
    with pytest.raises(ConfigError, match=message) as error:
        LiteConfig("ItemLM", "ml-100k", config_dict={"data_rules": rules})
    assert "\n" not in str(error.value)


def saved_settings(result):
    return json.loads(Path(result["run_dir"], "config.json").read_text())["settings"]


def test_a_run_takes_the_settings_of_its_data(quick, caplog):
    """tiny has 30 users, 24 items and a file of items' texts."""
    rules = {
        "users": [{"below": 31, "n_heads": 2, "epochs": 2}],
        "text_fields": [{"below": 1, "item_init": "random"}, {"item_init": "text"}],
        "interactions_per_item": [{"below": 1000, "lm_dropout": 0.25}],
    }
    settings = quick(data_rules=rules, lm_dropout=0.125, state="INFO")
    settings.pop("epochs")
    result = run("ItemLM", "tiny", config_dict=settings)
    saved = saved_settings(result)
    assert [saved[key] for key in ("n_heads", "epochs", "item_init")] == [2, 2, "text"]
    assert result["epochs"] == 2
    assert saved["lm_dropout"] == 0.125  # the run's own
    assert "data_rules: users = 30: n_heads=2" in caplog.text
    assert "lm_dropout=0.25 is not taken: lm_dropout=0.125 stays, set in " in caplog.text
    caplog.clear()
    again = run("ItemLM", "tiny", config_dict=saved, saved=False)
    assert again["test_result"] == result["test_result"]
    assert "n_heads=2 is not taken" not in caplog.text  # it is what the run sets


def test_an_interrupted_run_continues_with_them(quick):
    settings = quick(data_rules={"users": [{"n_heads": 2, "item_dropout": 0.25}]}, epochs=3)
    whole = run("ItemLM", "tiny", config_dict=settings)
    part = run("ItemLM", "tiny", config_dict={**settings, "last_epoch": 1})
    rest = run("ItemLM", "tiny", config_dict={**settings, "resume": part["run_dir"]})
    assert rest["history"][-1]["train_loss"] == pytest.approx(whole["history"][-1]["train_loss"])
    assert rest["test_result"] == whole["test_result"]


def test_data_without_texts(quick, data_path):
    (data_path / "tiny" / "tiny.item").unlink()
    rules = {"text_fields": [{"below": 1, "item_init": "random"}, {"item_init": "text"}]}
    result = run("ItemLM", "tiny", config_dict=quick(data_rules=rules), saved=False)
    assert result["test_result"]


def test_without_rules_a_table_that_no_model_reads_is_left_alone(quick, data_path):
    (data_path / "tiny" / "tiny.item").write_text("no header\n")
    columns = {"inter": ["user_id", "item_id", "timestamp"]}
    result = run("SASRec", "tiny", config_dict=quick(load_col=columns), saved=False)
    assert result["test_result"]


# -- properties/recommended.yaml ----------------------------------------------------------------


def write_dense(folder):
    """60 users, 7 items, 51 interactions per item; users go round the items."""
    target = folder / "dense"
    target.mkdir()
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    lines += [f"u{u}\ti{(u + step) % 7}\t{step}" for u in range(60) for step in range(6)]
    (target / "dense.inter").write_text("\n".join(lines) + "\n")
    lines = ["item_id:token\ttitle:token_seq"]
    lines += [f"i{n}\tgolden {n} story" for n in range(7)]
    (target / "dense.item").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("dataset", "text", "expected"),
    [
        ("tiny", True, ["text_plus_id", 128, 0.5]),  # 11 interactions per item
        ("tiny", False, ["random", 128, 0.5]),
        ("dense", True, ["text", 256, 0.2]),
        ("dense", False, ["random", 256, 0.2]),
    ],
)
def test_the_recommended_configuration_fits_data_of_each_kind(
    dataset, text, expected, data_path, llm_folders
):
    write_dense(data_path)
    if not text:
        (data_path / dataset / f"{dataset}.item").unlink()
    settings = {"data_path": str(data_path), "item_llm": str(llm_folders["bert"]), "epochs": 8}
    settings |= {"topk": [5], "valid_metric": "NDCG@5"}  # there are 7 items
    files = [PROPERTIES / "recommended.yaml"]
    result = run("ItemLM", dataset, config_file_list=files, config_dict=settings)
    saved = saved_settings(result)
    assert [saved[key] for key in ("item_init", "hidden_size", "lm_dropout")] == expected
    assert saved["train_batch_size"] == 32  # few interactions
    losses = [epoch["train_loss"] for epoch in result["history"]]
    assert min(losses[1:]) < losses[0]  # sums over one or two batches


def test_the_recommended_configuration_samples_the_loss_of_large_catalogues(
    data_path, llm_folders, tmp_path
):
    text = (PROPERTIES / "recommended.yaml").read_text()
    assert "below: 200000" in text
    (tmp_path / "some.yaml").write_text(text.replace("below: 200000", "below: 24"))  # tiny's items
    settings = {"data_path": str(data_path), "item_llm": str(llm_folders["bert"]), "epochs": 1}
    files, settings = [tmp_path / "some.yaml"], {**settings, "num_negatives": 10}
    result = run("ItemLM", "tiny", config_file_list=files, config_dict=settings)
    assert saved_settings(result)["loss_type"] == "SCE"
    assert result["test_result"]
