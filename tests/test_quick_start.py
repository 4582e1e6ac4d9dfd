"""Whole runs: every promised model, its result, its table, the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from recbole_lite import run
from recbole_lite.cli.main import main, run_main
from recbole_lite.report.run_summary import render
from recbole_lite.utils.errors import ConfigError, RecboleLiteError

SCRIPT = Path(__file__).resolve().parents[1] / "run_recbole_lite.py"


@pytest.mark.parametrize("model", ["LiteLLM4Rec", "SASRec", "BERT4Rec", "GRU4Rec", "FDSA", "Pop"])
def test_every_model_runs_and_returns_recboles_result(model, quick):
    result = run(model, "tiny", config_dict=quick())
    assert set(result["test_result"]) == {"recall@3", "recall@5", "ndcg@3", "ndcg@5"}
    assert result["best_valid_score"] == result["best_valid_result"]["ndcg@5"]
    assert result["valid_score_bigger"] is True
    assert result["data"]["users"] == 30
    assert Path(result["run_dir"], "best.safetensors").is_file()
    assert Path(result["log_file"]).is_file()
    assert result["epochs"] == (1 if model == "Pop" else 2)


def test_s3rec_in_its_two_phases(quick, caplog):
    first = run("S3Rec", "tiny", config_dict=quick(pretrain_epochs=3, save_step=2))
    assert first["test_result"] is None
    assert first["run_dir"].endswith("S3Rec-tiny-3.pth")
    second = run(
        "S3Rec",
        "tiny",
        config_dict=quick(train_stage="finetune", pre_model_path=first["run_dir"]),
    )
    assert second["test_result"]["recall@5"] >= 0
    with pytest.raises(ConfigError, match=r"pre_model_path: no file 'absent\.pth'"):
        run("S3Rec", "tiny", config_dict=quick(train_stage="finetune", pre_model_path="absent.pth"))


def test_the_model_learns(quick):
    """Items follow one another in the data, so a trained model beats popularity clearly."""
    settings = quick(
        epochs=60,
        item_vector_norm="standardize",
        rec_llm_config={"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2},
        learning_rate=0.003,
        user_dropout=0.0,
        topk=[1],
        valid_metric="Recall@1",
        baselines=["Pop"],
    )
    result = run("LiteLLM4Rec", "tiny", config_dict=settings)
    pop = result["baselines"]["Pop"]["best_valid_result"]["recall@1"]
    assert result["best_valid_result"]["recall@1"] > max(2 * pop, 0.3)


def test_the_same_seed_gives_the_same_numbers(quick):
    results = [run("LiteLLM4Rec", "tiny", config_dict=quick(seed=s)) for s in (5, 5, 6)]
    losses = [[epoch["train_loss"] for epoch in result["history"]] for result in results]
    assert losses[0] == losses[1] != losses[2]


def test_a_second_run_reads_the_vectors_from_the_cache(quick, caplog):
    caplog.set_level("INFO")
    settings = quick(epochs=1, state="INFO")
    run("LiteLLM4Rec", "tiny", config_dict=settings)
    assert "encoding 24 items" in caplog.text
    caplog.clear()
    run("LiteLLM4Rec", "tiny", config_dict=settings)
    assert "(0 texts encoded)" in caplog.text
    assert "encoding" not in caplog.text


def test_samples_show_titles_and_recommend_nothing_that_was_had(quick):
    result = run("LiteLLM4Rec", "tiny", config_dict=quick(sample_users=3))
    assert len(result["samples"]) == 3
    for sample in result["samples"]:
        assert sample["user"].startswith("u")
        assert len(sample["recommended"]) == 5
        assert not set(sample["history"]) & set(sample["recommended"])
        assert all(len(title.split()) == 3 for title in sample["recommended"])
    text = render(result)
    assert f"User {result['samples'][0]['user']}" in text
    assert result["samples"][0]["target"] in text


def test_samples_rank_all_items_also_where_the_run_does_not(quick):
    settings = quick(sample_users=2, eval_args={"mode": "uni5"}, epochs=1)
    result = run("SASRec", "tiny", config_dict=settings)
    assert [len(sample["recommended"]) for sample in result["samples"]] == [5, 5]
    assert not set(result["samples"][0]["history"]) & set(result["samples"][0]["recommended"])


def test_a_mistake_in_the_baselines_is_told_before_training(quick, workdir):
    with pytest.raises(ConfigError, match="unknown model 'Popp'; did you mean Pop"):
        run("SASRec", "tiny", config_dict=quick(baselines="Popp"))
    assert not (workdir / "saved").exists()


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ("SASRec", {"title_field": "titel"}, "title_field: no field 'titel'"),
        ("SASRec", {"item_text_fields": ["titel"]}, r"no column 'titel' \(item_text_fields\)"),
        ("SASRec", {"item_text_template": "A {titel}"}, "{titel} is not a text field"),
        ("SASRec", {"item_text_fields": ["brand"]}, "no item of tiny has text in brand"),
        ("Pop", {"title_field": "brand"}, "no item of tiny has a brand: the column is empty"),
        ("SASRec", {"baselines": ["FDSA"], "load_col": None, "selected_features": ["colour"]},
         "selected_features: no column 'colour' was read"),
        ("BPR", {"sample_users": 2, "eval_args": {"split": {"RS": [0.6, 0.2, 0.2]}}},
         "sample_users: eval_args give a user several test items"),
    ],
)  # fmt: skip
def test_what_a_run_needs_at_its_end_is_checked_before_training(
    model, changes, message, quick, data_path, workdir, monkeypatch
):
    path = data_path / "tiny/tiny.item"
    head, *rows = path.read_text().splitlines()
    path.write_text("\n".join([f"{head}\tbrand:token", *(f"{row}\t" for row in rows)]) + "\n")
    monkeypatch.setattr("recbole_lite.quick_start._build_model", None)
    with pytest.raises(RecboleLiteError, match=message):
        run(model, "tiny", config_dict=quick(**changes))
    assert not list(workdir.glob("saved/*"))


@pytest.mark.parametrize("item", [None, "item_id:token\n", "item_id:token\temb:float_seq\n"])
def test_a_run_may_have_no_texts(item, quick, data_path):
    path = data_path / "tiny/tiny.item"
    path.unlink()
    if item:
        rows = "".join(f"i{n}{chr(9) + '0.5' if 'emb' in item else ''}\n" for n in range(24))
        path.write_text(item + rows)
    inter = {"inter": ["user_id", "item_id", "timestamp"]}
    settings = quick(epochs=1, load_col=inter, title_field=None)
    result = run("SASRec", "tiny", config_dict=settings)
    assert result["report"]


def test_baselines_that_cannot_train_prefixes_train_the_same_targets_one_by_one(quick):
    settings = quick(epochs=1, train_strategy="prefix", rec_llm_causal=True, baselines=["NARM"])
    overrides = ["--train_strategy=prefix"]
    result = run("LiteLLM4Rec", "tiny", config_dict=settings, overrides=overrides)
    saved = json.loads(Path(result["run_dir"], "config.json").read_text())
    assert saved["settings"]["train_strategy"] == "prefix"
    beside = json.loads(Path(result["baselines"]["NARM"]["run_dir"], "config.json").read_text())
    assert beside["settings"]["train_strategy"] == "all"


def test_the_baselines_of_a_run_with_initial_weights_start_from_scratch(quick, trained):
    first = str(trained("SASRec"))
    result = run("SASRec", "tiny", config_dict=quick(epochs=0, baselines=["Pop"], init_from=first))
    folders = [result["run_dir"], result["baselines"]["Pop"]["run_dir"]]
    saved = [json.loads(Path(folder, "config.json").read_text()) for folder in folders]
    assert [content["settings"]["init_from"] for content in saved] == [first, None]


@pytest.mark.parametrize("how", ["frozen", "full"])
def test_a_model_of_which_nothing_is_trained_is_refused(how, quick):
    frozen = {"item_llm_training": "frozen", "frozen_parts": ["rec_llm", "adapter", "head"]}
    settings = quick(stages=[{"item_llm_training": how}, frozen], item_llm_training="frozen")
    with pytest.raises(ConfigError, match="stage 2 trains nothing"):
        run("LiteLLM4Rec", "tiny", config_dict=settings)


def test_the_table_has_ratios_to_the_baselines():
    metrics = {"recall@10": 0.3, "ndcg@10": 0.2}
    half = {"recall@10": 0.1, "ndcg@10": 0.0}
    base = {"best_valid_result": half, "test_result": half, "model": "Pop", "epochs": 1}
    result = {
        "model": "LiteLLM4Rec",
        "dataset": "ml-100k",
        "data": {"users": 943, "items": 1682, "interactions": 100000},
        "best_valid_result": metrics,
        "test_result": metrics,
        "epochs": 7,
        "seconds": {"data": 1.25, "training": 60.0},
        "baselines": {"Pop": {**base, "seconds": {"data": 0.5}}},
        "run_dir": "saved/x",
        "log_file": "log/x.log",
        "samples": [],
    }
    text = render(result)
    assert "ml-100k: 943 users, 1,682 items, 100,000 interactions" in text
    (ratio,) = (line for line in text.splitlines() if line.startswith("LiteLLM4Rec / Pop"))
    assert ratio.split()[3:] == ["3.00x", "-", "3.00x", "-"]


def test_no_epoch_at_all_evaluates_the_weights_as_they_are(quick):
    result = run("SASRec", "tiny", config_dict=quick(epochs=0))
    assert result["best_valid_result"] is None
    assert set(result["test_result"]) == {"recall@3", "recall@5", "ndcg@3", "ndcg@5"}
    assert "SASRec" in render(result)


# -- command line -----------------------------------------------------------------------------


def test_command_line_from_any_directory(data_path, workdir):
    arguments = ["--model=Pop", "--dataset=tiny", f"--data_path={data_path}", "--topk=[3]"]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(SCRIPT), *arguments, "--valid_metric=Recall@3"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "30 users, 24 items" in done.stdout
    assert "\x1b[" not in done.stderr  # no colours where there is no terminal
    assert "FutureWarning" not in done.stderr
    # Without a language model, a run does not wait seconds for transformers.
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "recbole" in imported
    assert "transformers" not in imported


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--model=SASRec"], "error: no dataset given"),
        (["--model=Nothing", "--dataset=tiny"], "error: unknown model 'Nothing'"),
        (["-m", "SASRec", "-d", "tiny", "--epocs=3"], "unknown key 'epocs'; did you mean epochs"),
        (["-m", "SASRec", "-d", "absent"], "absent"),
        (["-m", "SASRec", "-d", "tiny", "--config_files=a.yaml"], "error: a.yaml: cannot read"),
    ],
)
def test_errors_are_one_message_and_exit_status_2(arguments, message, capsys, data_path):
    assert run_main([*arguments, f"--data_path={data_path}"]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed


def test_a_file_in_the_place_of_the_logs_folder(capsys, data_path, workdir):
    (workdir / "log").write_text("")
    assert run_main(["--model=Pop", "--dataset=tiny", f"--data_path={data_path}"]) == 2
    assert "cannot write the log: Not a directory; logs go to" in capsys.readouterr().err


def test_traceback_on_demand():
    with pytest.raises(ConfigError):
        run_main(["--model=Nothing", "--dataset=tiny", "--traceback"])


def test_the_console_script_has_the_same_run(data_path, capsys):
    quick = ["--model=Pop", "--dataset=tiny", f"--data_path={data_path}"]
    assert main(["run", *quick]) == 0
    assert "30 users, 24 items" in capsys.readouterr().out


def test_help_explains_with_examples(capsys):
    with pytest.raises(SystemExit) as stop:
        run_main(["--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "run_recbole_lite.py --model=LiteLLM4Rec --dataset=ml-1m" in printed
