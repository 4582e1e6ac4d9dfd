"""benchmarks/time_to_accuracy.py: metrics, clock, table and chart; sides on the tiny data."""

import importlib
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_data import QUICK, write_tiny

from recbole_lite import LiteConfig
from recbole_lite.config.registry import get_trainer
from recbole_lite.data import create_dataset, data_preparation

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("time_to_accuracy")


@pytest.fixture
def peers(script):
    return script.peers


@pytest.fixture
def sequences(peers):
    """Two users and five items."""
    of_user = [np.array([0, 1, 2]), np.array([3, 4, 0, 1])]
    return peers.Sequences(np.array(["a", "b"]), np.array(list("vwxyz")), of_user)


# -- data and metrics -------------------------------------------------------------------------


def test_metrics_by_hand(peers):
    found = peers.metrics(np.array([1, 3, 10, 11]))
    assert found["recall@10"] == 3 / 4
    assert found["ndcg@10"] == pytest.approx((1 + 1 / math.log2(4) + 1 / math.log2(11)) / 4)


def test_ranks_leave_out_the_history_and_count_ties_above(peers, sequences):
    table = np.array([[9, 8, 5, 5, 1], [4, 2, 3, 9, 9]])
    seen = []

    def score(histories):
        seen.append([list(history) for history in histories])
        return table[[0 if history[0] == 0 else 1 for history in histories]]

    # Test: user a's 2 (score 5) against 3 (5) and 4 (1); user b's 1 (2) against 2 (3).
    assert peers.target_ranks(score, sequences, "test").tolist() == [2, 2]
    # Validation: user a's 1 (8) against 5, 5, 1; user b's 0 (4) against 1 (2) and 2 (3).
    assert peers.target_ranks(score, sequences, "valid", batch=1).tolist() == [1, 1]
    assert seen == [[[0, 1], [3, 4, 0]], [[0]], [[3, 4]]]
    assert table[0, 0] == 9  # the side's scores are its own


def test_a_score_that_is_not_finite_is_refused(peers, sequences):
    with pytest.raises(ValueError, match="not finite"):
        peers.target_ranks(lambda histories: np.full((2, 5), np.nan), sequences, "test")


def test_sequences_are_in_order_of_time_then_of_the_file(peers, tmp_path):
    rows = ["u2 b 5", "u1 c 2", "u1 a 1", "u2 a 1", "u1 b 2", "u2 c 5"]
    (tmp_path / "d").mkdir()
    lines = ["user_id:token item_id:token timestamp:float", *rows]
    (tmp_path / "d" / "d.inter").write_text("\n".join(lines).replace(" ", "\t") + "\n")
    found = peers.read_sequences(tmp_path, "d")
    names = {u: found.items[s].tolist() for u, s in zip(found.users, found.of_user, strict=True)}
    assert names == {"u1": ["a", "c", "b"], "u2": ["a", "b", "c"]}
    frame = found.training_frame()
    assert frame.to_dict("list") == {"user_id": [0, 1], "item_id": [0, 0], "position": [0, 0]}


def test_rows_are_padded_in_front(peers):
    found = peers.left_padded([np.array([1, 2, 3]), np.array([4]), np.array([], int)], 2, 9)
    assert found.tolist() == [[2, 3], [9, 4], [9, 9]]


# -- time -------------------------------------------------------------------------------------


def train(peers, sequences, monkeypatch, minutes, schedule):
    """Train for steps of 15 seconds; an evaluation takes 200. Returns points, rates, draws."""
    now, rates, draws = [1000.0], [], []
    monkeypatch.setattr(peers, "time", SimpleNamespace(process_time=lambda: now[0]))
    model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout())
    model[0].eval()  # a part that the side has frozen
    optimizer = torch.optim.SGD(model.parameters(), lr=8.0)

    def score(histories):
        assert not any(module.training for module in model.modules())
        now[0] += 200 / 2  # of validation and test
        torch.rand(3)
        return torch.zeros(len(histories), 5)

    def fit():
        now[0] += 500  # of preparation
        stopwatch.start()
        torch.manual_seed(0)
        while True:
            assert model.training
            assert not model[0].training
            assert model[1].training
            draws.append(torch.rand(1).item())
            now[0] += 15
            optimizer.step()
            rates.append(optimizer.param_groups[0]["lr"])

    stopwatch = peers.Stopwatch(sequences, minutes, schedule, lambda points: None)
    stopwatch.train(model, score, fit)
    assert stopwatch.preparation_seconds == 1500
    optimizer.step()  # the hooks are gone
    return stopwatch.points, rates, draws


def test_points_come_after_minutes_of_training_alone(peers, sequences, monkeypatch):
    points, rates, draws = train(peers, sequences, monkeypatch, [0.6, 1, 2], "constant")
    assert [point["checkpoint"] for point in points] == [0.6, 1, 2]
    assert [point["minutes"] for point in points] == [0.75, 1, 2]
    assert [point["steps"] for point in points] == [3, 4, 8]
    # All scores are equal: user a's test target is one of three items, user b's one of two.
    assert points[0]["test"] == peers.metrics(np.array([3, 2]))
    assert set(rates) == {8.0}
    torch.manual_seed(0)  # evaluations draw from generators of their own
    assert draws == [torch.rand(1).item() for _ in draws]


def test_the_linear_schedule_ends_at_0(peers, sequences, monkeypatch):
    points, rates, _ = train(peers, sequences, monkeypatch, [2], "linear")
    assert [point["minutes"] for point in points] == [2]
    shares = [step / 8 for step in range(1, 8)]
    assert rates[:7] == pytest.approx([8 * (1 - share) / 0.98 for share in shares])
    watch = peers.Stopwatch(sequences, [2], "linear", print)
    assert [watch.rate(share) for share in (0, 0.01, 0.02, 1, 1.1)] == [0, 0.5, 1, 0, 0]


def test_only_the_end_of_a_planned_run_is_a_checkpoint(peers):
    assert peers.checkpoints(6, "linear") == [6]
    assert peers.checkpoints(6, "constant") == [1, 2, 3, 6]
    assert peers.checkpoints(0.5, "constant") == [0.5]


# -- sides ------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["SASRec", "ItemLM"])
def test_ranks_agree_with_recboles_evaluation(script, tmp_path, model):
    write_tiny(tmp_path)
    given = {**QUICK, "data_path": str(tmp_path), "metric_decimal_place": 10}
    config = LiteConfig(model, "tiny", config_dict=given)
    dataset = create_dataset(config)
    train_data, valid_data, test_data = data_preparation(config, dataset)
    torch.manual_seed(0)
    net = config.model_class(config, train_data._dataset).eval()
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, net)
    sequences = script.peers.read_sequences(tmp_path, "tiny")
    script.check_sequences(sequences, train_data._dataset)
    ids = dataset.token2id(dataset.iid_field, sequences.items)
    score = script.scorer(net, ids, config["MAX_ITEM_LIST_LENGTH"])
    for part, loader in (("valid", valid_data), ("test", test_data)):
        theirs = trainer.evaluate(loader, load_best_model=False)
        with torch.no_grad():
            ours = script.peers.metrics(script.peers.target_ranks(score, sequences, part), 5)
        assert 0 < ours["recall@5"] < 1
        assert ours == pytest.approx({name: theirs[name] for name in ours})


def test_other_sequences_than_the_peers_read_are_refused(script, tmp_path):
    write_tiny(tmp_path)
    config = LiteConfig("SASRec", "tiny", config_dict={**QUICK, "data_path": str(tmp_path)})
    train_data, *_ = data_preparation(config, create_dataset(config))
    sequences = script.peers.read_sequences(tmp_path, "tiny")
    sequences.of_user[3] = sequences.of_user[3][::-1]
    with pytest.raises(SystemExit, match=f"user {sequences.users[3]}: "):
        script.check_sequences(sequences, train_data._dataset)


def test_a_side_runs_once(script, tmp_path, monkeypatch, capsys):
    write_tiny(tmp_path)
    words = [
        "time_to_accuracy.py", "--side=sasrec", "--dataset=tiny", f"--data_path={tmp_path}",
        "--minutes=1e-9", f"--out={tmp_path / 'out'}", f"--set={json.dumps(QUICK)}",
    ]  # fmt: skip
    monkeypatch.setattr("sys.argv", words)
    script.main()
    found = json.loads((tmp_path / "out" / "sasrec.json").read_text())
    assert found["finished"]
    assert found["users"] == 30
    assert found["preparation_seconds"] > 0
    assert [point["steps"] for point in found["points"]] == [1]
    assert found["settings"]["train_batch_size"] == 64
    assert "sasrec: 0.0 minutes, 1 steps" in capsys.readouterr().out
    script.main()
    assert "is finished" in capsys.readouterr().out


def test_a_peer_needs_its_environment(script, monkeypatch):
    monkeypatch.setattr("sys.argv", ["time_to_accuracy.py", "--side=replay"])
    with pytest.raises(SystemExit, match="--replay_python=PATH"):
        script.main()


# -- table and chart --------------------------------------------------------------------------


def run_of(side, label, schedule, figures, model=None):
    """A run with (checkpoint, validation, test) as its points."""
    points = [
        {"checkpoint": m, "minutes": m, "steps": 10 * m, "valid": {"recall@10": valid},
         "test": {"recall@10": test}}
        for m, valid, test in figures
    ]  # fmt: skip
    return {
        "side": side, "label": label, "schedule": schedule, "minutes": figures[-1][0],
        "preparation_seconds": 7.4, "points": points, **({"model": model} if model else {}),
    }  # fmt: skip


def test_the_plot_of_small_files(script, tmp_path, monkeypatch, capsys):
    runs = {
        "a": run_of("item-lm", "ItemLM", "constant", [(1, 0.2, 0.1), (6, 0.4, 0.29)], "ItemLM"),
        "b": run_of("item-lm", "ItemLM", "linear", [(1, 0.3, 0.22)], "ItemLM"),
        "c": run_of("item-lm", "ItemLM", "linear", [(3, 0.4, 0.31)], "ItemLM"),
        # Validation prefers the first point.
        "d": run_of("rectools", "RecTools", "constant", [(1, 0.3, 0.30), (6, 0.2, 0.35)]),
        "e": run_of("sasrec", "SASRec", "constant", [(1, 0.1, 0.1), (6, 0.2, 0.2)], "SASRec"),
    }
    for name, content in runs.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    monkeypatch.setattr("sys.argv", script_words(tmp_path))
    script.main()
    text = (tmp_path / "time_to_accuracy.md").read_text()
    assert text == capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["ItemLM", "0.1000", "", "0.2900"] in rows
    assert ["ItemLM, planned", "0.2200", "0.3100", ""] in rows
    assert ["RecTools", "0.3000", "", "0.3000"] in rows
    assert ["SASRec", "constant", "6", "60", "7"] in rows
    assert "Best peer: RecTools, 0.3000 after 6 minutes." in text
    assert "ItemLM: not reached." in text
    assert "ItemLM, planned: first at 3 minutes." in text
    chart = (tmp_path / "time_to_accuracy.svg").read_text()
    assert chart.startswith("<svg")
    assert "<style>" in chart
    assert all(name in chart for name in ("ItemLM, planned, 3: 0.3100", "RecTools, 6: 0.3000"))
    monkeypatch.setattr(script.charts, "COLOURS", 3)
    with pytest.raises(SystemExit, match="4 lines; a chart has 3 at most"):
        script.main()
    monkeypatch.setattr("sys.argv", [*script_words(tmp_path), "--sides=item-lm,sasrec"])
    script.main()
    assert "RecTools" not in (tmp_path / "time_to_accuracy.svg").read_text()


def script_words(folder):
    return ["time_to_accuracy.py", "--plot", f"--out={folder}"]


def test_nothing_to_plot(script, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", script_words(tmp_path))
    with pytest.raises(SystemExit, match="no results"):
        script.main()
