"""One training on two Ray nodes, one of which is killed, as the user gives the command."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import recbole_lite
from recbole_lite import run

pytest.importorskip("ray")
from local_ray import importable, two_nodes

pytestmark = pytest.mark.cluster

EPOCHS = 30
PROGRAM = Path(recbole_lite.__file__).parents[1] / "run_recbole_lite.py"


@pytest.fixture
def cluster():
    with importable(), two_nodes() as both:
        yield both


def start(folder, config_dict, cluster, **changes):
    """Train on both nodes, with files in `folder`."""
    values = {**config_dict, "num_workers": 2, "ray_address": cluster.address, **changes}
    (folder / "values.yaml").write_text(json.dumps(values))
    command = [sys.executable, PROGRAM, "--model=GRU4Rec", "--dataset=tiny"]
    command.append("--config_files=values.yaml")
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def history(folder, model):
    """Losses and validation figures of the one run of a model, epoch by epoch."""
    (path,) = folder.glob(f"saved/{model}-tiny-*/history.csv")
    rows = list(csv.DictReader(path.open()))
    assert [int(row["epoch"]) for row in rows] == list(range(EPOCHS))
    return [[float(v) for k, v in row.items() if k not in ("epoch", "seconds")] for row in rows]


def wait_for(folder, pattern, started):
    patience = time.monotonic() + 300
    while not list(folder.glob(pattern)):
        assert started.poll() is None, started.stdout.read()
        assert time.monotonic() < patience
        time.sleep(0.02)


def compare(folder, other, model, **tolerance):
    for one, two in zip(history(folder, model), history(other, model), strict=True):
        assert one == pytest.approx(two, **tolerance)


def test_a_killed_node_costs_an_epoch_and_changes_no_figure(cluster, quick, tmp_path):
    """It dies in the second training, of a baseline with dropout; the first is not repeated."""
    values = quick(epochs=EPOCHS, stopping_step=EPOCHS, loss_type="CE", use_gpu=False)
    values |= {"train_batch_size": 37, "dropout_prob": 0.0, "state": "INFO"}
    values["baselines"] = ["SASRec"]
    folders = {name: tmp_path / name for name in ("whole", "killed", "alone")}
    for folder in folders.values():
        folder.mkdir()

    whole = start(folders["whole"], values, cluster)
    output, _ = whole.communicate(timeout=600)
    assert whole.returncode == 0, output

    killed = start(folders["killed"], values, cluster)
    wait_for(folders["killed"], "saved/SASRec-*/last-000002.pt", killed)
    cluster.remove_node(cluster.second, allow_graceful=False)
    cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    output, _ = killed.communicate(timeout=600)
    print(output)
    assert killed.returncode == 0, output
    assert "training interrupted: worker" in output
    for model in ("GRU4Rec", "SASRec"):
        compare(folders["killed"], folders["whole"], model, rel=1e-5, abs=1e-6)
    # Of all epochs of the training that was interrupted, at most the one it died in came twice.
    logs = [path.read_text() for path in folders["killed"].glob("log/SASRec/*.log")]
    assert EPOCHS <= sum(log.count(" training [") for log in logs) <= EPOCHS + 1

    torch.set_num_threads(1)
    os.chdir(folders["alone"])
    run("GRU4Rec", "tiny", config_dict={**values, "baselines": []})
    compare(folders["killed"], folders["alone"], "GRU4Rec", rel=1e-3, abs=1e-3)


def test_a_signal_ends_it_as_a_training_without_ray(cluster, quick, tmp_path):
    values = quick(epochs=9999, stopping_step=9999, loss_type="CE", use_gpu=False)
    started = start(tmp_path, values, cluster)
    wait_for(tmp_path, "saved/GRU4Rec-*/last-*.pt", started)
    started.send_signal(signal.SIGTERM)
    output, _ = started.communicate(timeout=120)
    assert started.returncode == 128 + signal.SIGTERM, output
    assert output.splitlines()[-1].startswith("interrupted; --resume=FOLDER")
    assert "Traceback" not in output
    assert [path.name[:8] for path in (tmp_path / "saved").iterdir()] == ["GRU4Rec-"]


def test_an_error_in_a_worker_is_one_line_and_not_tried_again(cluster, quick, tmp_path):
    values = quick(loss_type="CE", use_gpu=False, data_path=str(tmp_path / "nowhere"))
    started = start(tmp_path, values, cluster)
    output, _ = started.communicate(timeout=300)
    assert started.returncode == 2
    (line,) = (line for line in output.splitlines() if line.startswith("error: "))
    assert "nowhere" in line
    assert "Traceback" not in output
    assert "training interrupted" not in output
