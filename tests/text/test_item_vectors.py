from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import transformers
from safetensors import safe_open

from recbole_lite.config.validation import validate
from recbole_lite.config.yaml_files import Setting
from recbole_lite.text import text_encoder as encoder_module
from recbole_lite.text import vector_cache
from recbole_lite.text.item_llm_settings import TextFields
from recbole_lite.text.item_vectors import item_texts, load_item_vectors
from recbole_lite.text.sentence_transformers_folder import Recipe
from recbole_lite.utils.errors import ConfigError, ModelFilesError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def encoded(monkeypatch):
    """Texts that were given to the model, call by call."""
    calls = []
    encode = encoder_module.TextEncoder.encode

    def spy(self, texts, show_progress=False):
        calls.append(texts)
        return encode(self, texts, show_progress)

    monkeypatch.setattr(encoder_module.TextEncoder, "encode", spy)
    return calls


def test_rows_follow_internal_ids_and_distinct_texts_are_encoded_once(settings, items, encoded):
    result = load_item_vectors(settings(), items())
    texts = item_texts(TextFields.from_config(settings()), items())
    assert texts[1] == "title: toy story, genre: animation comedy"
    assert result.has_text.tolist() == [False, True, True, False, True, True, True]
    assert result.vectors.shape == (7, 16)
    assert result.vectors.dtype == torch.float32
    assert result.vectors[[0, 3]].eq(0).all()
    assert torch.equal(result.vectors[1], result.vectors[5])
    assert encoded == [[texts[i] for i in (1, 2, 4, 6)]]
    alone = encoder_module.TextEncoder(
        Path(settings()["item_llm"]),
        recipe=Recipe(),
        max_length=None,
        batch_size=1,
        dtype="float32",
        device="cpu",
    )
    for i in (1, 2, 4, 5, 6):
        expected = alone.encode([texts[i]])[0]
        torch.testing.assert_close(result.vectors[i], expected, rtol=0, atol=1e-5)


def test_what_is_logged(settings, items, caplog):
    caplog.set_level(logging.INFO)
    result = load_item_vectors(settings(), items())
    lines = [record.getMessage() for record in caplog.records if record.name == "root"]
    llm = settings()["item_llm"]
    assert lines[0] == (
        "1 of 6 items have no text (item ids: token-3); each gets a learned vector instead"
    )
    assert lines[1] == f"Item LLM {llm}: encoding 5 items (4 distinct texts)"
    assert lines[2].startswith(f"Item LLM {llm}: encoded in ")
    assert lines[2].endswith(f" s, 16 dimensions, kept in {result.path}")
    assert len(lines) == 3
    caplog.clear()
    load_item_vectors(settings(), items())
    lines = [record.getMessage() for record in caplog.records if record.name == "root"]
    assert lines[1] == f"item vectors read from cache {result.path} (0 texts encoded)"


def test_at_most_three_items_without_text_are_named(settings, items, caplog):
    load_item_vectors(settings(), items(title=["", "toy", "", "", ""]))
    assert "4 of 5 items have no text (item ids: token-1, token-3, token-4, ...)" in caplog.text


def test_a_second_run_never_loads_the_model(settings, items, monkeypatch):
    def load(*args, **options):
        raise AssertionError("the model was loaded")

    first = load_item_vectors(settings(), items())
    for name in ("AutoConfig", "AutoModel", "AutoModelForTextEncoding", "AutoTokenizer"):
        monkeypatch.setattr(getattr(transformers, name), "from_pretrained", load)
    second = load_item_vectors(settings(), items())
    assert not first.from_cache
    assert second.from_cache
    assert first.path == second.path
    assert torch.equal(first.vectors, second.vectors)
    assert torch.equal(first.has_text, second.has_text)


@pytest.mark.parametrize(
    "changes",
    [
        {"item_llm_pooling": "cls"},
        {"item_llm_max_length": 8},
        {"item_llm_dtype": "bfloat16"},
        {"item_text_template": "{title}"},
        {"item_text_fields": ["title"]},
        {"item_text_fields": "genre"},
    ],
)
def test_a_changed_setting_is_encoded_anew(settings, items, changes):
    first = load_item_vectors(settings(), items())
    second = load_item_vectors(settings(**changes), items())
    assert not second.from_cache
    assert first.path != second.path
    assert load_item_vectors(settings(), items()).from_cache


def test_changed_texts_and_weights_are_encoded_anew(settings, items, llm_copy):
    folder = llm_copy("bert")
    config = settings(item_llm=str(folder))
    assert not load_item_vectors(config, items(title=["toy", "story"])).from_cache
    assert not load_item_vectors(config, items(title=["story", "toy"])).from_cache
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert not load_item_vectors(config, items(title=["toy", "story"])).from_cache


def test_batch_size_and_device_do_not_change_the_key(settings, items):
    load_item_vectors(settings(), items())
    assert load_item_vectors(settings(item_llm_batch_size=1, device="cpu"), items()).from_cache


def damage_truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def damage_flip(path):
    data = bytearray(path.read_bytes())
    data[-40] ^= 16
    path.write_bytes(data)


def damage_foreign(path):
    vector_cache.store(path, torch.ones(7, 16), "another key", {})


def damage_shape(path):
    with safe_open(path, framework="pt") as file:
        key = file.metadata()["key"]
    vector_cache.store(path, torch.ones(6, 16), key, {})


@pytest.mark.parametrize(
    "damage", [damage_truncate, damage_flip, damage_foreign, damage_shape], ids=lambda d: d.__name__
)
def test_a_damaged_cache_is_rebuilt(settings, items, caplog, damage):
    first = load_item_vectors(settings(), items())
    damage(first.path)
    caplog.clear()
    second = load_item_vectors(settings(), items())
    assert not second.from_cache
    assert "the item vectors are encoded again" in caplog.text
    assert torch.equal(first.vectors, second.vectors)
    assert load_item_vectors(settings(), items()).from_cache


def test_no_cache_folder_means_no_cache(settings, items, tmp_path):
    result = load_item_vectors(settings(item_embedding_cache_dir=None), items())
    assert result.path is None
    assert not result.from_cache
    assert not (tmp_path / "cache").exists()


def test_an_unwritable_folder_costs_only_a_warning(settings, items, tmp_path, caplog):
    (tmp_path / "file").touch()
    config = settings(item_embedding_cache_dir=str(tmp_path / "file" / "cache"))
    result = load_item_vectors(config, items())
    assert result.path is None
    assert result.vectors.abs().sum() > 0
    assert caplog.text.count("cannot be written") == 1


def test_a_read_only_folder_still_serves_what_it_holds(settings, items, monkeypatch):
    first = load_item_vectors(settings(), items())

    def acquire(self, **options):
        raise PermissionError("read-only")

    monkeypatch.setattr(vector_cache.FileLock, "acquire", acquire)
    second = load_item_vectors(settings(), items())
    assert second.from_cache
    assert second.path == first.path


def test_a_full_disk_costs_only_a_warning(settings, items, monkeypatch, caplog):
    def store(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr(vector_cache, "store", store)
    result = load_item_vectors(settings(), items())
    assert result.path is None
    assert "no space left on device" in caplog.text


def test_a_cache_brought_along_serves_without_the_model(settings, items, llm_copy, caplog):
    folder = llm_copy("bert")
    config = settings(item_llm=str(folder))
    first = load_item_vectors(config, items())
    folder.rename(folder.with_name("elsewhere"))
    second = load_item_vectors(config, items())
    assert second.from_cache
    assert second.path == first.path
    assert "without checking the weights" in caplog.text
    with pytest.raises(ModelFilesError, match="no such directory"):
        load_item_vectors(config, items(title=["toy"]))
    with pytest.raises(ModelFilesError, match="no such directory"):
        load_item_vectors(settings(item_llm=str(folder), item_embedding_cache_dir=None), items())


def test_random_numbers_after_it_do_not_depend_on_the_cache(settings, items, llm_copy):
    folder = llm_copy("bert")
    model = transformers.BertForMaskedLM.from_pretrained(folder)
    model.save_pretrained(folder)  # without a pooler: transformers draws one
    config = settings(item_llm=str(folder))
    after = []
    for expected in (False, True):
        torch.manual_seed(3)
        assert load_item_vectors(config, items()).from_cache is expected
        after.append(torch.rand(3))
    assert torch.equal(*after)


def test_the_result_cannot_be_reassigned(settings, items):
    result = load_item_vectors(settings(), items())
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.vectors = None


@pytest.mark.parametrize(
    "changes, found",
    [
        ({"item_llm": None}, "item_llm: not set"),
        ({"item_llm": " "}, "item_llm: not set"),
        ({"item_text_fields": ["title", "plot"]}, "item_text_fields: plot to read"),
        ({"item_text_template": "{plot}"}, "item_text_template: {plot} is not a text field"),
    ],
)
def test_a_wrong_value_names_its_key(settings, items, changes, found):
    with pytest.raises(ConfigError) as caught:
        load_item_vectors(settings(**changes), items())
    assert str(caught.value).startswith(found)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key, value, wanted",
    [
        ("item_llm_pooling", "min", "one of auto, mean, cls, pooler"),
        ("item_llm_dtype", None, "one of auto, float32"),
        ("item_llm_batch_size", 0, "a whole number"),
        ("item_llm_batch_size", None, "a whole number"),
        ("item_llm_max_length", True, "a whole number"),
        ("item_text_fields", [1], "a list of fields, found [1]"),
        ("item_text_template", 3, "a text, found 3"),
    ],
)
def test_a_value_of_another_type(key, value, wanted):
    with pytest.raises(ConfigError) as caught:
        validate(key, Setting(value, "command line"))
    assert str(caught.value).startswith(f"command line: {key} must be {wanted}")


def test_a_dataset_without_any_text_is_refused(settings, items):
    with pytest.raises(ConfigError, match="no item of tiny has text in title"):
        load_item_vectors(settings(), items(title=["", ""]))
    empty = items()
    empty.columns = {}
    with pytest.raises(ConfigError, match=r"nothing to read .* available: no text field"):
        load_item_vectors(settings(), empty)


WORKER = """
import sys, time, types, pathlib
work, llm = pathlib.Path(sys.argv[1]), sys.argv[2]
import torch

class TextEncoder:  # stands in for the real one: no transformers to import
    def __init__(self, folder, **options): pass
    def encode(self, texts, show_progress=False):
        with (work / "encoded").open("a") as file:
            file.write("once\\n")
        time.sleep(0.5)
        return torch.arange(2.0 * len(texts)).reshape(-1, 2)

sys.modules["recbole_lite.text.text_encoder"] = types.SimpleNamespace(TextEncoder=TextEncoder)
from recbole_lite.text.item_vectors import load_item_vectors

class Config(dict):
    def __missing__(self, key): return None

class Items:
    def item_text_columns(self, fields): return {"title": ["", "toy", "story"]}

config = Config(dataset="tiny", item_llm=llm, item_llm_pooling="mean", item_llm_batch_size=1,
                item_llm_dtype="auto", item_embedding_cache_dir=str(work / "cache"))
(work / f"ready-{sys.argv[3]}").touch()
while not (work / "go").exists(): time.sleep(0.01)
result = load_item_vectors(config, Items())
assert "transformers" not in sys.modules
assert result.vectors.tolist() == [[0, 0], [0, 1], [2, 3]]
print(result.from_cache)
"""


def test_four_processes_at_once_encode_once(tmp_path, llm_folders):
    arguments = [sys.executable, "-c", WORKER, str(tmp_path), str(llm_folders["bert"])]
    workers = [
        subprocess.Popen([*arguments, str(i)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for i in range(4)
    ]
    while len(list(tmp_path.glob("ready-*"))) < 4:
        time.sleep(0.02)
        assert all(worker.poll() in (None, 0) for worker in workers)
    (tmp_path / "go").touch()
    answers = sorted(worker.communicate(timeout=60)[0].strip() for worker in workers)
    assert (tmp_path / "encoded").read_text() == "once\n"
    assert answers == ["False", "True", "True", "True"]
    left = [path.suffix for path in (tmp_path / "cache").iterdir()]
    assert sorted(left) == [".lock", ".safetensors"]
