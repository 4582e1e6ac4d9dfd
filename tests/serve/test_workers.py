"""Several processes: one model in memory, one set of figures, signals, replacement of the dead."""

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from recbole_lite import Recommender
from recbole_lite.cli.main import main

BODY = json.dumps({"history": ["i3", "i4"], "k": 3})


@pytest.fixture
def folder(trained, tmp_path):
    """A model with its graph."""
    assert main(["pack", f"--model={trained('LiteLLM4Rec')}", f"--out={tmp_path / 'packed'}"]) == 0
    return tmp_path / "packed"


@pytest.fixture
def serve(folder):
    """Start two workers; they end with the test."""
    started = []

    def start(*arguments):
        command = [sys.executable, "-m", "recbole_lite", "serve", f"--model={folder}", "--port=0"]
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            [*command, "--workers=2", *arguments], stdout=pipe, stderr=pipe, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children():
                child.kill()
            process.kill()
            process.communicate()


def wait_for(happened, seconds=60):
    end = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


def call(address, method, path, body=None):
    connection = http.client.HTTPConnection(address, timeout=30)
    connection.request(method, path, body, {"content-type": "application/json"})
    answer = connection.getresponse()
    return answer.status, answer.headers["x-model-version"], answer.read().decode()


def test_workers(serve, folder):
    process = serve()
    address = process.stdout.readline().split("/")[2]

    def serving(version):
        label = f'dataset="tiny",items="24",model="LiteLLM4Rec",version="{version}"'
        wanted = rf"^recbole_lite_model_info{{{label}}} 2.0$"
        return re.search(wanted, call(address, "GET", "/metrics")[2], re.MULTILINE)

    def another(*known):
        found = call(address, "GET", "/health")[1]
        return None if found in known else found

    def asked():
        figures = call(address, "GET", "/metrics")[2]
        pattern = r'requests_total{method="POST",route="/recommend",status="200"} (\d+)'
        return int(re.search(pattern, figures)[1])

    def ask(times):
        (expected,) = Recommender.load(folder).recommend([["i3", "i4"]], 3)
        versions = set()
        for _ in range(times):
            status, shown, text = call(address, "POST", "/recommend", BODY)
            content = json.loads(text)
            assert (status, content["version"]) == (200, shown)
            assert [one["id"] for one in content["recommendations"]] == [one.id for one in expected]
            versions.add(shown)
        return versions

    version = another()
    wait_for(lambda: serving(version))
    assert ask(20) == {version}
    wait_for(lambda: asked() == 20)  # counted after the answer is sent

    # Both have mapped the same file.
    workers = {
        child.pid
        for child in psutil.Process(process.pid).children()
        if "spawn_main" in " ".join(child.cmdline())
    }
    assert len(workers) == 2
    if Path("/proc/self/maps").exists():
        mapped = [
            set(re.findall(r"\S+\.weights", Path(f"/proc/{pid}/maps").read_text()))
            for pid in workers
        ]
        assert mapped[0] == mapped[1]
        assert len(mapped[0]) == 1

    # A worker that dies is replaced. The model has changed meanwhile: all load it.
    config = json.loads((folder / "config.json").read_text())
    config["recommender"]["temperature"] = {"value": 2.0}
    (folder / "config.json").write_text(json.dumps(config))
    killed = workers.pop()
    os.kill(killed, signal.SIGKILL)
    other = wait_for(lambda: another(version))
    wait_for(lambda: serving(other))
    assert ask(10) == {other}
    wait_for(lambda: asked() == 30)  # those of the dead count

    # SIGHUP reaches all.
    config["recommender"]["temperature"] = {"value": 1.0}
    (folder / "config.json").write_text(json.dumps(config))
    os.kill(process.pid, signal.SIGHUP)
    last = wait_for(lambda: another(version, other))
    wait_for(lambda: serving(last))
    assert ask(10) == {last}

    children = psutil.Process(process.pid).children()
    os.kill(process.pid, signal.SIGTERM)
    _, messages = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in messages, messages
    wait_for(lambda: not any(child.is_running() for child in children))
    with pytest.raises(ConnectionRefusedError):
        call(address, "GET", "/health")


def test_a_model_that_cannot_be_loaded(serve, folder):
    shutil.copy(folder / "config.json", folder / "items.jsonl")
    process = serve()
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 2
    (line,) = messages.splitlines()
    assert line.startswith(f"error: {folder / 'items.jsonl'}, line 1: not an object with id")
