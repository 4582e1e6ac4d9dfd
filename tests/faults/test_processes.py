"""Faults injected into real processes: kill -9, full and read-only disks, concurrent starts."""

import logging
import random
from pathlib import Path

import pytest
import torch
from kill_and_resume import KINDS, Scenario, check_files, checkpoint_folder, differences
from processes import Job, Processes

from recbole_lite.trainer import checkpoint
from recbole_lite.utils.log import _FileHandler

RUN = {"model": "LiteLLM4Rec", "dataset": "tiny"}


@pytest.fixture(scope="module")
def processes():
    """Forks runs, see processes.py."""
    with Processes() as server:
        yield server


@pytest.fixture(scope="module")
def world(processes, tmp_path_factory):
    """Settings of a tiny run with an Item LLM to encode."""
    return processes.world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def scenario(processes, world, tmp_path_factory):
    return Scenario(processes, tmp_path_factory.mktemp("kills"), world)


def flags(settings, **changes):
    values = {**settings, **changes}
    return ["run", "--model=LiteLLM4Rec", "--dataset=tiny"] + [
        f"--{key}={value}" for key, value in values.items()
    ]


def error_of(job: Job) -> str:
    """The error that a command has printed: it must be the last line, and no traceback."""
    text = (job.folder / "stderr").read_text()
    assert "Traceback" not in text
    last = text.splitlines()[-1]
    assert last.startswith("error: "), text
    return last


# -- kills --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "operation",
    [
        "os.rename cache/",  # the vectors are written, not yet in place
        "os.rename saved/*/.config.json",  # a folder without a configuration
        "os.rename saved/*/.last-000000.safetensors",  # best weights, half a pair
        "os.remove saved/*/last-000000",  # a new pair, and the oldest half removed
    ],
)
def test_a_run_killed_at_a_file_operation_ends_as_if_it_had_not_been(scenario, operation):
    kind, _, path = operation.partition(" ")
    folder = checkpoint_folder(scenario.whole.folder).name
    wanted = f"{kind} {path.replace('*', folder)}".replace("cache/", "cache/.")
    operations = [event.split(" ", 2)[2] for event in scenario.whole.operations()]
    die_at = next(n for n, event in enumerate(operations) if event.startswith(wanted))
    name = f"at-{die_at}"
    assert scenario.strike(name, random.Random(die_at), die_at) == []
    assert scenario.phases.total() >= 1


def test_runs_killed_at_random_moments_end_as_if_they_had_not_been(scenario):
    draw = random.Random(9)
    for number in range(2):
        assert scenario.strike(f"random-{number}", draw) == []


def test_every_kind_of_checkpoint_is_covered_by_the_long_version():
    assert {"plain", "stages, schedule", "validation every 2nd epoch"} == set(KINDS)


def test_same_seed_same_weights_in_another_process(scenario):
    again = scenario.start("again")
    assert scenario.processes.finish(again) == 0
    assert differences(again, scenario.whole) == []


def test_another_seed_gives_other_weights(scenario):
    """Else the test above would say nothing."""
    settings = {**scenario.settings, "seed": 1}
    job = scenario.processes.start(
        scenario.folder / "other", "run", {**RUN, "config_dict": settings}
    )
    assert scenario.processes.finish(job) == 0
    assert len(differences(job, scenario.whole)) > 5


# -- full and read-only disks -------------------------------------------------------------------


def on_disk(processes, folder, arguments, **disk):
    job = processes.start(folder, "cli", *arguments, tmpfs={"at": "disk", **disk})
    status = processes.finish(job)
    if status == 77:
        pytest.skip("mounting a tmpfs is not allowed here")
    return job, status, Path(folder, "disk.after")


def test_a_disk_that_gets_full_leaves_the_checkpoint_before(processes, world, scenario, tmp_path):
    """Two pairs fit, the third does not; with more space the run goes on as if it always had."""
    job, status, disk = on_disk(processes, tmp_path, flags(world), size="176k")
    assert status == 2
    # Whichever file it was: what needed the space came after two whole pairs.
    assert "cannot be written: No space left on device" in error_of(job)
    assert "Earlier checkpoints are intact; --resume=" in error_of(job)
    check_files(disk)
    folder = checkpoint_folder(disk)
    assert checkpoint.load_last(folder)[1]["epoch"] == 1
    settings = {**world, "resume": str(folder.relative_to(disk))}
    resumed = processes.start(disk, "run", {**RUN, "config_dict": settings})
    assert processes.finish(resumed) == 0
    assert differences(resumed, scenario.whole) == []


def test_a_disk_without_room_for_item_vectors_costs_only_their_cache(processes, world, tmp_path):
    before = tmp_path / "disk.before"
    before.mkdir()
    (before / "other.safetensors").write_bytes(bytes(8192))  # fills the disk
    arguments = flags(world, item_embedding_cache_dir=tmp_path / "disk", epochs=1)
    job, status, disk = on_disk(processes, tmp_path, arguments, size="8k", enter=False)
    text = (job.folder / "stderr").read_text()
    assert status == 0, text
    assert "No space left on device" in text
    assert "the vectors are not cached" in text
    assert (disk / "other.safetensors").read_bytes() == bytes(8192)
    assert not list(disk.glob("*tiny-*[!k]"))  # no vectors, whole or not; the lock stays


def test_a_read_only_working_directory_is_one_line(processes, world, tmp_path):
    job, status, disk = on_disk(processes, tmp_path, flags(world), read_only=True)
    assert status == 2
    assert "cannot write the log: Read-only file system" in error_of(job)
    assert list(disk.iterdir()) == []


def test_a_read_only_checkpoint_folder_is_one_line(processes, world, tmp_path):
    arguments = flags(world, checkpoint_dir=tmp_path / "disk" / "saved")
    job, status, _ = on_disk(processes, tmp_path, arguments, read_only=True, enter=False)
    assert status == 2
    assert error_of(job).endswith("disk/saved: Read-only file system")
    (tmp_path / "file").touch()
    arguments = flags(world, checkpoint_dir=tmp_path / "file" / "saved")
    job = processes.start(tmp_path / "run", "cli", *arguments)
    assert processes.finish(job) == 2
    assert "Not a directory" in error_of(job)


def test_a_read_only_cache_is_read_and_an_empty_one_costs_the_vectors(processes, world, tmp_path):
    cache = tmp_path / "disk"
    settings = {"epochs": 1, "item_embedding_cache_dir": cache}
    arguments = flags(world, **settings)
    job, status, disk = on_disk(processes, tmp_path, arguments, read_only=True, enter=False)
    assert status == 0
    assert "new item vectors are not cached" in (job.folder / "stderr").read_text()
    disk.rename(tmp_path / "empty.after")
    cache.rmdir()
    assert processes.finish(processes.start(tmp_path, "cli", *arguments)) == 0
    cache.rename(tmp_path / "disk.before")
    job, status, _ = on_disk(processes, tmp_path, arguments, read_only=True, enter=False)
    assert status == 0
    assert "(0 texts encoded)" in (job.folder / "stderr").read_text()


def test_a_limit_on_the_size_of_files_is_an_error_not_a_signal(processes, world, tmp_path):
    """``ulimit -f``, quotas: EFBIG instead of ENOSPC."""
    job = processes.start(tmp_path, "cli", *flags(world), file_limit=30_000)
    assert processes.finish(job) == 2
    assert "last-000000.pt: cannot be written: File too large" in error_of(job)
    check_files(tmp_path)


# -- concurrent runs ----------------------------------------------------------------------------


def test_of_four_processes_on_an_empty_cache_one_encodes(processes, world, tmp_path):
    settings = {**world, "item_embedding_cache_dir": str(tmp_path / "shared"), "epochs": 1}
    jobs = [
        processes.start(tmp_path / f"run-{n}", "run", {**RUN, "config_dict": settings})
        for n in range(4)
    ]
    assert [processes.finish(job) for job in jobs] == [0] * 4
    encoded = [sum("encoding 24 items" in event for event in job.events) for job in jobs]
    assert sorted(encoded) == [0, 0, 0, 1]
    assert len({str(job.result["test_result"]) for job in jobs}) == 1
    (tmp_path / "cache").symlink_to(tmp_path / "shared")
    check_files(tmp_path)
    names = sorted(path.name for path in (tmp_path / "shared").iterdir())
    assert len(names) == 2  # the vectors and their lock, nothing temporary
    assert names[1] == f"{names[0]}.lock"


def test_four_runs_in_one_folder_keep_out_of_each_others_way(processes, world, tmp_path):
    """Started within one second, they would have the same names by RecBole's rule."""
    out = tmp_path / "out"
    settings = {**world, "epochs": 1, "checkpoint_dir": str(out)}
    jobs = [
        processes.start(tmp_path / f"run-{n}", "run", {**RUN, "config_dict": settings})
        for n in range(4)
    ]
    assert [processes.finish(job) for job in jobs] == [0] * 4
    folders = {job.result["run_dir"] for job in jobs}
    assert len(folders) == len(list(out.iterdir())) == 4
    weights = [checkpoint.load_weights(Path(f, checkpoint.BEST_FILE))[0] for f in folders]
    assert all(
        torch.equal(tensor, weights[0][name]) for w in weights[1:] for name, tensor in w.items()
    )


def test_the_lock_of_a_process_killed_while_it_encoded_does_not_block(processes, world, tmp_path):
    settings = {**world, "epochs": 1}
    job = processes.start(tmp_path, "run", {**RUN, "config_dict": settings}, die_at=11)
    assert processes.finish(job) == -9
    assert "cache/.tiny-bert" in job.operations()[-1]  # under the lock, before the vectors exist
    assert list((tmp_path / "cache").glob("*.lock"))
    again = processes.start(tmp_path, "run", {**RUN, "config_dict": settings})
    assert processes.finish(again) == 0
    check_files(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
def test_a_log_on_a_full_disk_is_said_once(capsys):
    handler = _FileHandler("/dev/full")
    for _ in range(3):
        handler.handle(logging.makeLogRecord({"msg": "a line"}))
    text = capsys.readouterr().err
    assert text == "/dev/full: cannot write the log: No space left on device\n"
