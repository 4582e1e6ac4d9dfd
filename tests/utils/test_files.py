"""Files that are written whole, streams that are written through, what cannot be a folder."""

import os
import stat
import threading
from pathlib import Path

import pytest

from recbole_lite.utils.errors import ConfigError
from recbole_lite.utils.files import check_folder, is_stream, leftovers, spooled, write_atomically


def writes(text):
    return lambda path: path.write_text(text)


def test_a_file_keeps_its_mode_and_nothing_is_left_beside_it(workdir):
    Path("a").write_text("old")
    Path("a").chmod(0o640)
    write_atomically("a", writes("new"))
    assert Path("a").read_text() == "new"
    assert stat.S_IMODE(Path("a").stat().st_mode) == 0o640
    assert os.listdir() == ["a"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_followed(exists, workdir):
    if exists:
        Path("sub").mkdir()
        Path("sub/real").write_text("old")
    Path("link").symlink_to("hop")
    Path("hop").symlink_to("sub/real")
    write_atomically("link", writes("new"))
    assert Path("link").is_symlink()
    assert Path("sub/real").read_text() == "new"
    Path("sub/.real.123.tmp").touch()  # of a killed process
    assert [path.name for path in leftovers("link")] == [".real.123.tmp"]


@pytest.mark.parametrize("place", ["folder", "loop", "file/x"])
def test_a_place_that_cannot_be_is_named(place, workdir):
    Path("folder").mkdir()
    Path("file").touch()
    Path("loop").symlink_to("loop")
    with pytest.raises(OSError, match=place):
        write_atomically(place, writes("new"))
    assert sorted(os.listdir()) == ["file", "folder", "loop"]


def test_a_pipe_is_written_to_and_stays(workdir):
    os.mkfifo("pipe")
    found = []
    reader = threading.Thread(target=lambda: found.append(Path("pipe").read_text()))
    reader.start()
    write_atomically("pipe", writes("new"))
    reader.join(10)
    assert found == ["new"]
    assert stat.S_ISFIFO(os.stat("pipe").st_mode)


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="no /dev/fd")
def test_an_open_file_is_appended_to(workdir):
    """A shell's ``>>``, and what other programs of the same ``>`` write before and after."""
    with open("out", "a") as file:
        file.write("before\n")
        file.flush()
        write_atomically(f"/dev/fd/{file.fileno()}", writes("new\n"))
        file.write("after\n")
    assert Path("out").read_text() == "before\nnew\nafter\n"


def test_what_is_a_stream(workdir):
    os.mkfifo("pipe")
    Path("link").symlink_to("pipe")
    Path("file").touch()
    found = {path: is_stream(path) for path in ("-", os.devnull, "pipe", "link", "file", "none")}
    assert found == dict.fromkeys(("-", os.devnull, "pipe", "link"), True) | {
        "file": False,
        "none": False,
    }


def test_a_stream_is_copied_once_a_file_is_taken_as_it_is(workdir):
    Path("file").write_text("x")
    with spooled("file") as path:
        assert path == Path("file")
    read, write = os.pipe()
    os.write(write, b"content")
    os.close(write)
    with spooled(f"/dev/fd/{read}", ".yaml") as path:
        assert [path.read_bytes(), path.read_bytes()] == [b"content", b"content"]
        assert path.suffix == ".yaml"
    os.close(read)
    assert not path.exists()


@pytest.mark.parametrize("path", ["-", "file", os.devnull])
def test_no_folder(path, workdir):
    Path("file").touch()
    with pytest.raises(ConfigError, match=f"^--out: {path} is a file; name a folder$"):
        check_folder(path, "--out")
    check_folder("new/folder", "--out")
