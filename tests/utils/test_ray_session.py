"""Tasks on Ray: lost processes, errors, machines that lack something; Ray missing."""

import os
import sys
from pathlib import Path

import pytest

from recbole_lite.utils.errors import ConfigError, DataError, MissingDependencyError
from recbole_lite.utils.ray_session import RayOptions, check_workers, run_tasks, session

ray = pytest.importorskip("ray")
from local_ray import local_ray  # noqa: E402

OPTIONS = RayOptions()


@pytest.fixture(scope="module", autouse=True)
def _ray():
    with local_ray(2):
        yield


def test_a_task_whose_process_dies_runs_again_and_results_come_once(tmp_path):
    def square(folder, number):
        Path(folder, f"{number}-{os.getpid()}").touch()
        if number == 3 and len([*Path(folder).glob("3-*")]) < 3:
            os._exit(1)
        return number**2

    drawn = iter([(number,) for number in range(9)])
    found = list(run_tasks(ray, square, str(tmp_path), drawn, OPTIONS))
    assert sorted(found) == [(number, number**2) for number in range(9)]
    assert len([*tmp_path.glob("3-*")]) == 3


def test_a_task_that_always_loses_its_process_is_one_line():
    def die(common, name):
        os._exit(1)

    with pytest.raises(ConfigError, match=r"Ray: task 7 was lost 4 times \(WorkerCrashedError: "):
        list(run_tasks(ray, die, None, [(7,)], OPTIONS))


def test_an_error_of_a_task_is_raised_as_it_is():
    def refuse(common, name):
        raise DataError("is odd", "f.csv", 3)

    with pytest.raises(DataError, match=r"^f\.csv, line 3: is odd$"):
        list(run_tasks(ray, refuse, None, [(1,)], OPTIONS))


def test_tasks_are_drawn_as_they_end():
    """Two at a time and one more for the machine, not all at once."""
    drawn = []

    def arguments():
        for number in range(20):
            drawn.append(number)
            yield (number,)

    results = run_tasks(ray, lambda common, number: number, None, arguments(), OPTIONS)
    next(results)
    assert len(drawn) == 3
    assert len([*results]) == 19


def test_machines_that_lack_something(tmp_path):
    check_workers(ray, OPTIONS, {"--model": tmp_path})
    with pytest.raises(
        ConfigError, match=r"^--model: /no/where is not visible on machine [\d.]+; "
    ):
        check_workers(ray, OPTIONS, {"other": tmp_path, "--model": "/no/where"})
    with pytest.raises(ConfigError, match=r"cpus_per_worker: 99 requested, but .* has 2 CPUs"):
        check_workers(ray, RayOptions(cpus=99), {})
    if not ray.cluster_resources().get("GPU"):
        with pytest.raises(ConfigError, match=r"a GPU for each worker: 1 requested, but .* 0 GPUs"):
            check_workers(ray, RayOptions(use_gpu=True), {})


def test_missing_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    message = r'type: pip install "ray\[tune\]" \(the extra tune\)'
    with pytest.raises(MissingDependencyError, match=message), session(None, False, "ray"):
        pass
