"""Metrics, logs, tokens, and the replacement of a model while requests go on."""

import gc
import json
import logging
import shutil
import threading
import time
import weakref

import pytest
from fastapi.testclient import TestClient

from recbole_lite import Recommender
from recbole_lite.serve.app import create_app
from recbole_lite.serve.limits import Limits, Options
from recbole_lite.serve.live_model import model_files
from recbole_lite.serve.metrics import FOLDER, Metrics
from recbole_lite.serve.middleware import ACCESS_LOG

ASKED = {"history": ["i3", "i4"], "k": 24}


@pytest.fixture
def recommender(trained):
    return Recommender.load(trained("SASRec"))


def figures(client):
    """Name with labels -> value, of the metrics."""
    lines = client.get("/metrics").text.splitlines()
    return {k: float(v) for k, v in (x.rsplit(" ", 1) for x in lines if x[0] != "#")}


def test_metrics(recommender):
    with TestClient(create_app(recommender)) as client:
        version = client.get("/health").json()["version"]
        for _ in range(3):
            client.post("/recommend", json=ASKED)
        client.post("/recommend", json={})
        client.head("/items/i3")
        client.get("/items/zz")
        client.request("MADE-UP", "/absent")
        found = figures(client)
    counted = "recbole_lite_requests_total"
    assert found[f'{counted}{{method="POST",route="/recommend",status="200"}}'] == 3
    assert found[f'{counted}{{method="POST",route="/recommend",status="422"}}'] == 1
    assert found[f'{counted}{{method="HEAD",route="/items/{{id:path}}",status="200"}}'] == 1
    assert found[f'{counted}{{method="GET",route="/items/{{id:path}}",status="404"}}'] == 1
    assert found[f'{counted}{{method="other",route="other",status="404"}}'] == 1
    assert found['recbole_lite_request_seconds_count{route="/recommend"}'] == 4
    assert found["recbole_lite_batch_size_sum"] == found["recbole_lite_batch_size_count"] == 3
    assert found["recbole_lite_waiting"] == 0
    (model,) = (name for name in found if name.startswith("recbole_lite_model_info"))
    assert f'version="{version}"' in model
    assert 'model="SASRec"' in model
    assert found["process_resident_memory_bytes"] > 0


def test_a_worker_that_is_just_creating_its_file(tmp_path, monkeypatch):
    metrics = Metrics()
    monkeypatch.setenv(FOLDER, str(tmp_path))
    (tmp_path / "counter_1.db").touch()
    assert metrics.text() == b""


def test_request_ids_and_the_access_log(recommender, monkeypatch):
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(json.loads(record.getMessage()))
    logger = logging.getLogger(ACCESS_LOG)
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "level", logging.INFO)

    def fail(*_):
        raise RuntimeError("out of memory")

    with TestClient(create_app(recommender)) as client:
        answer = client.get("/items?query=toy", headers={"x-request-id": "abc-1"})
        assert answer.headers["x-request-id"] == "abc-1"
        other = client.get("/health", headers={"x-request-id": "a?"})
        assert len(other.headers["x-request-id"]) == 32
        monkeypatch.setattr(recommender.runtime, "rank", fail)
        failed = client.post("/recommend", json=ASKED)
    assert failed.status_code == 500
    assert failed.json()["detail"] == f"internal error; request id {lines[2]['request_id']}"
    assert [(x["method"], x["path"], x["status"]) for x in lines] == [
        ("GET", "/items", 200),
        ("GET", "/health", 200),
        ("POST", "/recommend", 500),
    ]
    assert lines[0]["request_id"] == "abc-1"
    assert lines[0]["ms"] > 0
    assert lines[0]["version"] == answer.headers["x-model-version"]


def test_a_full_queue_is_not_ready(recommender, monkeypatch):
    app = create_app(recommender, Limits(max_waiting=2))
    with TestClient(app) as client:
        assert client.get("/health/ready").json() == {"status": "ok"}
        monkeypatch.setattr(type(app.state.live.current.batcher), "waiting", 2)
        assert client.get("/health/ready").status_code == 503
        assert client.get("/health/live").status_code == 200


def test_a_token(recommender):
    with TestClient(create_app(recommender, options=Options(token="secret"))) as client:
        for given in (None, "Bearer wrong", "secret", "Bearer s\xe9cret"):
            headers = {"authorization": given.encode("latin-1")} if given else {}
            answer = client.get("/health", headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        right = {"authorization": "Bearer secret"}
        assert client.get("/health", headers=right).status_code == 200
        assert client.post("/recommend", json=ASKED, headers=right).status_code == 200
        assert client.get("/health/ready").status_code == 200  # a probe


def test_other_origins(recommender):
    preflight = {"origin": "https://shop", "access-control-request-method": "POST"}
    with TestClient(create_app(recommender)) as client:
        assert (
            "access-control-allow-origin"
            not in client.options("/recommend", headers=preflight).headers
        )
    options = Options(cors_origins=["https://shop"], token="secret")
    with TestClient(create_app(recommender, options=options)) as client:
        answer = client.options("/recommend", headers=preflight)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://shop"
        other = client.options("/recommend", headers={**preflight, "origin": "https://other"})
        assert "access-control-allow-origin" not in other.headers


def test_behind_a_proxy(recommender):
    options = Options(root_path="/api", token="secret")
    with TestClient(create_app(recommender, options=options)) as client:
        right = {"authorization": "Bearer secret"}
        for path in ("/api/items/i3", "/items/i3"):  # the proxy keeps or removes the prefix
            assert client.get(path, headers=right).json()["id"] == "i3"
        assert client.get("/api/health/live").status_code == 200
        assert client.get("/openapi.json", headers=right).json()["servers"] == [{"url": "/api"}]


def wait_for(client, name):
    deadline = time.monotonic() + 30
    while name not in figures(client):
        assert time.monotonic() < deadline
        time.sleep(0.05)


# -- replacement ------------------------------------------------------------------------------


def test_a_model_is_replaced_under_load(trained, tmp_path):
    folder = tmp_path / "live"
    sources = [trained("SASRec"), trained("SASRec", repeatable=True)]
    shutil.copytree(sources[0], folder)
    expected = {}
    for source in sources:
        app = create_app(Recommender.load(source))
        (found,) = Recommender.load(source).recommend([ASKED["history"]], 24)
        expected[app.state.live.current.version] = [one.id for one in found]
    (old, new), answers, end = expected, [], threading.Event()

    def ask(client):
        while not end.is_set():
            answers.append(client.post("/recommend", json=ASKED))

    options = Options(load=lambda: Recommender.load(folder), watch=True)
    app = create_app(Recommender.load(folder), options=options)
    first = weakref.ref(app.state.live.current)
    with TestClient(app) as client:
        threads = [threading.Thread(target=ask, args=(client,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        (folder / "config.json").write_text("{")
        wait_for(client, 'recbole_lite_reloads_total{outcome="failed"}')
        assert client.get("/health").json()["version"] == old
        for path in model_files(sources[1]):
            shutil.copy(path, folder)
        wait_for(client, 'recbole_lite_reloads_total{outcome="ok"}')
        count = len(answers)
        while len(answers) < count + 5:
            time.sleep(0.01)
        end.set()
        for thread in threads:
            thread.join(30)
    assert {answer.status_code for answer in answers} == {200}
    assert [answers[0].json()["version"], answers[-1].json()["version"]] == [old, new]
    for answer in answers:
        content = answer.json()
        assert answer.headers["x-model-version"] == content["version"]
        assert [one["id"] for one in content["recommendations"]] == expected[content["version"]]
    gc.collect()
    assert first() is None  # the memory of the old model is free
