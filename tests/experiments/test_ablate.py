"""Ablation tables: rows, reuse, figures over seeds and users, the command."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

import recbole_lite.experiments.ablate as ablate_module
from recbole_lite import LiteConfig, create_dataset, data_preparation, get_trainer, run
from recbole_lite.cli.main import main
from recbole_lite.config.yaml_files import read_yaml
from recbole_lite.evaluator.evaluator import LiteEvaluator, first_ranks, per_user_results, ranked_by
from recbole_lite.experiments.ablate import ROWS, AblationOptions, ablate, find_rows
from recbole_lite.report.ablation import render
from recbole_lite.report.intervals import RESAMPLES, SEED
from recbole_lite.utils.environment import environment
from recbole_lite.utils.errors import ConfigError, ModelFilesError, TrainingError
from recbole_lite.utils.paths import PROPERTIES

ROOT = Path(__file__).resolve().parents[2]
USERS = [f"u{i}" for i in range(30)]


@pytest.fixture
def rows_folder(tmp_path):
    """``rows_folder(name={key: value}, ...)`` -> folder with these rows and no others."""

    def write(**rows):
        folder = tmp_path / "rows"
        folder.mkdir(exist_ok=True)
        for name, changes in rows.items():
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(changes))
        return folder

    return write


@pytest.fixture
def trained(monkeypatch):
    """Stands for training: records each configuration; its ranks follow from the settings.

    ``trained.ranks(config)`` can be set; ``trained.configs`` are those that were run.
    """
    fake = SimpleNamespace(configs=[], ranks=lambda config: np.ones(30, int))

    def run_one(config, resume, samples, per_user):
        fake.configs.append(config)
        ranks = fake.ranks(config)
        ranked = ranked_by(ranks, 5)
        values = LiteEvaluator(config).per_user(ranked)
        figures = {name: round(value.mean(), 4) for name, value in values.items()}
        return {
            "data": {"users": 30, "items": 24, "interactions": 270},
            "best_valid_result": figures,
            "test_result": figures,
            "epochs": 3,
            "history": [{"epoch": e, "train_loss": 1.5, "valid_score": 0.25} for e in range(3)],
            "seconds": {"data": 30.0, "training": 60.0},
            "parameters": 1234,
            "run_dir": "saved/x",
            "per_user": {"users": USERS, "metrics": values, "ranks": ranks},
        }

    monkeypatch.setattr(ablate_module, "run_one", run_one)
    return fake


def table(quick, folder, **changes):
    options = {"rows_folder": folder, "out": "out"}
    for name in ("rows", "seeds", "command", "log"):
        options |= {name: changes.pop(name)} if name in changes else {}
    settings = {"config_dict": quick(), **changes}
    return ablate("LiteLLM4Rec", "tiny", **settings, options=AblationOptions(**options))


# -- the shipped rows -------------------------------------------------------------------------


def test_the_shipped_rows_are_the_papers():
    rows = {row.name: row.changes for row in find_rows(None, ROWS, "LiteLLM4Rec")}
    encoded = {"item_vectors": None}  # those of the base would replace the row's Item LLM
    assert rows == {
        "fixT5": {"frozen_parts": ["rec_llm"]},
        "fixHead": {"frozen_parts": ["head"]},
        "scratch": {"rec_llm_init": "scratch"},
        "item-t5-small": {**encoded, "item_llm": "t5-small", "item_llm_pooling": "auto"},
        "item-t5-base": {**encoded, "item_llm": "t5-base", "item_llm_pooling": "auto"},
        "item-bert": {**encoded, "item_llm": "bert-base-uncased", "item_llm_pooling": "pooler"},
        "item-sbert": {**encoded, "item_llm": "minilm", "item_llm_pooling": "auto"},
    }


@pytest.mark.parametrize("path", sorted(ROWS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_row_sets_keys_of_the_model_and_names_the_papers_section(path):
    defaults = read_yaml(PROPERTIES / "model" / "LiteLLM4Rec.yaml")
    assert set(read_yaml(path)) <= set(defaults)
    assert path.read_text().startswith("# Section 5.5.")
    assert LiteConfig("LiteLLM4Rec", "ml-100k", config_file_list=[path])


# -- values per user --------------------------------------------------------------------------


def test_the_mean_over_users_is_recboles_result(quick):
    metrics = ["Recall", "NDCG", "MRR", "MAP", "Hit", "Precision", "ItemCoverage"]
    settings = quick(epochs=1, metrics=metrics, metric_decimal_place=9)
    result = run("LiteLLM4Rec", "tiny", config_dict=settings, per_user=True)
    per_user = result["per_user"]
    # Coverage is of all lists together: no user has one.
    test = {n: v for n, v in result["test_result"].items() if not n.startswith("itemcoverage")}
    assert len(test) == 12
    assert {name: values.mean() for name, values in per_user["metrics"].items()} == pytest.approx(
        test, abs=1e-9
    )
    assert sorted(per_user["users"]) == sorted(USERS)
    ranks = per_user["ranks"]
    assert 0 < (ranks > 0).sum() < 30
    for user, rank in enumerate(ranks):
        expected = [rank in range(1, k + 1) for k in (3, 5)]
        found = [per_user["metrics"][f"recall@{k}"][user] for k in (3, 5)]
        assert found == expected
    assert (first_ranks(ranked_by(ranks, 5)) == ranks).all()
    assert result["parameters"] > 0
    assert "per_user" not in run("Pop", "tiny", config_dict=quick())


@pytest.mark.parametrize("mode", ["full", "uni3"])
def test_users_stand_in_the_order_of_the_values(quick, mode):
    """A model that knows the last items of some users ranks theirs first, and only theirs."""
    config = LiteConfig("SASRec", "tiny", config_dict=quick(eval_args={"mode": mode}))
    dataset = create_dataset(config)
    train_data, _, test_data = data_preparation(config, dataset)
    columns = train_data._dataset.inter_feat.store.columns
    last = torch.zeros(dataset.user_num, dtype=int)  # the store is sorted: the last write stays
    for user, item in zip(columns["user_id"].tolist(), columns["item_id"].tolist(), strict=True):
        last[user] = item
    known = {"u3", "u11", "u29"}
    ids = dataset.token2id("user_id", sorted(known))
    sign = torch.where(torch.isin(torch.arange(dataset.user_num), torch.from_numpy(ids)), 1.0, -1.0)

    model = config.model_class(config, train_data._dataset)

    def score(users, items):
        return sign[users] * (items == last[users])

    model.predict = lambda batch: score(batch["user_id"], batch["item_id"])
    model.full_sort_predict = lambda batch: score(
        batch["user_id"][:, None], torch.arange(dataset.item_num)
    )
    trainer = get_trainer(config["MODEL_TYPE"], "SASRec")(config, model)
    trainer.evaluate(test_data, load_best_model=False)
    found = per_user_results(trainer.evaluator, test_data, dataset)
    firsts = {u for u, rank in zip(found["users"], found["ranks"], strict=True) if rank == 1}
    assert firsts == known


# -- figures ----------------------------------------------------------------------------------


def test_means_spread_intervals_and_differences(quick, rows_folder, trained):
    rng = np.random.default_rng(5)
    ranks = {
        (dropout, seed): rng.integers(0, 6, 30) for dropout in (0.1, 0.6) for seed in (1, 2, 3)
    }
    trained.ranks = lambda config: ranks[config["user_dropout"], config["seed"]]
    summary = table(quick, rows_folder(wet={"user_dropout": 0.6}), seeds=[1, 2, 3])

    base, wet = summary["rows"]
    assert (base["row"], wet["row"]) == ("LiteLLM4Rec", "wet")
    hits = {  # recall@3: [seeds, users]
        dropout: np.array([(ranks[dropout, s] > 0) & (ranks[dropout, s] <= 3) for s in (1, 2, 3)])
        for dropout in (0.1, 0.6)
    }
    drawn = np.random.default_rng(SEED).integers(0, 30, (RESAMPLES, 30))

    def interval(per_user):
        return pytest.approx(np.percentile(per_user[drawn].mean(1), [2.5, 97.5]).tolist())

    for row, dropout in ((base, 0.1), (wet, 0.6)):
        found = row["test"]["recall@3"]
        assert found["mean"] == pytest.approx(hits[dropout].mean())
        assert found["std"] == pytest.approx(hits[dropout].mean(1).std(ddof=1))
        assert found["interval"] == interval(hits[dropout].mean(0))
        assert row["seeds"] == [1, 2, 3]
        assert (row["minutes"], row["epochs"], row["parameters"]) == (1.5, 3, 1234)
        assert row["valid"]["recall@3"]["mean"] == pytest.approx(hits[dropout].mean(), abs=1e-4)
    difference = hits[0.6].mean(0) - hits[0.1].mean(0)
    found = wet["test"]["recall@3"]
    assert found["difference"] == pytest.approx(difference.mean())
    assert found["difference_interval"] == interval(difference)
    assert base["test"]["recall@3"]["difference"] is None


def test_a_row_that_is_worse_has_a_negative_difference_and_one_seed_no_spread(
    quick, rows_folder, trained
):
    trained.ranks = lambda config: np.full(30, 1 if config["user_dropout"] == 0.1 else 4)
    summary = table(quick, rows_folder(wet={"user_dropout": 0.6}))
    found = summary["rows"][1]["test"]
    assert found["recall@3"]["difference"] == -1.0
    assert found["recall@3"]["difference_interval"] == [-1.0, -1.0]
    assert found["recall@5"]["difference"] == 0.0
    assert found["recall@3"]["std"] is None
    lines = render(summary).split("### ")[1].splitlines()
    assert lines[0] == "recall@3"
    (line,) = (line for line in lines if line.startswith("| wet"))
    assert [cell.strip() for cell in line.split("|")[1:-1]] == [
        "wet", "0.0000", "-", "0.0000 to 0.0000", "-1.0000", "-1.0000 to -1.0000",
    ]  # fmt: skip


def test_rows_whose_users_differ_are_not_paired(quick, rows_folder, trained, monkeypatch):
    def run_one(config, **kwargs):
        result = inner(config, **kwargs)
        if config["user_dropout"] == 0.6:
            result["per_user"]["users"] = [f"other{i}" for i in range(30)]
        return result

    inner = ablate_module.run_one
    monkeypatch.setattr(ablate_module, "run_one", run_one)
    summary = table(quick, rows_folder(wet={"user_dropout": 0.6}))
    found = summary["rows"][1]["test"]["recall@3"]
    assert (found["difference"], found["difference_interval"]) == (None, None)
    assert found["interval"] == [1.0, 1.0]


# -- rows and settings ------------------------------------------------------------------------


def test_a_row_wins_over_overrides_dict_and_files(quick, rows_folder, trained, tmp_path):
    (tmp_path / "a.yaml").write_text("user_dropout: 0.3\nitem_dropout: 0.3\n")
    folder = rows_folder(wet={"user_dropout": 0.6, "item_vector_norm": "unit"})
    table(
        quick,
        folder,
        config_file_list=[tmp_path / "a.yaml"],
        overrides=["--user_dropout=0.4", "--item_vector_norm=standardize", "--rec_llm_dropout=0.2"],
        config_dict=quick(user_dropout=0.5),
    )
    keys = ("user_dropout", "item_dropout", "item_vector_norm", "rec_llm_dropout")
    base, wet = ([config[key] for key in keys] for config in trained.configs)
    assert base == [0.4, 0.3, "standardize", 0.2]
    assert wet == [0.6, 0.3, "unit", 0.2]


def test_rows_are_chosen_by_name_and_the_first_seed_of_all_comes_first(quick, rows_folder, trained):
    folder = rows_folder(a={"user_dropout": 0.2}, b={"user_dropout": 0.3}, c={"user_dropout": 0.4})
    summary = table(quick, folder, rows=["c", "LiteLLM4Rec", "a"], seeds=[7, 8])
    assert [row["row"] for row in summary["rows"]] == ["LiteLLM4Rec", "c", "a"]
    ran = [(config["user_dropout"], config["seed"]) for config in trained.configs]
    assert ran == [(0.1, 7), (0.4, 7), (0.2, 7), (0.1, 8), (0.4, 8), (0.2, 8)]


def test_a_row_with_the_settings_of_another_is_not_trained_again(quick, rows_folder, trained):
    folder = rows_folder(same={"user_dropout": 0.1})
    summary = table(quick, folder)
    assert len(trained.configs) == 1
    assert summary["rows"][1]["test"]["recall@3"]["mean"] == 1.0
    assert "same settings as LiteLLM4Rec" in render(summary)


@pytest.mark.parametrize(
    "row, arguments, message",
    [
        ({}, {"rows": ["wett"]}, r"unknown row 'wett'; did you mean wet\?; rows in .*: wet"),
        ({"user_dropuot": 1}, {}, r"wet\.yaml, line 1: unknown key 'user_dropuot'; did you mean"),
        ({"user_dropout": 2}, {}, r"wet\.yaml, line 1: user_dropout must be a probability"),
        ({"seed": 3}, {}, r"wet\.yaml, line 1: a row cannot set seed"),
        ({}, {"overrides": ["--seed=3"], "seeds": [1]}, "--seed and --seeds"),
        ({}, {"overrides": ["--resume=saved/x"]}, "resume: an ablation reuses"),
        ({"eval_args": {"split": {"RS": [8, 1, 1]}}}, {}, "row wet: .* one test item"),
        (
            {"frozen_parts": ["head"]},
            {"overrides": ["--stages=[{'frozen_parts': []}]"]},
            "row wet: frozen_parts is set by one of the stages",
        ),
    ],
)
def test_mistakes_are_told_before_the_first_training(
    row, arguments, message, quick, rows_folder, trained
):
    with pytest.raises(ConfigError, match=message):
        table(quick, rows_folder(wet=row), **arguments)
    assert trained.configs == []


def test_a_row_cannot_take_the_base_rows_name(quick, rows_folder, trained):
    with pytest.raises(ConfigError, match=r"LiteLLM4Rec is the name of the base row"):
        table(quick, rows_folder(LiteLLM4Rec={"user_dropout": 0.6}))


# -- files ------------------------------------------------------------------------------------


def test_a_finished_result_is_reused_and_a_changed_setting_trained_anew(
    quick, rows_folder, trained, workdir
):
    folder, said = rows_folder(wet={"user_dropout": 0.6}), []
    first = table(quick, folder, seeds=[1], log=said.append)
    assert len(trained.configs) == 2
    # More seeds, another row, other output: what is there serves.
    rows_folder(dry={"user_dropout": 0.0})
    more = {"show_progress": True, "state": "ERROR"}
    table(quick, folder, seeds=[1, 2], config_dict=quick(**more), log=said.append)
    ran = [(config["user_dropout"], config["seed"]) for config in trained.configs[2:]]
    assert ran == [(0.0, 1), (0.1, 2), (0.0, 2), (0.6, 2)]
    assert [line for line in said if "reused" in line] == [
        "LiteLLM4Rec, seed 1: reused from out/LiteLLM4Rec-1.json",
        "wet, seed 1: reused from out/wet-1.json",
    ]
    again = table(quick, folder, seeds=[1], rows=["wet"])
    assert len(trained.configs) == 6
    assert again["rows"] == first["rows"]
    # A setting that counts, a damaged file.
    table(quick, folder, seeds=[1], rows=["wet"], overrides=["--learning_rate=0.02"])
    assert len(trained.configs) == 8
    (workdir / "out" / "wet-1.json").write_text("{")
    table(quick, folder, seeds=[1], rows=["wet"], overrides=["--learning_rate=0.02"])
    assert len(trained.configs) == 9


def test_an_interrupted_table_goes_on(quick, rows_folder, trained):
    folder = rows_folder(wet={"user_dropout": 0.6})

    def interrupted(config):
        if config["user_dropout"] == 0.6:
            raise KeyboardInterrupt
        return np.ones(30, int)

    trained.ranks = interrupted
    with pytest.raises(KeyboardInterrupt):
        table(quick, folder)
    trained.ranks = lambda config: np.full(30, 2)
    summary = table(quick, folder)
    assert [row["test"]["ndcg@3"]["mean"] for row in summary["rows"]] == [
        1.0,
        pytest.approx(1 / np.log2(3)),
    ]
    assert len(trained.configs) == 3


def test_the_file_of_a_result_holds_everything(quick, rows_folder, trained, workdir):
    table(quick, rows_folder(wet={"user_dropout": 0.6}), command="recbole-lite ablate --x=1")
    record = json.loads((workdir / "out" / "wet-2020.json").read_text())
    assert record["changes"] == {"user_dropout": 0.6}
    assert record["settings"]["user_dropout"] == 0.6
    assert record["settings"]["seed"] == record["seed"] == 2020
    rebuilt = LiteConfig("LiteLLM4Rec", "tiny", config_dict=record["settings"], typed=True)
    assert rebuilt.settings == record["settings"]
    assert record["test"] == record["valid"] == dict.fromkeys(record["test"], 1.0)
    assert record["ranks"] == dict.fromkeys(USERS, 1)
    assert (record["epochs"], record["parameters"]) == (3, 1234)
    assert [epoch["epoch"] for epoch in record["history"]] == [0, 1, 2]
    assert record["seconds"] == {"data": 30.0, "training": 60.0}
    assert record["command"] == "recbole-lite ablate --x=1"
    assert record["environment"] == environment()
    written = json.loads((workdir / "out" / "ablation.json").read_text())
    assert [row["row"] for row in written["rows"]] == ["LiteLLM4Rec", "wet"]
    assert written["command"] == "recbole-lite ablate --x=1"


def test_the_environment_names_versions_and_machine():
    found = environment()
    assert found["recbole"] == "1.2.1"
    assert all(found[key] for key in ("python", "torch", "transformers", "cores", "threads"))
    (version,) = re.findall(r"(?m)^version: (.+)$", (ROOT / "CITATION.cff").read_text())
    assert found["recbole_lite"] == version


# -- rows that do not run ---------------------------------------------------------------------


def test_what_goes_wrong_in_a_row_is_listed_and_the_others_go_on(quick, rows_folder, trained):
    def ranks(config):
        if config["user_dropout"] == 0.3:
            raise ModelFilesError("item_llm 'x' | cannot be had; use another.\nDetails")
        if config["user_dropout"] == 0.4 and config["seed"] == 1:
            raise TrainingError("the training loss is nan")
        return np.ones(30, int)

    trained.ranks = ranks
    folder = rows_folder(a={"user_dropout": 0.3}, b={"user_dropout": 0.4}, c={"user_dropout": 0.5})
    summary = table(quick, folder, seeds=[1, 2])
    assert [row["seeds"] for row in summary["rows"]] == [[1, 2], [], [2], [1, 2]]
    # Files that cannot be had once are not asked for again; the next seed may train.
    assert [c["seed"] for c in trained.configs if c["user_dropout"] == 0.3] == [1]
    text = render(summary)
    assert "not run: ModelFilesError: item_llm 'x' \\| cannot be had; use another |" in text
    assert "a seed is missing: TrainingError: the training loss is nan" in text
    assert "4 rows, 1 of them did not run" in text


# -- the command ------------------------------------------------------------------------------


@pytest.fixture
def command(quick, tmp_path, workdir):
    """``command("--key=value", ...)`` -> exit status of ``recbole-lite ablate`` on ``tiny``."""
    (tmp_path / "quick.yaml").write_text(yaml.safe_dump(quick(epochs=1)))

    def call(*arguments):
        base = ["ablate", "--dataset=tiny", f"--config_files={tmp_path / 'quick.yaml'}"]
        return main([*base, "--out=out", *arguments])

    return call


def test_the_command_trains_and_prints_the_table(command, rows_folder, capsys, workdir):
    folder = rows_folder(
        wet={"user_dropout": 0.6}, gone={"item_llm": "./absent"}, fixHead={"frozen_parts": ["head"]}
    )
    assert command(f"--rows_from={folder}", "--seeds=3,4", "--user_dropout=0.2") == 0
    printed = capsys.readouterr().out
    table = (workdir / "out" / "ablation.md").read_text()
    assert table in printed
    assert "# Ablation: LiteLLM4Rec on tiny" in table
    assert "30 users, 24 items" in table
    assert "seeds 3, 4; 4 rows, 1 of them did not run." in table
    assert "not run: ModelFilesError: item_llm './absent': no such directory" in table
    assert f"--rows_from={folder} --seeds=3,4 --user_dropout=0.2\n" in table
    assert printed.endswith("1 of 4 rows did not run\n")
    files = {path.name for path in (workdir / "out").iterdir()}
    assert files == {
        "ablation.md", "ablation.json", "LiteLLM4Rec-3.json", "LiteLLM4Rec-4.json",
        "wet-3.json", "wet-4.json", "fixHead-3.json", "fixHead-4.json",
    }  # fmt: skip
    base, fixed = (
        json.loads((workdir / "out" / f"{name}-3.json").read_text())
        for name in ("LiteLLM4Rec", "fixHead")
    )
    assert base["parameters"] - fixed["parameters"] == 16 * 24  # the head's
    assert set(base["ranks"]) == set(USERS)
    summary = json.loads((workdir / "out" / "ablation.json").read_text())
    figures = [json.loads((workdir / "out" / f"wet-{s}.json").read_text()) for s in (3, 4)]
    mean = np.mean([figure["test"]["ndcg@5"] for figure in figures])
    (wet,) = (row for row in summary["rows"] if row["row"] == "wet")
    assert wet["test"]["ndcg@5"]["mean"] == pytest.approx(mean, abs=1e-4)
    # No leftovers of training that only --resume would read.
    assert list((workdir / "saved").glob("*/best.safetensors"))
    assert not list((workdir / "saved").glob("*/last-*"))

    assert command(f"--rows_from={folder}", "--rows=wet", "--seeds=3,4", "--user_dropout=0.2") == 0
    printed = capsys.readouterr().out
    assert printed.count("reused from") == 4
    assert printed.endswith("0 of 2 rows did not run\n")


def test_the_command_fails_where_the_base_row_does(command, rows_folder, capsys):
    folder = rows_folder(wet={"user_dropout": 0.6})
    assert command(f"--rows_from={folder}", "--item_llm=./absent") == 2
    assert "2 of 2 rows did not run" in capsys.readouterr().out


def test_the_commands_mistakes_are_one_message(command, capsys):
    assert command("--rows=fixT4") == 2
    assert "error: unknown row 'fixT4'; did you mean fixT5" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command("--seeds=1,x")
    assert "write whole numbers, 2020,2021" in capsys.readouterr().err


def test_the_commands_help(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["ablate", "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "recbole-lite ablate --dataset=ml-100k --rows=fixT5,fixHead" in printed
    assert "--rows_from DIR" in printed
