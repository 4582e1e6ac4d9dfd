"""The temperature of probabilities: its fit, its command, and what is answered with it."""

import json
import shutil

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from recbole_lite import Recommender
from recbole_lite.cli.main import main
from recbole_lite.inference import temperature
from recbole_lite.inference.temperature import fit_temperature, reliability
from recbole_lite.serve.app import create_app
from recbole_lite.utils.errors import RequestError

HISTORIES = [["i3", "i4", "i3"], ["i7"]]


@pytest.fixture(scope="module")
def calibrated(trained, tmp_path_factory):
    """Folder of a run with a temperature."""
    folder = tmp_path_factory.mktemp("calibrated") / "run"
    shutil.copytree(trained("SASRec"), folder)
    assert main(["calibrate", f"--model={folder}"]) == 0
    return folder


@pytest.mark.parametrize("truth", [0.05, 0.9, 30.0])
def test_the_fit_minimises_the_likelihood(truth):
    draw = np.random.default_rng(3)
    scores = draw.normal(size=(400, 30)) * 3 * truth
    scores[:, 0] = -np.inf
    scores[draw.random(scores.shape) < 0.1] = -np.inf
    targets = np.array([draw.choice(30, p=softmax(row / truth)) for row in scores])

    def nll(value):
        return -log_softmax(scores / value, axis=1)[np.arange(400), targets].mean()

    halves = [
        (torch.from_numpy(scores[part]), torch.from_numpy(targets[part]))
        for part in (slice(0, 150), slice(150, 400))
    ]
    wanted = minimize_scalar(nll, bounds=(truth / 5, truth * 5), options={"xatol": 1e-7}).x
    assert fit_temperature(lambda: halves) == pytest.approx(wanted, rel=1e-3)
    found = reliability(halves, wanted)
    assert found["nll"] == pytest.approx([nll(1), nll(wanted)])
    best = np.argsort(-scores, axis=1)[:, :10]
    assert found["hits"] == pytest.approx((best == targets[:, None]).any(1).mean())
    sums = np.take_along_axis(softmax(scores / wanted, axis=1), best, axis=1).sum(1)
    assert found["expected"][1] == pytest.approx(sums.mean())


def test_scores_that_say_nothing_end_at_the_limit():
    scores, targets = torch.tensor([[-torch.inf, 1.0, 0.0]]), torch.tensor([2])
    assert fit_temperature(lambda: [(scores, targets)]) == pytest.approx(1000)


def test_probabilities_are_the_softmax_over_what_may_be_recommended(calibrated):
    recommender = Recommender.load(calibrated)
    about = recommender.about["temperature"]
    known = [recommender.catalogue.resolve(history)[0] for history in HISTORIES]
    for exclude_seen in (True, False):
        scores = recommender.score(known).astype(float)
        for row, items in zip(scores, known, strict=True):
            row[[0, *(items if exclude_seen else [])]] = -np.inf
        expected = softmax(scores / about["value"], axis=1)
        choice = {"exclude_seen": exclude_seen, "probabilities": True}
        for where in (None, {"year": {"gte": 1992}}):
            rows = recommender.recommend(HISTORIES, 24, where=where, **choice)
            plain = recommender.recommend(HISTORIES, 24, where=where, exclude_seen=exclude_seen)
            for row, found, before in zip(expected, rows, plain, strict=True):
                assert [one.id for one in found] == [one.id for one in before]
                places = [recommender.catalogue.index[one.id] for one in found]
                assert [one.score for one in found] == pytest.approx(row[places], rel=1e-4)
    (popular,) = recommender.recommend([[]], 24, no_history="popular", probabilities=True)
    assert sum(one.score for one in popular) == pytest.approx(1)
    seen_all = recommender.catalogue.ids[1:]
    assert recommender.recommend([seen_all], exclude_seen=True, probabilities=True) == [[]]


def test_what_is_stored_and_where_it_is_answered(calibrated, capsys, workdir):
    about = json.loads((calibrated / "config.json").read_text())["recommender"]["temperature"]
    assert about["valid"]["nll"][1] < about["valid"]["nll"][0]
    rows = about["valid"]["rows"], about["test"]["rows"]
    assert rows == (28, 30)  # two users had their validation item before
    assert main(["pack", f"--model={calibrated}", "--out=packed"]) == 0
    card = (workdir / "packed" / "README.md").read_text()
    assert f"probability of {about['test']['expected'][1]:.3f} in sum" in card
    recommender = Recommender.load("packed")
    rows = recommender.recommend(HISTORIES, 3, probabilities=True)
    with TestClient(create_app(recommender)) as client:
        body = {"history": HISTORIES[0], "k": 3, "probabilities": True}
        found = client.post("/recommend", json=body).json()["recommendations"]
    assert [one["score"] for one in found] == pytest.approx([one.score for one in rows[0]])
    (workdir / "in.csv").write_text("user_id,history\na,i3;i4;i3\nb,i7\n")
    command = ["recommend", "--model=packed", "--k=3", "--probabilities"]
    assert main([*command, "--input=in.csv", "--output=out.csv"]) == 0
    lines = (workdir / "out.csv").read_text().splitlines()[1:]
    wanted = [one.score for row in rows for one in row]
    assert [float(line.split(",")[-1]) for line in lines] == pytest.approx(wanted, rel=1e-5)
    capsys.readouterr()
    assert main(["calibrate", "--model=packed"]) == 2
    assert "packed: a packed model; calibrate the run's folder" in capsys.readouterr().err


def test_large_parts_are_sampled(calibrated, monkeypatch):
    monkeypatch.setattr(temperature, "_MOST_ROWS", 10)
    assert temperature.calibrate(calibrated)["valid"]["rows"] < 30


def test_models_without_probabilities(trained):
    recommender = Recommender.load(trained("SASRec"))
    with pytest.raises(RequestError, match="has no temperature; type: recbole-lite calibrate"):
        recommender.recommend(HISTORIES, probabilities=True)
    sampled = {"LS": "valid_and_test"}, {"valid": "uni5", "test": "full"}
    args = {"split": sampled[0], "order": "TO", "group_by": "user", "mode": sampled[1]}
    with pytest.raises(RequestError, match=r"needs a ranking of all items"):
        temperature.calibrate(trained("SASRec", eval_args=args))
