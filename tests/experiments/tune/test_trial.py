"""A trial without Ray: what it reports, how it goes on, and that it never sees the test split."""

import random
import shutil

import pytest

from recbole_lite import run
from recbole_lite.experiments.tune.space import Parameter, Space
from recbole_lite.experiments.tune.sweep_spec import SweepSpec
from recbole_lite.experiments.tune.trial import (
    Plan,
    Reporter,
    best_entry,
    best_run,
    drop_resumable,
    last_run,
    train,
)
from recbole_lite.experiments.tune.tune_settings import read_settings
from recbole_lite.trainer.trainer import LiteMixin
from recbole_lite.utils.errors import ConfigError, OtherIdsError

SPACE = Space((Parameter("learning_rate", "choice", (0.01,), "here"),), "space.yaml")
PARAMS = {"learning_rate": 0.01}


@pytest.fixture
def plan_for(quick, tmp_path):
    def build(model="GRU4Rec", **changes):
        values = {**quick(epochs=4, dropout_prob=0.2, loss_type="CE"), **changes}
        return Plan(
            spec=SweepSpec(model, "tiny", values, SPACE, read_settings({})),
            folder=str(tmp_path / "sweep"),
            cwd=str(tmp_path),
            cache_dir=None,
            threads=1,
            use_gpu=False,
        )

    return build


def trial(plan, name="t1", reports=None):
    """Run a trial; the result is what it reported."""
    reports = [] if reports is None else reports
    folder = plan.trial_folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    report = Reporter(reports.append, folder)
    train(plan, PARAMS, folder, report)
    report.end()
    return reports


def test_every_epoch_reports_the_validation(plan_for):
    plan = plan_for()
    reports = trial(plan)
    history = run("GRU4Rec", "tiny", config_dict={**plan.spec.values, **PARAMS})["history"]
    assert len(history) == 4
    assert [r["epoch"] for r in reports] == [1, 2, 3, 4]
    assert [r["valid"] for r in reports] == [entry["valid_result"] for entry in history]
    scores = [entry["valid_result"]["ndcg@5"] for entry in history]
    assert [r["valid_score"] for r in reports] == scores
    assert [r["best_valid_score"] for r in reports] == [max(scores[: n + 1]) for n in range(4)]
    assert [r.get("finished") for r in reports] == [None] * 3 + [True]


def test_early_stopping_is_an_end_of_its_own(plan_for):
    reports = trial(plan_for(epochs=50, stopping_step=1, learning_rate=0.01))
    epochs = [r["epoch"] for r in reports]
    assert epochs[-1] == epochs[-2] < 50
    assert [r.get("finished") for r in reports[-2:]] == [None, True]


def test_a_trial_evaluates_nothing_but_the_validation_loader(plan_for, monkeypatch):
    loaders, evaluated = [], []

    def prepared(config, dataset):
        from recbole_lite.data import data_preparation

        loaders.extend(data_preparation(config, dataset))
        return tuple(loaders)

    evaluate = LiteMixin.evaluate
    monkeypatch.setattr("recbole_lite.quick_start.data_preparation", prepared)
    monkeypatch.setattr(
        LiteMixin,
        "evaluate",
        lambda self, data, *a, **k: (evaluated.append(data), evaluate(self, data, *a, **k))[1],
    )
    trial(plan_for())
    _, valid_data, test_data = loaders
    assert len(evaluated) == 4
    assert all(loader is valid_data for loader in evaluated)
    assert test_data not in evaluated


def change_test_items(folder, seed=3):
    """Shuffle the last items among the users; put their rows last, so that ids stay the same."""
    path = folder / "tiny.inter"
    head, *lines = path.read_text().splitlines()
    rows = [line.split("\t") for line in lines]
    last = {}
    for row in rows:
        if row[0] not in last or int(row[3]) > int(last[row[0]][3]):
            last[row[0]] = row
    others = [row for row in rows if row is not last[row[0]]]
    items = [row[1] for row in last.values()]
    if seed is not None:
        random.Random(seed).shuffle(items)
    tests = [[u, item, r, t] for (u, _, r, t), item in zip(last.values(), items, strict=True)]
    path.write_text("\n".join([head, *("\t".join(row) for row in others + tests)]) + "\n")


def test_other_test_items_change_no_report(plan_for, data_path, tmp_path):
    """Nothing of the test split reaches the scheduler: its items could be any."""
    changed = tmp_path / "changed"
    shutil.copytree(data_path, changed)
    change_test_items(data_path / "tiny", seed=None)
    change_test_items(changed / "tiny")
    one, other = plan_for(), plan_for(data_path=str(changed))
    assert trial(one, "one") == trial(other, "other")
    settings = {**one.spec.values, **PARAMS}
    before, after = (
        run("GRU4Rec", "tiny", config_dict={**settings, "data_path": str(path)})["test_result"]
        for path in (data_path, changed)
    )
    assert before != after  # so a report of a test figure would have been seen


def test_a_trial_that_died_goes_on_from_its_last_epoch(plan_for, monkeypatch):
    plan = plan_for()
    whole = trial(plan, "whole")
    seen = []

    class Died(BaseException):
        """As a kill: no handler of the trial's runs."""

    def send(report):
        seen.append(report)
        if len(seen) == 2:
            raise Died

    folder = plan.trial_folder("cut")
    folder.mkdir(parents=True)
    with pytest.raises(Died):
        train(plan, PARAMS, folder, Reporter(send, folder))
    assert last_run(folder) is not None
    epochs = []
    fit = LiteMixin._train_epoch

    def counted(self, data, epoch, *a, **k):
        epochs.append(epoch)
        return fit(self, data, epoch, *a, **k)

    monkeypatch.setattr(LiteMixin, "_train_epoch", counted)
    again = trial(plan, "cut")
    assert epochs == [2, 3]
    assert again == whole  # epochs 1 and 2 are told once more: Ray may not have heard them


def test_a_damaged_checkpoint_starts_the_trial_anew(plan_for):
    plan = plan_for()
    whole = trial(plan, "t")
    folder = plan.trial_folder("t")
    for path in folder.glob("*/last-*"):
        path.write_bytes(b"cut")
    assert trial(plan, "t") == whole


def test_a_trial_does_not_start_anew_on_other_data(plan_for, data_path):
    """Its checkpoints are whole, and the other trials have had the data of before."""
    plan = plan_for()
    trial(plan, "t")
    folder = plan.trial_folder("t")
    path = data_path / "tiny" / "tiny.inter"
    path.write_text(path.read_text() + "u0\tnew\t3\t1\nu1\tnew\t3\t1\n")
    with pytest.raises(OtherIdsError, match=r"25 here, 1 of them new \(new\)"):
        trial(plan, "t")
    assert list(folder.glob("*/last-*"))


def test_an_ended_trial_only_tells_what_it_was(plan_for, monkeypatch):
    plan = plan_for()
    whole = trial(plan)
    folder = plan.trial_folder("t1")
    drop_resumable(folder)
    assert not list(folder.glob("*/last-*"))
    assert (best_run(folder) / "best.safetensors").exists()
    monkeypatch.setattr(LiteMixin, "fit", None)  # nothing is trained
    assert trial(plan) == whole


def test_a_run_without_validation_is_an_error(plan_for, tmp_path):
    report = Reporter(print, tmp_path)
    with pytest.raises(ConfigError, match="has not validated once"):
        report.end()


def test_the_best_entry_is_the_first_of_the_best():
    history = [{"valid_score": s, "n": n} for n, s in enumerate([0.1, 0.3, float("nan"), 0.3])]
    assert best_entry(history, bigger=True)["n"] == 1
    assert best_entry(history, bigger=False)["n"] == 0


def test_last_epoch_cuts_a_run_as_a_scheduler_does(plan_for):
    """Learning rates are planned for all epochs; the first ones are the very same."""
    settings = {**plan_for(lr_scheduler="linear", epochs=6).spec.values, **PARAMS}
    whole = run("GRU4Rec", "tiny", config_dict=settings)["history"]
    cut = run("GRU4Rec", "tiny", config_dict={**settings, "last_epoch": 3})["history"]

    def figures(history):
        return [(entry["train_loss"], entry["valid_result"]) for entry in history]

    assert figures(cut) == figures(whole[:3])
    planned = run("GRU4Rec", "tiny", config_dict={**settings, "epochs": 3})["history"]
    assert figures(planned) != figures(cut)
