from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys

import pytest
import torch
from filelock import FileLock, Timeout
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from recbole_lite.text import vector_cache

TEXTS = ["", "toy story", "", "golden eye"]
INPUTS = vector_cache.inputs_digest(TEXTS, pooling="mean", max_length=None, dtype="auto")
KEY = vector_cache.cache_key(INPUTS, "weights")
VECTORS = torch.arange(12.0).reshape(4, 3)
ABOUT = {"inputs": INPUTS, "llm": "owner/model"}


@pytest.fixture
def stored(tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    path = vector_cache.cache_path(folder, "ml-100k", "owner/model", KEY)
    vector_cache.store(path, VECTORS, KEY, ABOUT)
    return path


def test_what_is_stored_is_loaded(stored, caplog):
    loaded = vector_cache.load(stored, KEY, 4)
    assert torch.equal(loaded, VECTORS)
    assert loaded.dtype == torch.float32
    assert not caplog.records
    assert [path.name for path in stored.parent.iterdir()] == [stored.name]


def test_the_name_tells_dataset_model_and_key(stored):
    assert stored.name == f"ml-100k-model-{KEY[:16]}.safetensors"
    other = vector_cache.cache_path(stored.parent, "../my set", "/models/my llm/", KEY)
    assert other.parent == stored.parent
    assert other.name == f".._my_set-my_llm-{KEY[:16]}.safetensors"


def test_no_file_is_no_warning(tmp_path, caplog):
    assert vector_cache.load(tmp_path / "none.safetensors", KEY, 4) is None
    assert not caplog.records


@pytest.mark.parametrize(
    "changes",
    [
        {"texts": ["", "toy story", "", "golden eyes"]},
        {"texts": ["", "golden eye", "", "toy story"]},
        {"texts": ["", "toy storygolden eye", "", ""]},
        {"texts": [*TEXTS, ""]},
        {"pooling": "cls"},
        {"max_length": 64},
        {"dtype": "float32"},
    ],
)
def test_the_key_follows_every_input(changes):
    base = {"texts": TEXTS, "pooling": "mean", "max_length": None, "dtype": "auto"}
    options = {**base, **changes}
    assert vector_cache.inputs_digest(options.pop("texts"), **options) != INPUTS
    assert vector_cache.inputs_digest(base.pop("texts"), **base) == INPUTS


def test_the_key_follows_weights_and_cache_version(monkeypatch):
    assert vector_cache.cache_key(INPUTS, "other weights") != KEY
    monkeypatch.setattr(vector_cache, "CACHE_VERSION", vector_cache.CACHE_VERSION + 1)
    assert (
        vector_cache.inputs_digest(TEXTS, pooling="mean", max_length=None, dtype="auto") != INPUTS
    )


def rejected(path, caplog, n_items=4, key=KEY):
    caplog.clear()
    assert vector_cache.load(path, key, n_items) is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    return record.getMessage()


def test_a_foreign_file_is_rejected(stored, caplog):
    assert "made from something else" in rejected(stored, caplog, key="another")
    save_file({"vectors": VECTORS}, stored)  # no metadata at all
    assert "made from something else" in rejected(stored, caplog)
    save_file({"vector": VECTORS}, stored, metadata={"key": KEY})
    assert "damaged" in rejected(stored, caplog)
    stored.write_text("not safetensors")
    assert "damaged" in rejected(stored, caplog)


def test_a_file_of_another_shape_or_dtype_is_rejected(stored, caplog):
    assert "[4, 3], not float32 [5, d]" in rejected(stored, caplog, n_items=5)
    save_file({"vectors": VECTORS.half()}, stored, metadata={"key": KEY})
    assert "torch.float16" in rejected(stored, caplog)
    save_file({"vectors": VECTORS.reshape(4, 3, 1)}, stored, metadata={"key": KEY})
    assert "[4, 3, 1]" in rejected(stored, caplog)


def test_every_truncation_is_rejected(stored, caplog):
    whole = stored.read_bytes()
    for length in range(len(whole)):
        stored.write_bytes(whole[:length])
        assert "damaged" in rejected(stored, caplog)


@settings(max_examples=150, deadline=None)
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_never_changes_a_vector(tmp_path_factory, position, bit):
    path = tmp_path_factory.mktemp("flip") / "x.safetensors"
    vector_cache.store(path, VECTORS, KEY, ABOUT)
    data = bytearray(path.read_bytes())
    data[int(position * len(data))] ^= 1 << bit
    path.write_bytes(data)
    loaded = vector_cache.load(path, KEY, 4)
    assert loaded is None or torch.equal(loaded, VECTORS)


def test_a_flipped_bit_in_the_numbers_is_noticed(stored, caplog):
    data = bytearray(stored.read_bytes())
    data[-1] ^= 1
    stored.write_bytes(data)
    assert "its checksum differs" in rejected(stored, caplog)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(stored, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        vector_cache.store(stored, VECTORS + 1, KEY, ABOUT)
    assert torch.equal(vector_cache.load(stored, KEY, 4), VECTORS)
    assert [path.name for path in stored.parent.iterdir()] == [stored.name]


def test_what_a_killed_writer_left_is_swept_away(stored):
    stale = stored.with_name(f".{stored.name}.4711.tmp")
    stale.touch()
    vector_cache.store(stored, VECTORS, KEY, ABOUT)
    assert not stale.exists()


HOLDER = """
import sys, time
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_the_lock_of_a_killed_process_blocks_nobody(stored):
    lock = f"{stored}.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, lock], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Timeout):
            FileLock(lock).acquire(timeout=0)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    with vector_cache.locked(stored) as writable:
        assert writable


def test_a_folder_that_cannot_be_made_is_a_warning(tmp_path, caplog):
    (tmp_path / "file").touch()
    with vector_cache.locked(tmp_path / "file" / "x.safetensors") as writable:
        assert not writable
    assert "cannot be written" in caplog.text


def test_an_error_under_the_lock_frees_it(stored):
    with pytest.raises(KeyError), vector_cache.locked(stored):
        raise KeyError
    FileLock(f"{stored}.lock").acquire(timeout=0)


def test_without_weights_name_inputs_and_uniqueness_decide(stored):
    folder = stored.parent
    found = vector_cache.find_without_weights(folder, "ml-100k", "owner/model", INPUTS, 4)
    assert found[0] == stored
    assert torch.equal(found[1], VECTORS)
    for dataset, llm, inputs in [
        ("ml-1m", "owner/model", INPUTS),
        ("ml-100k", "other/model", INPUTS),
        ("ml-100k", "owner/model", "other"),
    ]:
        assert vector_cache.find_without_weights(folder, dataset, llm, inputs, 4) is None
    second = vector_cache.cache_key(INPUTS, "other weights")
    vector_cache.store(
        vector_cache.cache_path(folder, "ml-100k", "model", second), VECTORS, second, ABOUT
    )
    assert vector_cache.find_without_weights(folder, "ml-100k", "owner/model", INPUTS, 4) is None
    assert vector_cache.find_without_weights(folder / "none", "a", "b", INPUTS, 4) is None
