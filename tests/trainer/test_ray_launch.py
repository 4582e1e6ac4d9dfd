"""Workers of Ray Train train what one process trains; bad input is one line."""

import sys
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from test_data_parallel import PLAIN, figures

from recbole_lite import run
from recbole_lite.cli.main import run_main
from recbole_lite.quick_start import run_one
from recbole_lite.trainer.resume import note_run, noted_run
from recbole_lite.utils import process_group
from recbole_lite.utils.errors import ConfigError

ray = pytest.importorskip("ray")
from local_ray import local_ray  # noqa: E402

from recbole_lite.trainer.ray_launch import launch_on_ray, plan_workers  # noqa: E402


@pytest.mark.integration
def test_two_workers_are_one_process_with_the_joint_batch(
    quick, config_for, workdir, tmp_path, monkeypatch
):
    def several(config_dict, runs):  # starting the workers is what takes the time
        divides = {"ItemLM": {"shard_items": dist.is_initialized()}}
        return [
            run(model, "tiny", config_dict={**config_dict, **own, **divides.get(model, {})})
            for model, own in runs.items()
        ]

    torch.set_num_threads(1)
    values = quick(epochs=2)
    runs = {**PLAIN, "ItemLM": {"n_heads": 2, "lm_dropout": 0.0, "user_dropout": 0.0}}
    alone = several(values, runs)
    config = config_for("GRU4Rec", num_workers=2, use_gpu=False)
    # A folder that only this process sees: Ray's start in another one.
    unshared = config_for("GRU4Rec", num_workers=2, checkpoint_dir="/proc/self/cwd/saved")
    monkeypatch.chdir(tmp_path)
    with local_ray(num_cpus=2):
        monkeypatch.chdir(workdir)
        with pytest.raises(ConfigError, match=r"checkpoint_dir: /proc/.* is not visible"):
            launch_on_ray(several, unshared, {"config_dict": values, "runs": PLAIN})
        together = launch_on_ray(several, config, {"config_dict": values, "runs": runs})
    for one, two in zip(alone, together, strict=True):
        assert figures(two) == pytest.approx(figures(one), rel=2e-5)
        assert two["best_valid_result"] == pytest.approx(one["best_valid_result"], abs=1e-3)
        assert two["test_result"] == pytest.approx(one["test_result"], abs=1e-3)
        assert (workdir / two["run_dir"] / "report.html").exists()
    assert len(list((workdir / "saved").iterdir())) == 2 * len(alone)  # Ray's folder is gone


# -- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--num_workers=2", "--nproc=2"], "nproc and num_workers: both start the processes"),
        (["--ray-address=auto"], "ray_address: trains on Ray only with --num_workers=N"),
        (["--num_workers=0"], "num_workers must be a whole number of at least 1"),
        (["--nproc=2", "--world_size=4"], "several machines runs on Ray; use --num_workers=N"),
        (["--nproc=2", "--ip=10.0.0.1"], "several machines runs on Ray; use --num_workers=N"),
        (["--offset=2"], "several machines runs on Ray; use --num_workers=N"),
        (["--num_workers=2", "--ray-address=127.0.0.1:9"], "no Ray cluster answers at"),
    ],
)
def test_contradictions_are_one_line(flags, message, quick, capsys):
    command = ["--model=GRU4Rec", "--dataset=tiny", f"--data_path={quick()['data_path']}"]
    assert run_main([*command, *flags]) == 2
    (line,) = (x for x in capsys.readouterr().err.splitlines() if x.startswith("error: "))
    assert message in line


def test_commands_of_one_process_refuse_several(config_for):
    for settings in ({"nproc": 2}, {"num_workers": 2}):
        with pytest.raises(ConfigError, match="this command trains in its own process"):
            run_one(config_for("GRU4Rec", **settings))


def test_without_ray_the_extra_is_named(quick, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.train.torch", None)
    command = ["--model=GRU4Rec", "--dataset=tiny", f"--data_path={quick()['data_path']}"]
    assert run_main([*command, "--num_workers=2"]) == 2
    assert 'pip install "ray[tune]"' in capsys.readouterr().err


def cluster(*machines):
    """Ray with machines of so many CPUs and GPUs; the last one is dead."""
    nodes = [{"Alive": True, "Resources": {"CPU": c, "GPU": g}} for c, g in machines]
    nodes.append({"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}})
    return SimpleNamespace(nodes=lambda: nodes)


@pytest.mark.parametrize(
    "machines, settings, expected",
    [
        ([(8.0, 0.0)], {"num_workers": 3}, (2, False)),
        ([(8.0, 0.0), (8.0, 0.0)], {"num_workers": 3}, (1, False)),
        ([(8.0, 0.0), (8.0, 0.0)], {"num_workers": 3, "cpus_per_worker": 4}, (4, False)),
        ([(8.0, 2.0), (8.0, 2.0)], {"num_workers": 4, "use_gpu": True}, (1, True)),
        ([(8.0, 2.0)], {"num_workers": 4, "use_gpu": False}, (2, False)),
    ],
)
def test_share_of_a_worker(machines, settings, expected, config_for):
    options = plan_workers(cluster(*machines), config_for("GRU4Rec", **settings))
    assert (options.cpus, options.use_gpu) == expected


@pytest.mark.parametrize(
    "machines, settings, message",
    [
        ([(2.0, 0.0)], {"num_workers": 3}, r"3 workers with 1 CPU each .* room for 2 \(CPUs: 2,"),
        # Two machines with 3 CPUs hold one worker of 2 CPUs each, not three.
        ([(3.0, 0.0)] * 2, {"num_workers": 3, "cpus_per_worker": 2}, "room for 2"),
        ([(8.0, 1.0)], {"num_workers": 2, "use_gpu": True}, "1 GPU each .*; --use_gpu=False"),
        ([(8.0, 0.0)], {"num_workers": 2, "use_gpu": True}, r"room for 0 \(CPUs: 8, GPUs: 0"),
    ],
)
def test_more_workers_than_the_cluster_has_room_for(machines, settings, message, config_for):
    with pytest.raises(ConfigError, match=f"num_workers: .*{message}"):
        plan_workers(cluster(*machines), config_for("GRU4Rec", **settings))


# -- failures ---------------------------------------------------------------------------------


def test_a_lost_peer_is_told_from_other_errors():
    def raised(error, cause=None):
        try:
            raise error from cause
        except Exception as caught:
            return caught

    closed = RuntimeError("[third_party/gloo/transport/tcp/pair.cc:534] Connection closed by peer")
    assert process_group.is_lost_peer(closed)
    assert process_group.is_lost_peer(raised(ConfigError("cannot be trained"), closed))
    assert process_group.is_lost_peer(dist.DistBackendError("NCCL communicator was aborted"))
    assert not process_group.is_lost_peer(raised(ConfigError("no"), ValueError("shape")))


def test_an_attempt_finds_the_run_of_the_one_before(config_for, tmp_path):
    """Each model has its own: a baseline may be of the same class with other settings."""
    own = {"attempts_dir": str(tmp_path)}
    config, other = config_for("GRU4Rec", **own), config_for("GRU4Rec", seed=7, **own)
    assert noted_run(config) is None
    note_run(config, tmp_path / "one")
    assert noted_run(config_for("GRU4Rec", **own)) == str(tmp_path / "one")
    assert noted_run(other) is None
    assert noted_run(config_for("GRU4Rec", checkpoint_every=0, **own)) is None
    note_run(config_for("GRU4Rec"), tmp_path / "two")  # without attempts nothing is noted
    assert noted_run(config) == str(tmp_path / "one")
