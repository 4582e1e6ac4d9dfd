"""The HTTP service: answers, refusals, batches."""

import asyncio
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import uvicorn
from fastapi.testclient import TestClient

from recbole_lite import Recommender
from recbole_lite.cli.main import main
from recbole_lite.cli.serve import listen, server_config
from recbole_lite.serve.app import create_app
from recbole_lite.serve.batching import Batcher, OverloadedError, RankRequest
from recbole_lite.serve.limits import Limits


@pytest.fixture
def recommender(trained):
    return Recommender.load(trained("LiteLLM4Rec", item_vector_norm="standardize"))


@pytest.fixture
def client(recommender):
    with TestClient(create_app(recommender, Limits(max_history=50, max_body=5000))) as client:
        yield client


def test_recommendations_are_those_of_the_recommender(client, recommender):
    histories = [["i3", "i4"], [f"i{n}" for n in range(12)]]
    for history in histories:
        for seen in (True, False):
            (expected,) = recommender.recommend([history], k=5, exclude_seen=seen)
            asked = {"history": history, "k": 5, "exclude_seen": seen}
            answer = client.post("/recommend", json=asked)
            assert answer.status_code == 200
            found = answer.json()["recommendations"]
            assert [(r["id"], r["title"]) for r in found] == [(r.id, r.title) for r in expected]
            scores = [r["score"] for r in found]
            assert scores == pytest.approx([r.score for r in expected], abs=1e-5)


def test_a_model_of_repeated_items_recommends_seen_ones_unless_asked(trained):
    recommender = Recommender.load(trained("SASRec", repeatable=True))
    with TestClient(create_app(recommender)) as client:
        for asked, count in (({}, 24), ({"exclude_seen": None}, 24), ({"exclude_seen": True}, 23)):
            answer = client.post("/recommend", json={"history": ["i3"], "k": 24, **asked})
            assert len(answer.json()["recommendations"]) == count


def test_a_beam_search_looks_among_the_candidates_of_a_request(trained):
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_decoder_layers": 1}
    codes = {"codebook_size": 4, "rqvae_epochs": 2, "num_beams": 5}
    recommender = Recommender.load(trained("TIGER", llm_config=sizes, **codes))
    asked = {"history": ["i3"], "candidates": ["i9", "i3", "i7"], "k": 3}
    with TestClient(create_app(recommender)) as client:
        answer = client.post("/recommend", json=asked).json()
    assert {r["id"] for r in answer["recommendations"]} == {"i7", "i9"}


def test_candidates_and_unknown_ids(client):
    asked = {"history": ["i3", "zz", "zz"], "candidates": ["i9", "i3", "i7"]}
    answer = client.post("/recommend", json=asked).json()
    assert {r["id"] for r in answer["recommendations"]} == {"i7", "i9"}
    assert answer["unknown"] == ["zz"]


@pytest.mark.parametrize(
    "choice",
    [
        {"where": {"genre": ["comedy"], "year": {"gte": 1992}}, "exclude": ["i9", "zz"]},
        {"where": {"year": {"gt": 1994}}},
        {"where": {"year": 1991}, "candidates": ["i1", "i2", "i6"], "exclude_seen": False},
        {"diversity": 0.5, "explain": True},
    ],
)
def test_choices_are_those_of_the_recommender(choice, client, recommender):
    histories = [["i3", "i4"], ["i5"]]
    expected = recommender.recommend(histories, 4, **choice)
    alone = [
        client.post("/recommend", json={"history": row, "k": 4, **choice}) for row in histories
    ]
    together = client.post("/recommend/users", json={"histories": histories, "k": 4, **choice})
    for answers in ([answer.json() for answer in alone], together.json()["users"]):
        for answer, wanted in zip(answers, expected, strict=True):
            found = answer["recommendations"]
            assert [one["id"] for one in found] == [one.id for one in wanted]
            assert [one["score"] for one in found] == pytest.approx([x.score for x in wanted])
            for one, other in zip(found, wanted, strict=True):
                ids = [reason.id for reason in getattr(other, "because", [])]
                assert [reason["id"] for reason in one.get("because", [])] == ids


def test_several_users(client):
    asked = {"histories": [["i3", "zz"], ["yy"], []], "k": 2}
    answer = client.post("/recommend/users", json=asked).json()
    assert [len(user["recommendations"]) for user in answer["users"]] == [2, 0, 0]
    assert [user["unknown"] for user in answer["users"]] == [["zz"], ["yy"], []]
    refused = client.post("/recommend/users", json={"histories": [["i3"]] * 257})
    assert refused.json()["detail"] == "histories: 257, at most 256 are accepted"
    refused = client.post("/recommend/users", json={"histories": [["i3"] * 51]})
    assert refused.json()["detail"] == "history: 51 ids, at most 50 are accepted"


def test_similar_items(client, recommender):
    found = client.get("/items/i3/similar", params={"limit": 3, "by": "text"}).json()["items"]
    expected = recommender.similar("i3", 3, "text")
    assert [(one["id"], one["title"]) for one in found] == [(x.id, x.title) for x in expected]
    assert len(client.get("/items/i3/similar?limit=100").json()["items"]) == 23
    assert client.get("/items/zz/similar").status_code == 404
    assert client.get("/items/i3/similar?by=x").status_code == 422


@pytest.mark.parametrize(
    "asked, message",
    [
        ({}, "history: Field required"),
        ({"history": []}, "history: List should have at least 1 item"),
        ({"history": "i3"}, "history: Input should be a valid list"),
        ({"history": [3]}, "history.0: Input should be a valid string"),
        ({"history": ["zz"]}, "history: 1 id not in the catalogue ('zz')"),
        ({"history": ["i3", "zz"], "unknown": "error"}, "1 id not in the catalogue ('zz')"),
        ({"history": ["i3"], "unknown": "x"}, "unknown: Input should be 'warn' or 'error'"),
        ({"history": ["i3"], "k": 0}, "k: Input should be greater than or equal to 1"),
        ({"history": ["i3"], "k": 25}, "k must be a whole number from 1 to 24"),
        ({"history": ["i3"], "k": True}, "k: Input should be a valid integer"),
        ({"history": ["i3"], "candidates": ["a"]}, "candidates: 1 id not in the catalogue ('a')"),
        ({"history": ["i3"], "candidates": []}, "candidates: List should have at least 1 item"),
        ({"history": ["i3"], "where": {"genre": "x"}}, "where: no item has the genre 'x'"),
        ({"history": ["i3"], "where": {"yea": 3}}, "no item has the field 'yea'; did you mean y"),
        ({"history": ["i3"], "where": {}}, "where: Dictionary should have at least 1 item"),
        ({"history": ["i3"], "diversity": 2}, "diversity: Input should be less than or equal to 1"),
        ({"history": ["i3"], "explain": 1}, "explain: Input should be a valid boolean"),
        ({"history": ["i3"], "K": 5}, "K: Extra inputs are not permitted"),
        ({"history": ["i3"] * 51}, "history: 51 ids, at most 50 are accepted"),
        ({"history": ["i3"], "candidates": ["i3"] * 51}, "candidates: 51 ids, at most 24"),
        ({"history": ["i" * 257]}, "history.0: String should have at most 256 characters"),
    ],
)
def test_what_cannot_be_answered(asked, message, client):
    answer = client.post("/recommend", json=asked)
    assert answer.status_code == 422
    assert message in answer.json()["detail"]


@pytest.mark.parametrize(
    "body, message",
    [
        (b"", "body: Field required"),
        (b"{", "body: not JSON at character 1: Expecting property name"),
        (b"[]", "body: Input should be a valid dictionary"),
        (b"null", "body: Input should be a valid dictionary"),
        (b'{"history": ["\xff"]}', "error parsing the body"),
        (b'{"history": ["\\ud800"]}', "history.0: Input should be a valid string"),
    ],
)
def test_bodies_that_are_no_requests(body, message, client):
    answer = client.post("/recommend", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert message in answer.json()["detail"]


def test_large_bodies_are_refused(client):
    body = b'{"history": ["' + b"i" * 10_000_000 + b'"]}'
    answer = client.post("/recommend", content=body)
    assert (answer.status_code, answer.json()["detail"]) == (
        413,
        "the body is larger than 5,000 bytes",
    )

    def chunks():  # without a declared length
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    assert client.post("/recommend", content=chunks()).status_code == 413
    parts = iter([b'{"history": ', b'["i3"]}'])
    small = client.post("/recommend", content=parts, headers={"content-type": "application/json"})
    assert small.status_code == 200


def test_items(client):
    found = client.get("/items", params={"query": "toy toy"}).json()
    assert found["items"][0] == {"id": "i0", "title": "toy toy 0"}
    assert found["total"] == 24
    listed = [
        client.get("/items", params={"limit": 10, "offset": n}).json()["items"] for n in (0, 10, 20)
    ]
    assert [len(part) for part in listed] == [10, 10, 4]
    assert len({item["id"] for part in listed for item in part}) == 24
    assert client.get("/items/i0").json()["title"] == "toy toy 0"
    assert client.get("/items/zz").status_code == 404
    answer = client.get("/items", params={"limit": 1000})
    assert (answer.status_code, "less than or equal to 100" in answer.text) == (422, True)


def test_fields(client, recommender):
    found = client.get("/fields").json()["fields"]
    summary = recommender.catalogue.filters.summary()
    assert found == [one._asdict() for one in summary]
    assert [one["name"] for one in found] == ["genre", "year"]


def test_items_by_ids(client):
    found = client.get("/items", params={"id": ["i7", "zz", "i3"]}).json()["items"]
    assert [item["id"] for item in found] == ["i7", "i3"]


def test_a_search_does_not_delay_others(recommender, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def slow(*_):
        begun.set()
        return [3] if go_on.wait(30) else []

    monkeypatch.setattr(recommender.catalogue, "search", slow)
    with TestClient(create_app(recommender)) as client, ThreadPoolExecutor(1) as pool:
        found = pool.submit(client.get, "/items", params={"query": "toy"})
        assert begun.wait(30)
        assert client.get("/health").status_code == 200
        go_on.set()
        assert len(found.result().json()["items"]) == 1


def test_head_and_options(client):
    answer, whole = client.head("/items/i0"), client.get("/items/i0")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == whole.headers["content-length"]
    assert client.head("/items/zz").status_code == 404
    for path, methods in (("/items/i0", "GET, HEAD, OPTIONS"), ("/recommend", "OPTIONS, POST")):
        answer = client.options(path)
        assert (answer.status_code, answer.headers["allow"]) == (204, methods)
    assert client.options("/absent/x").status_code == 404


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_a_wrong_content_type(kind, client):
    headers = {"content-type": kind} if kind else {}
    answer = client.post("/recommend", content=b'{"history": ["i3"]}', headers=headers)
    detail = f"the content type is {kind or ''!r}; send application/json"
    assert (answer.status_code, answer.json()["detail"]) == (415, detail)


def test_health_page_and_description(client):
    health = client.get("/health").json()
    assert re.fullmatch("[0-9a-f]{12}", health.pop("version"))
    assert health == {
        "status": "ok",
        "model": "LiteLLM4Rec",
        "dataset": "tiny",
        "items": 24,
        "waiting": 0,
        "explains": True,
    }
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "connect-src 'self'" in page.headers["content-security-policy"]
    assert "http" not in page.text.replace("http-equiv", "")  # nothing comes from elsewhere
    assert client.get("/docs").status_code == 200
    paths = client.get("/openapi.json").json()["paths"]
    health = {"/health", "/health/live", "/health/ready"}
    answers = {"/recommend", "/recommend/users", "/items", "/items/{id}", "/items/{id}/similar"}
    answers.add("/fields")
    assert set(paths) == answers | health


# -- batches ----------------------------------------------------------------------------------


def asking(recommender, n):
    known = [recommender.catalogue.resolve([f"i{i}", f"i{(3 * i) % 24}"])[0] for i in range(n)]
    return [RankRequest(history, 5 + i % 3, i % 2 == 0, None) for i, history in enumerate(known)]


def test_requests_under_load_are_answered_together(recommender):
    questions = [replace(q, exclude=[7]) for q in asking(recommender, 20)]
    questions[3] = replace(questions[3], candidates=np.array([2, 9, 4]))
    alone = [
        next(recommender.rank([q.history], q.k, q.exclude_seen, q.candidates, [q.exclude]))
        for q in questions
    ]
    batcher = Batcher(recommender, max_batch=8, max_waiting=100)

    async def ask():
        answers = await asyncio.gather(*(batcher(q) for q in questions))
        batcher.close()
        return answers

    for (items, scores), (wanted, values) in zip(asyncio.run(ask()), alone, strict=True):
        assert items == wanted
        assert scores == pytest.approx(values, abs=1e-5)
    assert batcher.batches == 3


def test_too_many_waiting_requests_are_refused(recommender, monkeypatch):
    go_on = threading.Event()
    rank = recommender.runtime.rank
    monkeypatch.setattr(recommender.runtime, "rank", lambda *a: go_on.wait(60) and rank(*a))
    batcher = Batcher(recommender, max_batch=1, max_waiting=2)
    questions = asking(recommender, 4)

    async def ask():
        tasks = [asyncio.create_task(batcher(questions[0]))]
        while not batcher.batches:  # the first is at work
            await asyncio.sleep(0.01)
        tasks += [asyncio.create_task(batcher(q)) for q in questions[1:3]]
        while batcher.waiting < 2:
            await asyncio.sleep(0.01)
        with pytest.raises(OverloadedError):
            await batcher(questions[3])
        go_on.set()
        assert len(await asyncio.gather(*tasks)) == 3
        batcher.close()

    asyncio.run(ask())


def test_overload_is_status_503(recommender, monkeypatch):
    async def refuse(self, question):
        raise OverloadedError

    monkeypatch.setattr(Batcher, "__call__", refuse)
    with TestClient(create_app(recommender)) as client:
        answer = client.post("/recommend", json={"history": ["i3"]})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_a_failure_is_told_and_does_not_end_the_worker(recommender, monkeypatch):
    rank, failures = recommender.runtime.rank, iter([True, False])

    def sometimes(*arguments):
        if next(failures):
            raise RuntimeError("out of memory")
        return rank(*arguments)

    monkeypatch.setattr(recommender.runtime, "rank", sometimes)
    with TestClient(create_app(recommender), raise_server_exceptions=False) as client:
        statuses = [client.post("/recommend", json={"history": ["i3"]}).status_code for _ in "ab"]
    assert statuses == [500, 200]


# -- slow clients, the end --------------------------------------------------------------------

HEADERS = b"POST /recommend HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
HALF = HEADERS + b"content-length: 500\r\n\r\n{"


def wait_for(happened, seconds=30):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.1)


def get(address, path):
    connection = http.client.HTTPConnection(*address, timeout=30)
    connection.request("GET", path, headers={"connection": "close"})
    return connection.getresponse().read().decode()


def connect(address, data):
    connection = socket.create_connection(address, timeout=30)
    connection.sendall(data)
    return connection


def refused(address):
    try:
        socket.create_connection(address, timeout=30).close()
    except OSError:
        return True
    return False


def test_half_sent_requests_are_closed(recommender):
    limits = Limits(read_timeout=1)
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(server_config(create_app(recommender, limits), limits))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    opened = [connect(listener.getsockname(), data) for data in (b"", HEADERS, HALF)]
    answers = [b"".join(iter(partial(connection.recv, 9999), b"")) for connection in opened]
    assert answers[:2] == [b"", b""]
    assert answers[2].startswith(b"HTTP/1.1 408")
    assert b"not complete after 1 seconds" in answers[2]
    server.should_exit = True
    thread.join(30)


# -- command line -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--model=absent"], "error: absent: no such folder"),
        (["--model=absent", "--max_batch=0"], "--max_batch must be at least 1"),
        (["--model=absent", "--host=no such host"], "cannot listen there"),
        (["--model=absent", "--host=a..b"], "cannot listen there"),
        (["--model=absent", "--root_path=api/"], "--root_path=api/: begin with /"),
        (["--model=absent", "--token_file=absent"], "--token_file=absent: "),
        (["--model=absent", "--token_file=/dev/null"], "holds no token of one word"),
        (["--model=absent", "--port=70000"], "a port is a number from 0 to 65535"),
    ],
)
def test_mistakes_on_the_command_line(arguments, message, capsys):
    assert main(["serve", "--port=0", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_port_that_is_taken(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["serve", "--model=absent", f"--port={taken.getsockname()[1]}"]) == 2
    assert "cannot listen there: Address already in use" in capsys.readouterr().err


def test_without_fastapi(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "recbole_lite.serve.app", raising=False)
    assert main(["serve", "--model=absent"]) == 2
    assert "serving needs uvicorn; type: pip install" in capsys.readouterr().err


def test_served_by_the_command(trained):
    """The real server on loopback: it says where, answers, and ends on SIGTERM in time."""
    command = [sys.executable, "-m", "recbole_lite", "serve", f"--model={trained('SASRec')}"]
    process = subprocess.Popen(
        [*command, "--port=0", "--grace=2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        url = process.stdout.readline().split()[0]
        assert url.startswith("http://127.0.0.1:")
        address = ("127.0.0.1", int(url.rstrip("/").rpartition(":")[2]))
        client = http.client.HTTPConnection(*address, timeout=30)
        body = json.dumps({"history": ["i3"], "k": 3}).encode()
        kind = {"content-type": "application/json"}
        half = [connect(address, data) for data in (HEADERS, HALF)]
        os.kill(process.pid, signal.SIGHUP)  # the model is loaded again
        wait_for(lambda: 'reloads_total{outcome="ok"} 1.0' in get(address, "/metrics"))
        for stop in (False, True):  # the second request is sent while the service stops
            if stop:
                os.kill(process.pid, signal.SIGTERM)
                asked = time.monotonic()
                wait_for(lambda: refused(address))
            client.request("POST", "/recommend", body, kind)
            answer = client.getresponse()
            assert len(json.load(answer)["recommendations"]) == 3
            assert answer.getheader("connection") == ("close" if stop else None)
        assert process.wait(30) == 0
        assert time.monotonic() - asked < 20  # the half-sent requests may stay for 30
        assert "Traceback" not in process.stderr.read()
        for connection in half:
            connection.close()
    finally:
        process.kill()
