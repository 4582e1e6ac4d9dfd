"""The container's image, or, without docker, the steps that build it in a bare folder."""

import http.client
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from recbole_lite.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
BUILD, IMAGE = re.split(r"^FROM .*\n", (DEPLOY / "Dockerfile").read_text(), flags=re.M)[1:]
NAME = "recbole-lite-test"

pytestmark = pytest.mark.deploy


def docker() -> bool:
    try:
        return subprocess.run(["docker", "info"], capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.fixture
def packed(trained, tmp_path):
    assert main(["pack", f"--model={trained('LiteLLM4Rec')}", f"--out={tmp_path / 'packed'}"]) == 0
    return tmp_path / "packed"


def ask(port):
    """Ask until the service answers; recommendations and metrics."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    end = time.monotonic() + 120
    while True:
        try:
            connection.request("GET", "/health/live")
            assert connection.getresponse().read()
            break
        except OSError:
            connection.close()
            assert time.monotonic() < end
            time.sleep(0.2)
    body = json.dumps({"history": ["i3"], "k": 3, "explain": True, "diversity": 0.3})
    connection.request("POST", "/recommend", body, {"content-type": "application/json"})
    assert len(json.load(connection.getresponse())["recommendations"]) == 3
    connection.request("GET", "/items/i3/similar")
    assert len(json.load(connection.getresponse())["items"]) == 10
    connection.close()
    connection.request("GET", "/metrics")
    assert b"recbole_lite_requests_total" in connection.getresponse().read()


@pytest.mark.skipif(not docker(), reason="no docker daemon")
def test_the_image(packed):
    command = ["docker", "build", "-f", str(DEPLOY / "Dockerfile"), "-t", NAME, str(ROOT)]
    subprocess.run(command, check=True)
    command = ["docker", "run", "--rm", "-d", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL"]
    command += ["-p", "127.0.0.1::8000", "-v", f"{packed}:/model:ro", NAME, "--workers=2"]
    container = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    try:
        shown = subprocess.check_output(["docker", "port", container, "8000"], text=True)
        ask(int(shown.split()[0].rpartition(":")[2]))
        inside = ["docker", "exec", container, "python", "-c"]
        assert subprocess.run([*inside, "import torch"], capture_output=True).returncode
    finally:
        subprocess.run(["docker", "stop", container], check=True)


@pytest.mark.skipif(docker(), reason="the image is built")
def test_the_steps_in_a_bare_folder(packed, tmp_path, monkeypatch):
    bare = tmp_path / "bare"
    source, venv = bare / "src", bare / "venv"
    source.mkdir(parents=True)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    home = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(bare)}
    home |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    for line in BUILD.splitlines():
        step, _, rest = line.partition(" ")
        if step == "COPY":
            copy(rest.split()[:-1], source)
        elif step == "RUN":
            command = rest.replace("/opt/venv", str(venv))
            subprocess.run(shlex.split(command), cwd=source, env=home, check=True)
    before = state(venv, packed)
    with served(venv, packed, bare) as port:
        ask(port)
    code = (
        "import sys; from recbole_lite import Recommender;"
        f"r = Recommender.load({str(packed)!r}); assert r.recommend([['i3']])[0];"
        "print(r.runtime.name, {'torch', 'recbole', 'pandas'} & set(sys.modules))"
    )
    python = venv / "bin" / "python"
    shown = subprocess.check_output([python, "-B", "-c", code], cwd=bare, env=home, text=True)
    assert shown == "onnx set()\n"
    assert subprocess.run([python, "-c", "import torch"], capture_output=True).returncode
    assert state(venv, packed) == before  # nothing is written into the image or the model


def copy(names, target):
    """Copy what .dockerignore leaves."""
    kept = [
        line[1:]
        for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    for name in kept if names == ["."] else names:
        place = target / (name if names == ["."] else Path(name).name)
        place.parent.mkdir(exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, place)


@contextmanager
def served(venv, packed, bare):
    """Port of the image's entry point with two workers, with the image's environment."""
    variables = dict(re.findall(r"(\w+)=(\S+)", re.search(r"^ENV (.+)", IMAGE, re.M)[1]))
    variables |= {"PATH": f"{venv / 'bin'}:/usr/bin:/bin", "HOME": str(bare), "TMPDIR": str(bare)}
    command = json.loads(re.search(r"^ENTRYPOINT (.+)", IMAGE, re.M)[1])
    replaced = {"--model=/model": f"--model={packed}", "--host=0.0.0.0": "--host=127.0.0.1"}
    command = [replaced.get(part, part) for part in command]
    command[0] = str(venv / "bin" / command[0])
    process = subprocess.Popen(
        [*command, "--port=0", "--workers=2"],
        cwd=bare,
        env=variables,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield int(process.stdout.readline().split("/")[2].rpartition(":")[2])
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()


def state(*folders):
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {path: path.stat().st_mtime_ns for path in files}


def test_the_files_of_compose():
    services = yaml.safe_load((DEPLOY / "docker-compose.yaml").read_text())["services"]
    scraped = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())["scrape_configs"]
    assert scraped[0]["static_configs"][0]["targets"] == ["recbole-lite:8000"]
    assert services["recbole-lite"]["read_only"]
    mounted = services["prometheus"]["volumes"][0].split(":")[0]
    assert (DEPLOY / mounted).is_file()
