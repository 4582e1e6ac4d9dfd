"""A small HTTP server that misbehaves on request, and source files in the official formats."""

import gzip
import hashlib
import io
import json
import re
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from recbole_lite.data.sources.download import RetryPolicy

ETAG = '"one"'


class Server:
    """Serves `body` under every path; `plan` holds what to do with the coming requests.

    A plan's entry is ("cut", n): close after n bytes; ("stall", n): send n bytes and wait;
    ("status", code); or "plain". An empty plan means "plain".
    """

    def __init__(self):
        self.body = b""
        self.plan = []
        self.ranges = True
        self.length = True
        self.headers = {"ETag": ETAG}
        self.seen = []
        self.done = threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.owner = self
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.http.server_address[1]}"

    def close(self):
        self.done.set()
        self.http.shutdown()
        self.http.server_close()


class Handler(BaseHTTPRequestHandler):
    """One request; ``self.server.owner`` is the `Server`."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        owner = self.server.owner
        owner.seen.append((self.path, dict(self.headers)))
        action = owner.plan.pop(0) if owner.plan else "plain"
        kind, amount = action if isinstance(action, tuple) else (action, None)
        if kind == "status":
            self.send_error(amount)
            return
        self.wfile.write(self._start(owner)[:amount])
        self.wfile.flush()
        if kind == "stall":
            owner.done.wait(5)

    def _start(self, owner):
        """Send the head; returns the body that belongs to it."""
        size, start = len(owner.body), self._offset(owner)
        if start >= size:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.end_headers()
            return b""
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        if owner.length:
            self.send_header("Content-Length", str(size - start))
        for name, value in owner.headers.items():
            self.send_header(name, value)
        self.end_headers()
        return owner.body[start:]

    def _offset(self, owner):
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        fits = self.headers.get("If-Range") in (None, *owner.headers.values())
        return int(wanted[1]) if wanted and owner.ranges and fits else 0


@pytest.fixture(autouse=True)
def _direct(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server():
    one = Server()
    yield one
    one.close()


@pytest.fixture
def retries():
    return RetryPolicy(timeout=0.3, tries=2, pause=0.0)


def make_zip(members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


@pytest.fixture
def zipped():
    return make_zip


@pytest.fixture
def ml_1m_members():
    """Four movies, three users; with the 2-core user 3 and movies 3 and 4 go."""
    return {
        "ml-1m/README": "About MovieLens 1M",
        "ml-1m/movies.dat": (
            "1::Toy Story (1995)::Animation|Children's|Comedy\n"
            "2::American President, The (1995)::Comedy|Drama|Romance\n"
            "3::Misérables, Les (1995)::Drama|Musical\n"
            '4::City of Lost Children, "The" (1995)::Adventure|Sci-Fi\n'
        ).encode("iso-8859-1"),
        "ml-1m/users.dat": "1::F::1::10::48067\n2::M::56::16::70072\n3::M::25::15::55117-1234\n",
        "ml-1m/ratings.dat": (
            "1::2::5::978300760\n"
            "1::1::3::978302109\n"
            "1::3::4::978301968\n"
            "2::1::4::978300275\n"
            "2::2::5::978824291\n"
            "3::4::1::978302268\n"
        ),
    }


@pytest.fixture
def ml_1m_zip(ml_1m_members):
    return make_zip(ml_1m_members)


def gz_lines(records):
    return gzip.compress("".join(json.dumps(one) + "\n" for one in records).encode())


@pytest.fixture
def json_gz():
    return gz_lines


@pytest.fixture
def write_meta(tmp_path):
    """Write a user's own dataset_meta file for the 1M layout, with changes."""

    def write(name="tiny", body=b"", url="http://127.0.0.1:9", **changes):
        data = {
            "name": name,
            "title": "Tiny movies",
            "homepage": "https://example.org",
            "licence": "Research use only.",
            "citation": "Nobody. 2024.",
            "sources": [
                {
                    "file": "ml-1m.zip",
                    "url": f"{url}/ml-1m.zip",
                    "size": len(body),
                    "sha256": hashlib.sha256(body).hexdigest(),
                }
            ],
            "converter": {"name": "movielens-dat"},
            "filters": {"k_core": {"users": 2, "items": 2}},
            "expected": {"users": 2, "items": 2, "interactions": 4},
            "text_fields": ["movie_title", "genre"],
        }
        data.update(changes)
        data = {key: value for key, value in data.items() if value is not None}
        folder = tmp_path / "dataset" / "dataset_meta"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
        return path

    return write


@pytest.fixture
def data_path(tmp_path):
    return tmp_path / "dataset"


@pytest.fixture
def said():
    """Collects what the code says to the user."""

    class Said(list):
        def __call__(self, line):
            self.append(line)

    return Said()


@pytest.fixture
def hurried():
    """Fails a test that waits where it should fail at once."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < 2
