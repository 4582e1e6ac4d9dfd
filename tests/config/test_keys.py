"""The table of settings: what a line of properties/ says, and former names."""

import logging
from collections import Counter

import pytest

from recbole_lite import LiteConfig
from recbole_lite.config import configurator
from recbole_lite.config.keys import affecting, current, find_key, read_keys, table
from recbole_lite.config.known_keys import RECBOLE_PROPERTIES
from recbole_lite.config.validation import fit
from recbole_lite.config.yaml_files import read_yaml
from recbole_lite.utils.errors import ConfigError
from recbole_lite.utils.paths import PROPERTIES

FILES = [
    PROPERTIES / name for name in ("recbole.yaml", "overall.yaml", "tune.yaml", "adapt_llm.yaml")
]
FILES += sorted((PROPERTIES / "model").glob("*.yaml"))


def test_a_line_says_all_of_a_setting():
    (key,) = read_keys(
        'a: "x # y"  # (int >= 1 or ~; affects ids, output; was b, c=d; trained: 2) M.'
    ).values()
    assert (key.name, key.type, key.meaning) == ("a", "int >= 1 or ~", "M.")
    assert (key.affects, key.trained) == ({"ids", "output"}, "2")
    assert (key.former_names, key.former_values) == (("b",), {"c": "d"})


def test_a_line_that_means_nothing_is_refused():
    with pytest.raises(ConfigError, match="a: 'affects all' means nothing in a comment"):
        read_keys("a: 1  # (int; affects all) M.")
    with pytest.raises(ConfigError, match="'int => 1' is no type of a setting"):
        fit("int => 1", 1)


def test_every_key_is_described_once_and_its_default_fits():
    described = Counter()
    for path in FILES:
        values = read_yaml(path)
        for key in read_keys(path.read_text()).values():
            described[key.name] += bool(key.type)
            if path.name == "recbole.yaml":
                assert values[key.name].value is None, key  # RecBole's
                fit(key.type, 0)
                continue
            kind = key.type or find_key(key.name).type
            assert fit(kind, values[key.name].value) == (values[key.name].value, ""), key
    several = [name for name, times in described.items() if times != 1]
    assert several == ["ray_address"]  # of a training and of a sweep


def test_defaults_of_recbole_fit():
    ours = table("recbole.yaml")
    for name in ("overall", "dataset/sample"):
        for key, setting in read_yaml(RECBOLE_PROPERTIES / f"{name}.yaml").items():
            assert key not in ours or fit(ours[key].type, setting.value)[1] == "", key


@pytest.mark.parametrize(
    "kind, right, wrong, words",
    [
        ("int >= 1", [1, 2.0], [0, True, 1.5, "1", None], "a whole number of at least 1"),
        ("0 <= int < 2**32", [0, 2**32 - 1], [-1], "a whole number of at least 0"),
        ("0 <= int < 2**32", [5], [2**32], "below 2**32"),
        ("float > 0", [1, 0.5], [0, float("nan"), "x"], "a positive number"),
        ("number > 1", [2], [1], "a number above 1"),
        ("number >= 0 or ~", [0, None], [-1], "a number of at least 0"),
        ("0 <= float <= 1", [0, 1], [1.1], "a share in [0, 1]"),
        ("-1.5 < number <= 0.5", [-1, 0.5], [-1.5, 0.6], "a number in (-1.5, 0.5]"),
        ("1 <= int <= 5", [5], [0], "a whole number of at least 1"),
        ("1 <= int <= 5", [5], [6], "at most 5"),
        ("number <= 2", [-1], [3], "a number of at most 2"),
        ("bool", [True], [0, "True"], "true or false"),
        ("list of models", [[], ["a"], "a"], [5, [5]], "a list of models"),
        ("list of a | b or ~", [["b"], None], ["a", ["c"]], "a list of a, b"),
        ("a | b", ["a", "B"], ["c", None, 1, ["a"]], "one of a, b"),
        ("interval", ["(1, 2];[4,5]"], ["[5,inf", 5], 'an interval such as "[5,inf)"'),
        ("path or ~", ["x", None], ["", 5], "a text"),
        ("dict", [{}], [[], None], "a mapping such as {key: value}"),
    ],
)  # fmt: skip
def test_types(kind, right, wrong, words):
    assert [fit(kind, value)[1] for value in right] == [""] * len(right)
    assert [fit(kind, value)[1] for value in wrong] == [words] * len(wrong)


def test_what_a_type_makes_of_a_value():
    assert repr(fit("int >= 1", 2.0)[0]) == "2"
    assert repr(fit("float > 0", 2)[0]) == "2"
    assert fit("adam | adamw", "AdamW")[0] == "adamw"


# -- former names -----------------------------------------------------------------------------


@pytest.fixture
def log(caplog):
    configurator._warn_once.cache_clear()
    caplog.set_level(logging.WARNING)
    return caplog


def test_former_names_are_read_with_one_line_each(log, tmp_path, quick):
    path = tmp_path / "a.yaml"
    path.write_text("item_adapter: principal\nend_epoch: 3\n")
    for _ in range(2):
        config = LiteConfig(
            "LiteLLM4Rec",
            "tiny",
            config_file_list=[path],
            config_dict=quick(matrix_products="torch"),
            overrides=["--item_vector_std=0.5", "--last_epoch=2"],
        )
    assert (config["item_adapter"], config["last_epoch"]) == ("pca", 2)
    assert (config["matmul_backend"], config["item_vector_scale"]) == ("torch", 0.5)
    assert log.messages == [
        f"{path}, line 1: item_adapter: principal is now called item_adapter: pca",
        f"{path}, line 2: end_epoch is now called last_epoch",
        "config_dict: matrix_products is now called matmul_backend",
        "command line: item_vector_std is now called item_vector_scale",
    ]


def test_a_saved_runs_former_names_are_no_matter(log, quick):
    settings = {**LiteConfig("ItemLM", "tiny", config_dict=quick()).settings, "end_epoch": 4}
    settings |= {"item_init": "text+id"}
    del settings["last_epoch"]
    config = LiteConfig("ItemLM", "tiny", config_dict=settings, typed=True)
    assert (config["last_epoch"], config["item_init"]) == (4, "text_plus_id")
    assert log.messages == []


def test_both_names_in_one_place_are_refused(quick, tmp_path):
    (tmp_path / "a.yaml").write_text("end_epoch: 1\nlast_epoch: 1\n")
    with pytest.raises(ConfigError, match=r"line 2: last_epoch is already set at .*line 1"):
        read_yaml(tmp_path / "a.yaml")
    with pytest.raises(ConfigError, match="--end_epoch is given twice, as '1' and '2'"):
        LiteConfig("SASRec", "tiny", overrides=["--last_epoch=1", "--end_epoch=2"])
    with pytest.raises(ConfigError, match="end_epoch is already set at config_dict"):
        LiteConfig("SASRec", "tiny", config_dict=quick(last_epoch=1, end_epoch=2))


def test_names_without_a_former_one():
    assert current("epochs", 3) == ("epochs", 3)
    assert current("anything", [1]) == ("anything", [1])
    assert "last_epoch" in affecting("session")
