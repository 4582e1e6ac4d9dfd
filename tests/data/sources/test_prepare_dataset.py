import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from recbole_lite.data.sources import prepare_dataset
from recbole_lite.data.sources.prepare_dataset import ensure_dataset, prepare
from recbole_lite.utils.errors import DataError, DownloadError


def visible(folder):
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


@pytest.fixture
def tiny(write_meta, ml_1m_zip, server):
    server.body = ml_1m_zip
    write_meta(body=ml_1m_zip, url=server.url)


@pytest.mark.usefixtures("tiny")
def test_ensure_downloads_converts_and_says_so(data_path, said, server):
    folder = ensure_dataset("tiny", data_path, log=said)
    assert folder == data_path / "tiny"
    assert visible(folder) == ["prepared.json", "tiny.inter", "tiny.item", "tiny.user"]
    assert said[0].startswith(f"tiny: fetching {server.url}/ml-1m.zip")
    assert "2 users, 2 items, 4 interactions; density 1.000000" in said[1]
    assert "tiny.item: 4 rows" in said[1]
    assert "Licence: Research use only." in said[1]
    assert "Cite: Nobody. 2024." in said[1]
    del said[:]
    assert ensure_dataset("tiny", str(data_path), log=said) == folder
    assert said == []
    assert len(server.seen) == 1


@pytest.mark.usefixtures("tiny")
def test_receipt(data_path, said, ml_1m_zip):
    folder = prepare("tiny", data_path, log=said).folder
    receipt = json.loads((folder / "prepared.json").read_text())
    assert set(receipt["sources"]) == {"ml-1m.zip"}
    assert set(receipt["sha256"]) == {"tiny.inter", "tiny.item", "tiny.user"}


@pytest.mark.usefixtures("tiny")
def test_folder_has_the_rights_that_the_umask_gives(data_path, said):
    old = os.umask(0o022)
    try:
        assert prepare("tiny", data_path, log=said).folder.stat().st_mode & 0o777 == 0o755
    finally:
        os.umask(old)


def test_no_network(write_meta, data_path, said, hurried):
    write_meta(url="http://127.0.0.1:9", body=b"x")
    with pytest.raises(DownloadError) as caught:
        ensure_dataset("tiny", data_path, log=said)
    text = str(caught.value)
    assert "http://127.0.0.1:9/ml-1m.zip: no connection" in text
    assert f"  {data_path / '_sources' / 'tiny'}\n" in text
    command = "recbole-lite data prepare tiny --from PATH/TO/ml-1m.zip --data_path"
    assert text.splitlines()[-1] == f"  {command} {data_path}"
    assert "tiny" not in visible(data_path)


@pytest.mark.parametrize("plan", [[("status", 403)], [("status", 404)]])
@pytest.mark.usefixtures("tiny")
def test_refusals_end_with_the_command(data_path, said, server, plan):
    server.plan = plan
    with pytest.raises(DownloadError, match=r"(403|404)(.|\n)*data prepare tiny --from"):
        ensure_dataset("tiny", data_path, log=said)


def test_advice_for_two_files_names_both(write_meta, data_path, said):
    converter = {"name": "amazon", "options": {"ratings": "a.csv", "metadata": "b.json.gz"}}
    sources = [{"file": f, "url": f"http://127.0.0.1:9/{f}"} for f in ("a.csv", "b.json.gz")]
    write_meta(sources=sources, converter=converter)
    with pytest.raises(DownloadError, match=r"/a\.csv\n  .*/b\.json\.gz\n(.|\n)*FOLDER_WITH"):
        ensure_dataset("tiny", data_path, log=said)
    assert any("no checksum of a.csv is published" in line for line in said)


@pytest.mark.usefixtures("tiny")
def test_a_file_put_into_the_folder_is_used(data_path, said, server, ml_1m_zip):
    folder = data_path / "_sources" / "tiny"
    folder.mkdir(parents=True)
    (folder / "ml-1m.zip").write_bytes(ml_1m_zip)
    assert ensure_dataset("tiny", data_path, log=said).is_dir()
    assert server.seen == []


@pytest.mark.parametrize("form", ["file", "renamed", "folder", "unpacked", "unpacked deeper"])
@pytest.mark.usefixtures("tiny")
def test_from(data_path, tmp_path, said, server, form, ml_1m_zip, ml_1m_members):
    source = tmp_path / "mine"
    source.mkdir()
    if form.startswith("unpacked"):
        deeper = source / "ml-1m"
        deeper.mkdir()
        for name, content in ml_1m_members.items():
            content = content.encode() if isinstance(content, str) else content
            (source / name).write_bytes(content)
        source = source if form.endswith("deeper") else deeper
    else:
        path = source / ("ml-1m (2).zip" if form == "renamed" else "ml-1m.zip")
        path.write_bytes(ml_1m_zip)
        source = source if form == "folder" else path
    assert prepare("tiny", data_path, source, log=said).differences == []
    assert server.seen == []
    assert any("unchecked" in line for line in said) == form.startswith("unpacked")


@pytest.mark.usefixtures("tiny")
def test_from_something_else(data_path, tmp_path):
    with pytest.raises(DataError, match=r"no such file or folder; --from wants ml-1m\.zip"):
        prepare("tiny", data_path, tmp_path / "nothing")
    (tmp_path / "ml-1m.zip").write_bytes(b"PK damaged")
    with pytest.raises(DataError, match=r"not the file of http.*10 bytes, expected"):
        prepare("tiny", data_path, tmp_path / "ml-1m.zip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no ml-1m\.zip in it; --from wants"):
        prepare("tiny", data_path, tmp_path / "empty")
    assert "tiny" not in visible(data_path)


@pytest.mark.usefixtures("tiny")
def test_what_is_there_is_not_touched(data_path, said):
    folder = data_path / "tiny"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"exists without a tiny\.inter; nothing was changed"):
        prepare("tiny", data_path, log=said)
    assert visible(folder) == ["notes.txt"]
    (folder / "notes.txt").unlink()
    assert prepare("tiny", data_path, log=said).folder == folder  # an empty folder is in no way
    before = (folder / "tiny.inter").read_bytes()
    with pytest.raises(DataError, match=r"tiny\.inter already exists; nothing.*data check tiny"):
        prepare("tiny", data_path, log=said)
    assert (folder / "tiny.inter").read_bytes() == before


def test_differences_are_told(write_meta, ml_1m_zip, data_path, tmp_path):
    write_meta(body=ml_1m_zip, expected={"users": 2, "items": 3, "interactions": 9})
    (tmp_path / "ml-1m.zip").write_bytes(ml_1m_zip)
    made = prepare("tiny", data_path, tmp_path / "ml-1m.zip")
    assert made.differences == ["2 items, expected 3 (-1)", "4 interactions, expected 9 (-5)"]
    assert "warning: 2 items, expected 3 (-1)" in made.render()


def test_filters_that_leave_nothing(write_meta, ml_1m_zip, data_path, tmp_path):
    write_meta(body=ml_1m_zip, filters={"k_core": {"users": 9, "items": 9}})
    (tmp_path / "ml-1m.zip").write_bytes(ml_1m_zip)
    with pytest.raises(DataError, match=r"filters in .*tiny\.yaml leave no interactions"):
        prepare("tiny", data_path, tmp_path / "ml-1m.zip")


KILLED = """
import os, signal, sys
from pathlib import Path
from recbole_lite.data.sources import prepare_dataset as module
write = module.write_atomic
def write_once(path, *rest):
    write(path, *rest)
    os.kill(os.getpid(), signal.SIGKILL)
module.write_atomic = write_once
module.prepare("tiny", *map(Path, sys.argv[1:]))
"""


@pytest.mark.usefixtures("tiny")
def test_a_killed_run_leaves_nothing(data_path, tmp_path, ml_1m_zip):
    (tmp_path / "ml-1m.zip").write_bytes(ml_1m_zip)
    script = [sys.executable, "-c", KILLED, data_path, tmp_path / "ml-1m.zip"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert subprocess.run(script, env=environment, check=False).returncode == -signal.SIGKILL
    assert visible(data_path) == ["dataset_meta"]
    assert list(data_path.glob(".tiny.*.tmp/tiny.inter"))  # it had begun
    prepare("tiny", data_path, tmp_path / "ml-1m.zip")
    assert not list(data_path.glob(".tiny.*.tmp"))
    assert visible(data_path) == ["dataset_meta", "tiny"]


@pytest.mark.usefixtures("tiny")
def test_a_failing_run_cleans_up(data_path, tmp_path, ml_1m_zip, monkeypatch):
    (tmp_path / "ml-1m.zip").write_bytes(ml_1m_zip)

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepare_dataset, "write_atomic", fail)
    with pytest.raises(DataError, match="No space left on device"):
        prepare("tiny", data_path, tmp_path / "ml-1m.zip")
    assert visible(data_path) == ["dataset_meta"]
    assert not list(data_path.glob(".tiny.*.tmp"))


@pytest.mark.usefixtures("tiny")
def test_many_at_once_prepare_once(data_path, said, server):
    threads = [
        threading.Thread(target=ensure_dataset, args=("tiny", data_path, said)) for _ in range(4)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(server.seen) == 1
    assert sum("is ready" in line for line in said) == 1


def test_unknown_name(data_path):
    with pytest.raises(DataError) as caught:
        ensure_dataset("ml-2m", data_path)
    text = str(caught.value)
    assert str(data_path / "ml-2m" / "ml-2m.inter") in text
    assert "dataset_meta/ml-2m.yaml" in text
    assert "nearest: ml-20m, ml-1m" in text
    assert "To use your own files" in text
    assert not data_path.exists()  # asking alone makes nothing


def test_own_files_need_nothing_else(data_path, said):
    folder = data_path / "mine"
    folder.mkdir(parents=True)
    (folder / "mine.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\na\tb\t1\n")
    assert ensure_dataset("mine", data_path, log=said) == folder
    assert visible(data_path) == ["mine"]


def test_sets_brought_by_hand(data_path, tmp_path):
    with pytest.raises(DataError, match=r"amazon-games cannot be downloaded.*--from FOLDER"):
        ensure_dataset("amazon-games", data_path)
    source = tmp_path / "given"
    source.mkdir()
    inter = "user_id:token\titem_id:token\ttimestamp:float\nu\ti\t0\n"
    item = 'item_id:token\ttitle:token_seq\ni\tA "title"\n'
    (source / "amazon-games.inter").write_text(inter)
    (source / "amazon-games.item").write_text(item)
    made = prepare("amazon-games", data_path, source)
    assert (made.folder / "amazon-games.inter").read_text() == inter
    assert (made.folder / "amazon-games.item").read_text() == item
    assert made.differences[0] == "1 users, expected 50,546 (-50,545)"
