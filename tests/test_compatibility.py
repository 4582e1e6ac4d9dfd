"""What was recorded before code moved (tests/recorded) holds after it.

Where code has moved, tests/recorded/places.py says so; the recorded files stay as they are.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from recorded import folders, places, surface

RECORDED = Path(__file__).parent / "recorded"
SETS, NAMES, COMMAND_LINE, SETTINGS, RUNS = (
    json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))
    for name in ("sets", "names", "command_line", "settings", "runs")
)
RUNS = folders.expanded(RUNS)
# Keys that there were; a newer one may be in any set.
KEYS_THEN = {
    places.key_now(key)
    for name, recorded in SETS.items()
    if name.startswith(("keys ", "values "))
    for key in recorded
} | {places.key_now(key) for name, keys in SETTINGS.items() if "known" in name for key in keys}


def of(kind: str, recorded: dict) -> list[str]:
    return [name.removeprefix(f"{kind} ") for name in recorded if name.startswith(f"{kind} ")]


def close(value):
    """What equals numbers up to rounding, in nested lists and mappings."""
    if isinstance(value, list):
        return [close(entry) for entry in value]
    if isinstance(value, dict):
        return {key: close(entry) for key, entry in value.items()}
    return pytest.approx(value, rel=1e-4, abs=1e-4) if isinstance(value, float) else value


# -- sets and settings ------------------------------------------------------------------------


def test_every_recorded_set_has_a_place():
    now = {f"keys {name}" for name in places.KEYS} | {f"values {name}" for name in places.VALUES}
    assert set(SETS) == now | {f"choices {name}" for name in places.CHOICES}


@pytest.mark.parametrize("name", of("keys", SETS))
def test_sets_have_the_same_keys(name):
    now = set(places.keys_at(places.KEYS[name]))
    assert now & KEYS_THEN == {places.key_now(key) for key in SETS[f"keys {name}"]}


@pytest.mark.parametrize("name", of("values", SETS))
def test_keys_have_the_same_values(name):
    now = places.values_at(places.VALUES[name])
    assert {k: now[k] for k in now if k in KEYS_THEN} == places.settings_now(SETS[f"values {name}"])


@pytest.mark.parametrize("name", of("choices", SETS))
def test_no_choice_is_gone(name):
    now = places.choices_at(places.CHOICES[name])
    for key, recorded in SETS[f"choices {name}"].items():
        assert {places.value_now(key or name, value) for value in recorded} <= set(now[key])


@pytest.mark.parametrize("model", surface.MODELS)
def test_models_have_the_same_defaults_and_know_the_same_keys(model):
    recorded = places.settings_now(SETTINGS[f"defaults {model}"])
    now = surface.defaults(model)
    assert {key: now.get(key, "gone") for key in recorded} == recorded
    known = {*SETTINGS["known"], *SETTINGS[f"known {model}"]}
    assert {places.key_now(key) for key in known} <= set(surface.known(model))


def test_settings_take_the_same_values():
    defaults = {model: SETTINGS[f"defaults {model}"] for model in surface.MODELS}
    differ = []
    for key, default in surface.default_of_each(defaults).items():
        now = surface.taken(places.key_now(key), places.value_now(key, default))
        pairs = zip(surface.SAMPLES, now, SETTINGS["taken"][key], strict=True)
        differ += [
            f"{key}: {value!r}" for value, is_taken, was_taken in pairs if is_taken != was_taken
        ]
    assert differ == []


def test_cached_item_vectors_are_found_again():
    """A catalogue that took hours to encode is not encoded anew."""
    inputs = places.at(places.CACHE_INPUTS)(
        ["", "toy story", "é"], pooling="mean", max_length=None, dtype="float32"
    )
    key = places.at(places.CACHE_KEY)(inputs, "0" * 64)
    path = places.at(places.CACHE_PATH)(Path("cache"), "ml-1m", "org/llm", key)
    assert path == Path("cache/ml-1m-llm-6b2b0c07beefcc43.safetensors")


# -- names and options ------------------------------------------------------------------------


def test_public_names_and_their_parameters():
    found = surface.public_names()
    assert set(NAMES["names"]) <= set(found)
    for name, recorded in NAMES.items():
        if name not in ("names", "errors"):
            thing, _, part = name.partition(".")
            now = found[thing][part]
            names = [parameter[0] for parameter in recorded]
            assert [parameter for parameter in now if parameter[0] in names] == recorded, name
            new = [parameter for parameter in now if parameter[0] not in names]
            assert all(default for _, _, default in new), f"{name} needs more than it did"


def test_classes_of_errors():
    now = surface.errors()
    for name, bases in NAMES["errors"].items():
        assert set(bases) <= set(now[name])


@pytest.fixture(scope="module")
def options():
    return surface.command_line()


@pytest.mark.parametrize("command", COMMAND_LINE)
def test_options_of_the_command_line(command, options):
    now = options[command]
    recorded = dict(COMMAND_LINE[command])
    for name, option in recorded.items():
        choices = option.get("choices")
        if choices is not None:  # there may be more
            assert set(choices) <= set(now[name]["choices"])
            option = {**option, "choices": now[name]["choices"]}
        assert now.get(name) == option, name
    new = {name: option for name, option in now.items() if name not in recorded}
    assert not any(option.get("required") for option in new.values())


# -- saved runs -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Data and language models, which the recorded settings name by relative paths."""
    folder = tmp_path_factory.mktemp("recorded")
    folders.prepare(folder)
    return folder


@pytest.fixture
def rewritten(root, workdir, tmp_path, monkeypatch):
    """``rewritten("run lite")`` -> the folder of that run."""
    monkeypatch.chdir(root)

    def write(name: str) -> Path:
        folder = tmp_path / name.replace(" ", "-")
        folders.write(folder, RUNS[name])
        return folder

    return write


@pytest.mark.parametrize("name", sorted(of("run", RUNS)))
def test_a_saved_run_gives_the_same_scores(name, rewritten):
    folder, recorded = rewritten(f"run {name}"), RUNS[f"run {name}"]
    assert folders.results(folder) == close(recorded["results"])
    if "recommended" in recorded:
        assert folders.recommended(folder) == close(recorded["recommended"])


@pytest.mark.parametrize("name", ["sasrec", "bpr"])
def test_a_saved_run_knows_the_ids_of_its_rows(name, rewritten, tmp_path):
    """The same data in another order, in which ids would have other numbers."""
    target = tmp_path / "tiny"
    shutil.copytree(Path("data", "tiny"), target)
    head, *rows = (target / "tiny.inter").read_text().splitlines(keepends=True)
    (target / "tiny.inter").write_text("".join([head, *reversed(rows)]))
    found = folders.results(rewritten(f"run {name}"), str(tmp_path))
    assert found == close(RUNS[f"run {name}"]["results"])


@pytest.mark.parametrize("name", sorted(of("packed", RUNS)))
def test_a_packed_folder_gives_the_same_recommendations(name, rewritten):
    recorded = RUNS[f"packed {name}"]["recommended"]
    assert folders.recommended(rewritten(f"packed {name}")) == close(recorded)


@pytest.mark.parametrize("name", sorted(of("interrupted", RUNS)))
def test_an_interrupted_run_goes_on_where_it_was(name, rewritten):
    """Weights, optimiser, schedule and order of the data are as they were: so is the loss."""
    folder, recorded = rewritten(f"interrupted {name}"), RUNS[f"interrupted {name}"]["resumed"]
    now = folders.resumed(folder)
    assert now["history"][:-1] == recorded["history"][:-1]  # taken from the file
    last, wanted = now["history"][-1], recorded["history"][-1]
    assert (now["epochs"], last["epoch"]) == (recorded["epochs"], wanted["epoch"])
    assert last["train_loss"] == pytest.approx(wanted["train_loss"], rel=1e-3)
    assert now["test"] == close(recorded["test"])


def test_the_recorded_settings_have_names_that_are_to_change():
    """Without them nothing would show that a saved run's old names are still read."""
    texts = "\n".join(record["texts"]["config.json"] for record in RUNS.values())
    for setting in (
        '"end_epoch": 1', '"matrix_products": "torch"', '"item_vector_std": 0.05',
        '"item_adapter": "principal"', '"item_init": "text+id"',
    ):  # fmt: skip
        assert setting in texts
