"""Settings: where they come from, which one counts, and what is refused."""

import os
import sys

import numpy as np
import pytest
from recbole.utils import argument_list

from recbole_lite import LiteConfig
from recbole_lite.config.command_line import parse_overrides, parse_scalar
from recbole_lite.config.known_keys import known_keys
from recbole_lite.config.stages import read_stages
from recbole_lite.config.yaml_files import read_yaml
from recbole_lite.utils.errors import ConfigError


def lite(**kwargs):
    return LiteConfig("SASRec", "ml-100k", **kwargs)


def test_precedence_command_line_over_dict_over_file_over_ours_over_recboles(tmp_path):
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("n_heads: 4\nhidden_size: 32\ninner_size: 33\nn_layers: 5\n")
    second.write_text("hidden_size: 40\ninner_size: 41\nn_layers: 6\n")
    config = lite(
        config_file_list=[first, second],
        config_dict={"inner_size": 50, "n_layers": 7},
        overrides=["--n_layers=8"],
    )
    assert (config["n_heads"], config["hidden_size"]) == (4, 40)
    assert (config["inner_size"], config["n_layers"]) == (50, 8)
    assert config["MAX_ITEM_LIST_LENGTH"] == 20  # ours; RecBole's is 50
    assert config["hidden_act"] == "gelu"  # RecBole's


def test_model_properties_come_before_overall_and_dataset_after_model():
    config = LiteConfig("LiteLLM4Rec", "ml-100k")
    assert config["train_batch_size"] == 256  # properties/model; RecBole's is 2048
    assert config["item_text_fields"] == ["movie_title", "release_year", "class"]


def test_model_and_dataset_may_stand_in_a_file(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("model: GRU4Rec\ndataset: ml-100k\n")
    config = LiteConfig(config_file_list=[path])
    assert (config["model"], config["dataset"]) == ("GRU4Rec", "ml-100k")
    with pytest.raises(ConfigError, match="no model given"):
        LiteConfig(dataset="ml-100k")


@pytest.mark.parametrize(
    "text, default, value",
    [
        ("1e-3", 0.1, 0.001),
        ("3", 1, 3),
        ("True", False, True),
        ("true", False, True),
        ("None", 5, None),
        ("~", "text", None),
        ("[1, 2]", None, [1, 2]),
        ("(1, 2)", None, [1, 2]),
        ("{'LS': 'valid_and_test'}", {}, {"LS": "valid_and_test"}),
        ("{num_layers: 2, d_model: 64}", {}, {"num_layers": 2, "d_model": 64}),
        ("['Recall','NDCG']", [], ["Recall", "NDCG"]),
        ("Recall@10", "MRR@10", "Recall@10"),
        ("{title}, {brand}", "", "{title}, {brand}"),
        ("0,1", "0", "0,1"),
        ("[5,inf)", "[0,inf)", "[5,inf)"),
        ("2020-01-01", None, "2020-01-01"),
        ("a: [", None, "a: ["),
    ],
)
def test_strings_are_read_as_literals_or_yaml(text, default, value):
    assert parse_scalar(text, default) == value
    assert type(parse_scalar(text, default)) is type(value)


@pytest.mark.parametrize("source", ["overrides", "config_dict", "file"])
def test_values_are_never_run_as_code(source, workdir, tmp_path):
    code = "__import__('os').system('touch pwned')"
    path = tmp_path / "a.yaml"
    path.write_text(f'learning_rate: "{code}"\n')
    arguments = {
        "overrides": {"overrides": [f"--learning_rate={code}"]},
        "config_dict": {"config_dict": {"learning_rate": code}},
        "file": {"config_file_list": [path]},
    }
    with pytest.raises(ConfigError, match="learning_rate must be a positive number"):
        lite(**arguments[source])
    assert list(workdir.iterdir()) == []


def test_a_yaml_tag_that_would_build_an_object_is_refused(tmp_path, workdir):
    path = tmp_path / "a.yaml"
    path.write_text("seed: !!python/object/apply:os.system ['touch pwned']\n")
    with pytest.raises(ConfigError, match=r"a\.yaml, line 1: not valid YAML"):
        lite(config_file_list=[path])
    assert list(workdir.iterdir()) == []


def test_the_scripts_own_command_line_is_not_read(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["my_script.py", "--learning_rate=7", "--unknown=1"])
    assert lite()["learning_rate"] == 0.001


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["--learing_rate=0.1"], "unknown key 'learing_rate'; did you mean learning_rate"),
        (["--max_item_list_length=5"], "did you mean MAX_ITEM_LIST_LENGTH"),
        (["learning_rate=0.1"], "cannot read 'learning_rate=0.1'; write --key=value"),
        (["--epochs"], "cannot read '--epochs'"),
        (["--epochs=1", "--epochs=2"], "--epochs is given twice, as '1' and '2'"),
        (["--epochs=-1"], "epochs must be a whole number of at least 0, found -1"),
        (["--epochs=.inf"], "epochs must be a whole number of at least 0, found inf"),
        (["--epochs=many"], "epochs must be a whole number"),
        (["--learning_rate=0"], "learning_rate must be a positive number"),
        (["--hidden_dropout_prob=1.5"], r"must be a probability in \[0, 1\)"),
        (["--warmup_ratio=2"], r"warmup_ratio must be a share in \[0, 1\]"),
        (["--adam_eps=none at all"], "adam_eps must be a positive number"),
        (
            ["--train_strategy=some"],
            "train_strategy must be one of all, sampling, prefix, found 'some'",
        ),
        (["--use_gpu=maybe"], "use_gpu must be true or false"),
        (["--weight_decay=little"], "weight_decay must be a number"),
        (["--weight_decay=~"], "weight_decay must be a number of at least 0, found None"),
        (["--n_positions=64"], "unknown key 'n_positions'"),  # of properties/rec_llm
        (["--eval_args=full"], "eval_args must be a mapping"),
        (["--valid_metric=Recall@7"], "valid_metric 'Recall@7' is not measured"),
        (["--valid_metric=MRR@10"], "valid_metric 'MRR@10' is not measured"),
        (["--metrics=['Recal']"], "no metric named 'Recal'"),
        (["--topk=[0]"], "topk must be a positive integer"),
        (["--eval_args={'mode': 'most'}"], "mode"),
        (["--train_neg_sample_args={'distribution': 'uniform'}"], "should be None"),
    ],
)
def test_bad_settings_get_one_clear_message(overrides, message):
    with pytest.raises(ConfigError, match=message):
        lite(overrides=overrides)


@pytest.mark.parametrize(
    "text, message",
    [
        ("epochs: 1\nlearing_rate: 3\n", r"a\.yaml, line 2: unknown key 'learing_rate'"),
        ("epochs: 1\nseed: 2\nepochs: 3\n", r"line 3: epochs is already set at .*line 1"),
        ("epochs: [1\n", r"a\.yaml, line \d: not valid YAML"),
        ("a: 1\nseed: " + "[" * 101 + "]" * 101, r"a\.yaml, line 2: .*nested too deeply"),
        ("- a\n- b\n", "line 1: expected lines of `key: value`"),
        ("1: 2\n", "line 1: 1 is no name of a key"),
        ("\nepochs: x\n", r"line 2: epochs must be a whole number"),
    ],
)
def test_bad_files_are_told_by_file_and_line(text, message, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        lite(config_file_list=[path])


def test_missing_file_and_empty_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot read this configuration file: No such file"):
        lite(config_file_list=[tmp_path / "absent.yaml"])
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "empty.yaml") == {}


def test_a_value_may_hold_an_equals_sign():
    assert parse_overrides(["--item_text_template=a=b"])["item_text_template"].value == "a=b"


@pytest.mark.parametrize("prompt", ["passage: ", "{title}", "[1, 2]", "2024", "true"])
def test_a_setting_that_is_text_keeps_what_yaml_would_read_otherwise(prompt):
    given = LiteConfig("LiteLLM4Rec", "ml-100k", config_dict={"item_llm_prompt": prompt})
    typed = LiteConfig("LiteLLM4Rec", "ml-100k", overrides=[f"--item_llm_prompt={prompt}"])
    assert given["item_llm_prompt"] == typed["item_llm_prompt"] == prompt


def test_keys_of_other_models_are_known_so_that_one_file_serves_several():
    assert LiteConfig("Pop", "ml-100k", overrides=["--n_layers=3"])["n_layers"] == 3


def test_a_count_may_be_written_as_a_float():
    config = lite(overrides=["--epochs=2.0"], config_dict={"stages": [{"epochs": 3.0}]})
    assert repr(config["epochs"]) == "2"
    assert repr(read_stages(config)[0].epochs) == "3"


def test_keys_that_only_a_models_source_names_are_known():
    from recbole.model.sequential_recommender.core import CORE

    assert {"dnn_type", "sess_dropout", "temperature"} <= known_keys(CORE)


def test_recboles_module_lists_are_left_alone():
    before = list(argument_list.dataset_arguments)
    LiteConfig("SASRec", "ml-100k")
    assert argument_list.dataset_arguments == before


def test_cross_entropy_needs_no_word_about_negatives():
    assert lite()["train_neg_sample_args"]["distribution"] == "none"
    assert lite(overrides=["--loss_type=BPR"])["train_neg_sample_args"]["distribution"] == "uniform"


def test_setting_one_key_of_eval_args_keeps_the_others():
    config = lite(config_dict={"eval_args": {"mode": "uni100"}})
    assert config["eval_args"]["split"] == {"LS": "valid_and_test"}
    assert config["eval_args"]["order"] == "TO"
    assert config["eval_args"]["mode"] == {"valid": "uni100", "test": "uni100"}


def test_settings_round_trip():
    config = lite(overrides=["--epochs=3", "--user_inter_num_interval=[5,inf)"])
    again = LiteConfig("SASRec", "ml-100k", config_dict=config.settings, typed=True)
    assert again.settings == config.settings
    assert again["data_path"] == config["data_path"]


def test_a_schedulers_gpu_is_not_replaced_by_recboles_default(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    lite()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"


def test_progress_bars_are_off_where_there_is_no_terminal():
    assert lite()["show_progress"] is False
    assert lite(overrides=["--show_progress=True"])["show_progress"] is True


def test_numpy_keeps_its_names():
    lite()
    assert not hasattr(np, "float")
    assert not hasattr(np, "unicode")


def test_a_mask_without_room_for_an_item_is_refused():
    with pytest.raises(ConfigError, match=r"mask_ratio 0\.2 of MAX_ITEM_LIST_LENGTH 4 is less"):
        LiteConfig("BERT4Rec", "ml-100k", overrides=["--MAX_ITEM_LIST_LENGTH=4"])


@pytest.mark.parametrize("ratio", ["0", "1.5", "-0.1"])
def test_a_mask_ratio_that_is_no_share_is_refused(ratio):
    with pytest.raises(ConfigError, match="mask_ratio must be above 0 and at most 1, found"):
        LiteConfig("BERT4Rec", "ml-100k", overrides=[f"--mask_ratio={ratio}"])


@pytest.mark.parametrize("given", ["~", "mask_itemseq"])
@pytest.mark.parametrize("strategy, expected", [("prefix", None), ("all", "mask_itemseq")])
def test_the_transform_of_bert4rec_follows_its_strategy(strategy, expected, given):
    """Saved settings of a run with one strategy are read for a run with another."""
    overrides = [f"--train_strategy={strategy}", f"--transform={given}"]
    assert LiteConfig("BERT4Rec", "ml-100k", overrides=overrides)["transform"] == expected
