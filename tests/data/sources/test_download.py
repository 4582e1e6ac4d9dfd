import hashlib
import http.server
import random
import socket
import threading

import pytest

from recbole_lite.data.sources.dataset_meta import Source
from recbole_lite.data.sources.download import download_file
from recbole_lite.utils.errors import DownloadError

ADVICE = "ADVICE"


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "downloads"
    path.mkdir()
    return path


@pytest.fixture
def body():
    return b"PK" + random.Random(0).randbytes(300_000)


@pytest.fixture
def source(server, body):
    server.body = body
    return Source(
        file="a.zip",
        url=f"{server.url}/a.zip",
        size=len(body),
        sha256=hashlib.sha256(body).hexdigest(),
        md5=hashlib.md5(body).hexdigest(),
    )


@pytest.fixture
def unknown(source):
    """The same file, of which nothing is published."""
    return Source(file=source.file, url=source.url)


def names(folder):
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock"))


def test_whole_file(server, source, folder, body, retries):
    path = download_file(source, folder / "in" / "here", ADVICE, retries)
    assert path.read_bytes() == body
    assert names(path.parent) == ["a.zip"]
    download_file(source, path.parent, ADVICE, retries)
    assert len(server.seen) == 1  # what is there is not fetched again


def test_resumes_after_cuts(server, source, folder, body, retries):
    server.plan = [("cut", 100_000), ("cut", 50_000), "plain"]
    assert download_file(source, folder, ADVICE, retries).read_bytes() == body
    ranges = [headers.get("Range") for _, headers in server.seen]
    assert ranges == [None, "bytes=100000-", "bytes=150000-"]
    assert server.seen[1][1]["If-Range"] == '"one"'


def test_resumes_in_the_next_run(server, source, folder, body, retries):
    server.plan = [("cut", 100_000), ("status", 503), ("status", 503)]
    with pytest.raises(DownloadError, match=r"503.*100,000 bytes are kept"):
        download_file(source, folder, ADVICE, retries)
    assert names(folder) == ["a.zip.part"]
    assert download_file(source, folder, ADVICE, retries).read_bytes() == body
    assert server.seen[-1][1]["Range"] == "bytes=100000-"


def test_complete_part_of_a_killed_run_is_used(server, source, folder, body, retries):
    (folder / "a.zip.part").write_bytes(body)
    assert download_file(source, folder, ADVICE, retries).read_bytes() == body
    assert server.seen == []


def test_server_without_ranges_starts_over(server, source, folder, body, retries):
    server.ranges = False
    server.plan = [("cut", 100_000), "plain"]
    assert download_file(source, folder, ADVICE, retries).read_bytes() == body


def test_changed_file_is_not_glued_to_the_old_one(server, unknown, folder, body, retries):
    server.plan = [("cut", 100_000), ("status", 500), ("status", 500)]
    with pytest.raises(DownloadError):
        download_file(unknown, folder, ADVICE, retries)
    server.body = b"PK" + bytes(200_000)
    server.headers = {"ETag": '"two"'}
    assert download_file(unknown, folder, ADVICE, retries).read_bytes() == server.body


def test_changed_file_without_validator_is_fetched_afresh(server, source, folder, body, retries):
    server.headers = {}
    (folder / "a.zip.part").write_bytes(bytes(100_000))
    assert download_file(source, folder, ADVICE, retries).read_bytes() == body
    assert [h.get("Range") for _, h in server.seen] == ["bytes=100000-", None]


def test_part_of_unknown_origin_is_not_used(server, unknown, folder, body, retries):
    (folder / "a.zip.part").write_bytes(body[:1000])
    assert download_file(unknown, folder, ADVICE, retries).read_bytes() == body
    assert server.seen[0][1]["If-Range"].endswith("GMT")  # not the server's: it sends the whole


def test_the_time_of_a_part_tells_the_server_which_file_it_is_of(
    server, unknown, folder, body, retries
):
    changed = "Mon, 01 Jan 2024 10:00:00 GMT"
    server.headers = {"Last-Modified": changed}
    server.plan = [("cut", 100_000), ("status", 500), ("status", 500)]
    with pytest.raises(DownloadError):
        download_file(unknown, folder, ADVICE, retries)
    assert download_file(unknown, folder, ADVICE, retries).read_bytes() == body
    assert server.seen[-1][1]["If-Range"] == changed
    assert server.seen[-1][1]["Range"] == "bytes=100000-"


def test_part_longer_than_the_file(server, source, folder, body, retries):
    (folder / "a.zip.part").write_bytes(body + b"more")
    assert download_file(source, folder, ADVICE, retries).read_bytes() == body


@pytest.mark.usefixtures("hurried")
def test_stall_times_out_and_is_resumed(server, source, folder, body, retries):
    server.plan = [("stall", 100_000), "plain"]
    assert download_file(source, folder, ADVICE, retries).read_bytes() == body
    assert server.seen[1][1]["Range"] == "bytes=100000-"


@pytest.mark.usefixtures("hurried")
def test_a_server_that_only_stalls_is_given_up(server, source, folder, retries):
    server.plan = [("stall", 0)] * 5
    with pytest.raises(DownloadError, match=r"timed out.*gave up after 2 attempts"):
        download_file(source, folder, ADVICE, retries)
    assert "a.zip" not in names(folder)


@pytest.mark.parametrize("code", [403, 404, 410])
def test_refusals_are_final(server, source, folder, retries, code):
    server.plan = [("status", code)]
    with pytest.raises(DownloadError) as caught:
        download_file(source, folder, ADVICE, retries)
    assert str(caught.value).startswith(f"{source.url}: the server answered {code}")
    assert str(caught.value).endswith(ADVICE)
    assert len(server.seen) == 1
    assert names(folder) == []


def test_wrong_checksum(server, source, folder, body, retries):
    server.body = body[:-1] + b"x"
    with pytest.raises(DownloadError, match=rf"sha256 [0-9a-f]{{64}}, expected {source.sha256}"):
        download_file(source, folder, ADVICE, retries)
    assert names(folder) == []


def test_wrong_md5(server, unknown, folder, retries):
    wrong = Source(file=unknown.file, url=unknown.url, md5="0" * 32, checksum_from="its page")
    with pytest.raises(DownloadError, match=r"md5 [0-9a-f]{32}, expected 0{32} \(its page\)"):
        download_file(wrong, folder, ADVICE, retries)


def test_wrong_size(server, source, folder, body, retries):
    server.body = body + b"x"
    with pytest.raises(DownloadError, match=r"offers 300,003 bytes, expected 300,002"):
        download_file(source, folder, ADVICE, retries)
    assert names(folder) == []


def test_page_of_a_login_is_not_taken_for_the_archive(server, unknown, folder, retries):
    server.body = b"<html>Please log in</html>"
    with pytest.raises(DownloadError, match=r"begins with b'<h': no \.zip file"):
        download_file(unknown, folder, ADVICE, retries)


def test_unknown_length_needs_a_checksum(server, source, unknown, folder, body, retries):
    server.length = False
    with pytest.raises(DownloadError, match="a cut would go unnoticed"):
        download_file(unknown, folder, ADVICE, retries)
    server.plan = [("cut", 1000), "plain"]
    assert download_file(source, folder, ADVICE, retries).read_bytes() == body


@pytest.mark.usefixtures("hurried")
def test_connection_refused_fails_at_once(folder):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/a.zip"
        with pytest.raises(DownloadError, match=r"no connection.*refused") as caught:
            download_file(Source(file="a.zip", url=url), folder, ADVICE)  # with retries for minutes
    assert url in str(caught.value)
    assert str(caught.value).endswith(ADVICE)


def test_wrong_file_in_the_folder_is_named_and_kept(server, source, folder, retries):
    (folder / "a.zip").write_bytes(b"PK mine")
    with pytest.raises(DownloadError, match=r"a\.zip is not the file of.*7 bytes.*Delete it"):
        download_file(source, folder, ADVICE, retries)
    assert (folder / "a.zip").read_bytes() == b"PK mine"
    assert server.seen == []


def test_unwritable_folder(server, source, folder, retries):
    (folder / "file").write_text("")
    with pytest.raises(DownloadError, match="cannot write"):
        download_file(source, folder / "file" / "folder", ADVICE, retries)


def test_proxy_is_honoured(server, source, folder, body, retries, monkeypatch):
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("http_proxy", server.url)
    elsewhere = Source(file="a.zip", url="http://files.example.invalid/a.zip", sha256=source.sha256)
    assert download_file(elsewhere, folder, ADVICE, retries).read_bytes() == body
    assert server.seen[0][0] == elsewhere.url


def test_redirect_is_followed(server, source, folder, body, retries):
    class Redirect(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", source.url)
            self.end_headers()

    with http.server.HTTPServer(("127.0.0.1", 0), Redirect) as other:
        thread = threading.Thread(target=other.handle_request, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{other.server_address[1]}/a.zip"
        moved = Source(file="a.zip", url=url, sha256=source.sha256)
        assert download_file(moved, folder, ADVICE, retries).read_bytes() == body
        thread.join()


def test_two_at_once_fetch_once(server, source, folder, body, retries):
    threads = [
        threading.Thread(target=download_file, args=(source, folder, ADVICE, retries))
        for _ in range(4)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(server.seen) == 1
    assert names(folder) == ["a.zip"]


def test_no_bar_without_a_terminal(source, folder, retries, capfd):
    download_file(source, folder, ADVICE, retries)
    assert capfd.readouterr() == ("", "")
