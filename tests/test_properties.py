"""The shipped YAML files agree with one another and with the models that read them."""

import re

import pytest

from recbole_lite import LiteConfig, get_model
from recbole_lite.config.data_rules import MEASURES, settings_in_rules
from recbole_lite.config.known_keys import known_keys
from recbole_lite.config.yaml_files import read_yaml
from recbole_lite.data.sources.dataset_meta import load_meta
from recbole_lite.utils.paths import DATASET_META, PROPERTIES

DATASETS = sorted((PROPERTIES / "dataset").glob("*.yaml"))
OURS = sorted((PROPERTIES / "model").glob("*.yaml"))


@pytest.mark.parametrize("path", DATASETS, ids=lambda path: path.stem)
def test_a_dataset_has_the_same_text_fields_in_both_places(path):
    settings = read_yaml(path)
    meta = load_meta(DATASET_META / path.name)
    assert tuple(settings["item_text_fields"].value) == meta.text_fields
    assert settings["title_field"].value == meta.text_fields[0]


def test_every_dataset_that_can_be_prepared_has_its_properties():
    names = {path.name for path in DATASET_META.glob("*.yaml")}
    assert names == {path.name for path in DATASETS}


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_every_key_of_a_model_is_read_somewhere(path):
    """A key in properties/model that nobody reads is a promise that nobody keeps."""
    source = "\n".join(
        file.read_text() for file in (PROPERTIES.parent / "recbole_lite").glob("**/*.py")
    )
    recboles = known_keys(get_model("SASRec"))
    for key in read_yaml(path):
        named = re.search(rf"[\"']{key}[\"']", source)
        assert named or key in recboles, key


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_every_key_has_a_comment(path):
    for line in path.read_text().splitlines():
        if re.match(r"\w+:", line) and not re.match(r"(loss_type|learn|weight_d|train_b)", line):
            assert "#" in line, line


def test_the_demo_is_a_valid_configuration():
    config = LiteConfig("LiteLLM4Rec", "ml-100k", config_file_list=[PROPERTIES / "demo.yaml"])
    assert config["baselines"] == ["Pop"]


@pytest.mark.parametrize(
    ("per_item", "text_fields", "expected"),
    [
        (39, 2, ("text_plus_id", 128, 0.5)),
        (40, 1, ("text", 256, 0.2)),
        (39, 0, ("random", 128, 0.5)),
        (40, 0, ("random", 256, 0.2)),
    ],
)
def test_the_recommended_configuration_follows_the_data(per_item, text_fields, expected):
    config = LiteConfig("ItemLM", "ml-100k", [PROPERTIES / "recommended.yaml"])
    measures = dict.fromkeys(MEASURES, 1) | {"interactions_per_item": per_item}
    config.apply_data_rules(measures | {"text_fields": text_fields})
    assert tuple(config[key] for key in ("item_init", "hidden_size", "lm_dropout")) == expected


@pytest.mark.parametrize("path", sorted(PROPERTIES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_no_rule_is_overruled_by_its_own_file(path):
    settings = read_yaml(path)
    rules = settings.get("data_rules")
    assert not settings_in_rules(rules and rules.value) & settings.keys()
