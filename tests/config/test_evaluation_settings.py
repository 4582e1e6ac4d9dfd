"""Settings that say how a model is measured: wrong ones get one line before the training."""

import pytest

from recbole_lite import LiteConfig, run
from recbole_lite.utils.errors import ConfigError


def split(value):
    return {"eval_args": {"split": value}}


@pytest.mark.parametrize(
    "settings, message",
    [
        (split({"RS": [0.9, 0.1]}), r"split RS must be three numbers.*\[0.9, 0.1, 0.0\]\), found"),
        (split({"RS": [0.8, 0.1, 0.05, 0.05]}), "split RS must be three numbers"),
        (split({"RS": [1.2, -0.1, -0.1]}), "split RS must be three numbers"),
        (split({"RS": [0, 0, 0]}), "split RS must be three numbers"),
        (split({"RS": "a"}), "split RS must be three numbers"),
        (split({"LS": "last"}), "split LS must be one of valid_and_test, valid_only, test_only"),
        (split({"XX": 1}), r"split must be \{LS: valid_and_test\}"),
        (split({"RS": [0.8, 0.1, 0.1], "LS": "valid_only"}), "split must be"),
        (split(None), "split must be"),
        ({"eval_args": {"modes": "full"}}, "unknown key 'modes'; did you mean mode"),
        ({"eval_args": {"order": "RO"}}, r"order must be TO \(by time; a sequence has no other\)"),
        ({"eval_args": {"group_by": "item"}}, "group_by must be user or none"),
        ({"eval_args": {"mode": "uni"}}, r"mode must be full, labeled, or uniN .*found 'uni'"),
        ({"eval_args": {"mode": "uni0"}}, "mode must be full"),
        ({"eval_args": {"mode": {"valid": "x"}}}, "mode must be full"),
        (
            {"eval_args": {"mode": "labeled"}},
            r"recall, ndcg rank items; set mode: full, or metrics",
        ),
        ({"metrics": ["AUC"], "valid_metric": "AUC"}, "auc measure values.*set mode: labeled"),
        ({"metrics": ["NDCG", "AUC"]}, "one run has one kind"),
        ({"metrics": []}, r"metrics must be names such as \[Recall, NDCG\], found \[\]"),
        ({"metrics": {"Recall": 1}}, "metrics must be names"),
        ({"metrics": ["Recall", 5]}, "there is no metric named 5"),
        ({"topk": []}, "topk must be a positive integer"),
        ({"topk": [5, "a"]}, "topk must be a positive integer"),
        ({"topk": 1.5}, "topk must be a positive integer"),
        ({"valid_metric": "NDCG"}, "valid_metric 'NDCG' is not measured.*one of recall@3"),
        ({"valid_metric": "NDCG@"}, "'NDCG@' is not measured"),
        ({"valid_metric": ["NDCG@5"]}, r"valid_metric \['NDCG@5'\] is not measured"),
        ({"topk": [7]}, "valid_metric 'NDCG@5' is not measured.*one of recall@7, ndcg@7"),
        ({"metrics": ["GAUC"], "valid_metric": "GAUC@5"}, "must be one of gauc"),
    ],
)
def test_one_line_says_what_to_write(settings, message, quick):
    with pytest.raises(ConfigError, match=message) as caught:
        LiteConfig("SASRec", "tiny", config_dict=quick(**settings))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        split({"RS": [8, 1, 1]}),
        {"eval_args": {"mode": {"valid": "uni10", "test": "full"}}},
        {"eval_args": {"mode": "pop10"}},
        {"metrics": "NDCG", "valid_metric": "ndcg@5"},
        {"metrics": ["GAUC"], "valid_metric": "GAUC"},
        {"metrics": ["AUC"], "valid_metric": "AUC", "eval_args": {"mode": "labeled"}},
    ],
)
def test_right_settings_are_taken(settings, quick):
    LiteConfig("SASRec", "tiny", config_dict=quick(**settings))


@pytest.mark.parametrize(
    "model, key, settings",
    [
        ("BPR", "topk", {"topk": [5, 25]}),
        ("SASRec", "topk", {"topk": [5, 25]}),
        ("RaCT", "metrics_k", {}),
        ("GRU4RecCPR", "reranker_CAN_NUM", {}),
    ],
)
def test_lists_longer_than_the_catalogue_are_refused(model, key, settings, quick):
    with pytest.raises(ConfigError, match=f"{key}: .* is more than the 24 items of tiny"):
        run(model, "tiny", config_dict=quick(**settings))


def test_the_whole_catalogue_can_be_a_list(quick):
    result = run("Pop", "tiny", config_dict=quick(topk=[5, 24], eval_exclude_history=False))
    assert result["test_result"]["recall@24"] == 1


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"learner": "foo"}, "learner must be one of adam, adamw"),
        ({"learner": None}, "learner must be one of"),
        ({"state": 5}, "state must be one of DEBUG"),
        ({"rm_dup_inter": True}, "rm_dup_inter must be one of first, last"),
        ({"user_inter_num_interval": 5}, r'must be an interval such as "\[5,inf\)", found 5'),
        ({"item_inter_num_interval": "(5"}, "must be an interval"),
        ({"seed": 2**40}, r"seed must be below 2\*\*32"),
        ({"checkpoint_dir": ""}, "checkpoint_dir must be a text"),
        ({"data_path": 5}, "data_path must be a text"),
        ({"baselines": 5}, "baselines must be a list of models, found 5"),
        ({"loss_type": "XE"}, "loss_type must be CE or BPR, found 'XE'"),
        ({"train_neg_sample_args": {"sample": 1}}, "unknown key 'sample'; did you mean sample_num"),
        ({"train_neg_sample_args": {"sample_num": 0}}, "sample_num must be a whole number of at"),
    ],
)
def test_values_that_nobody_checked(settings, message, quick):
    with pytest.raises(ConfigError, match=message):
        LiteConfig("SASRec", "tiny", config_dict=quick(**settings))


def test_a_checkpoint_dir_that_is_a_file(quick, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="file is a file; name a folder"):
        LiteConfig("SASRec", "tiny", config_dict=quick(checkpoint_dir=str(tmp_path / "file")))


def test_one_configuration_file_is_not_the_list_of_its_letters(quick, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("seed: 7\n")
    for given in (str(path), path, [path]):
        config = LiteConfig("SASRec", "tiny", config_file_list=given, config_dict=quick())
        assert config["seed"] == 7
    assert run("Pop", "tiny", config_file_list=str(path), config_dict=quick())["epochs"] == 1
