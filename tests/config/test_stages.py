"""The key ``stages``: what a stage takes from the plain keys, and what is refused."""

import pytest

from recbole_lite.config.stages import Stage, read_stages
from recbole_lite.utils.errors import ConfigError

PLAIN = {
    "epochs": 7,
    "learning_rate": 0.01,
    "weight_decay": 0.1,
    "stopping_step": 3,
    "lr_scheduler": "linear",
    "warmup_ratio": 0.2,
    "item_llm_training": "frozen",
    "frozen_parts": ["head"],
    "max_steps": None,
    "stages": None,
}
ONE = Stage(7, 0.01, 0.1, 3, "linear", 0.2, "frozen", ["head"])


def read(stages=None, **changes):
    return read_stages({**PLAIN, "stages": stages, **changes})


@pytest.mark.parametrize("stages", [None, []])
def test_without_stages_there_is_one_of_the_plain_keys(stages):
    assert read(stages) == [ONE]


def test_a_stage_takes_from_the_plain_keys_what_it_leaves_out():
    own = {
        "epochs": 1,
        "learning_rate": 1,
        "weight_decay": 0.0,
        "stopping_step": 0,
        "lr_scheduler": "cosine",
        "warmup_ratio": 1.0,
        "item_llm_training": "embeddings",
        "frozen_parts": ["rec_llm", "adapter"],
        "max_steps": 5,
    }
    first, second, third = read([{}, own, {"frozen_parts": []}])
    assert first == ONE
    assert second == Stage(**own)
    assert third == Stage(7, 0.01, 0.1, 3, "linear", 0.2, "frozen", [])


def test_models_without_an_item_llm(config_for):
    """RecBole's configuration answers None for a key that no file sets."""
    (stage,) = read(item_llm_training=None, frozen_parts=None)
    assert stage == Stage(7, 0.01, 0.1, 3, "linear", 0.2, None, [])
    (stage,) = read_stages(config_for("SASRec"))
    assert stage == Stage(2, 0.01, 0.0, 20, "constant", 0.0, None, [])


@pytest.mark.parametrize("how", ["frozen", "embeddings", "full"])
def test_ways_of_training_may_change_from_frozen(how):
    stages = read([{}, {"item_llm_training": how}, {"item_llm_training": "frozen"}])
    assert [stage.item_llm_training for stage in stages] == ["frozen", how, "frozen"]


STAGE_KEYS = (
    "epochs, learning_rate, weight_decay, stopping_step, lr_scheduler, warmup_ratio, "
    "item_llm_training, frozen_parts, max_steps"
)
MIXTURE = (
    "stages: item_llm_training is embeddings in one stage and full in another; vectors that were "
    "trained apart from the Item LLM cannot go back into it"
)


@pytest.mark.parametrize(
    "stages, message",
    [
        ({"epochs": 1}, "stages must be a list of mappings, found {'epochs': 1}"),
        ("two", "stages must be a list of mappings, found 'two'"),
        ([{}, "epochs: 1"], "stages, stage 2: expected `key: value`, found 'epochs: 1'"),
        ([None], "stages, stage 1: expected `key: value`, found None"),
        (
            [{}, {"epoch": 1}],
            "stages, stage 2: unknown key 'epoch'; did you mean epochs?; a stage can set "
            + STAGE_KEYS,
        ),
        (
            [{"train_batch_size": 8}],
            "stages, stage 1: unknown key 'train_batch_size'; a stage can set " + STAGE_KEYS,
        ),
        # YAML takes an unquoted `on:` for True.
        ([{True: 1}], "stages, stage 1: unknown key True; a stage can set " + STAGE_KEYS),
        ([{1: 2}], "stages, stage 1: unknown key 1; a stage can set " + STAGE_KEYS),
        (
            [{}, {"epochs": -1}],
            "stages, stage 2: epochs must be a whole number of at least 0, found -1",
        ),
        (
            [{"epochs": None}],
            "stages, stage 1: epochs must be a whole number of at least 0, found None",
        ),
        (
            [{"stopping_step": 1.5}],
            "stages, stage 1: stopping_step must be a whole number of at least 0, found 1.5",
        ),
        (
            [{"learning_rate": 0}],
            "stages, stage 1: learning_rate must be a positive number, found 0",
        ),
        (
            [{"learning_rate": "1e-3"}],
            "stages, stage 1: learning_rate must be a positive number, found '1e-3'",
        ),
        (
            [{"weight_decay": "none"}],
            "stages, stage 1: weight_decay must be a number of at least 0, found 'none'",
        ),
        (
            [{"warmup_ratio": 2}],
            "stages, stage 1: warmup_ratio must be a share in [0, 1], found 2",
        ),
        (
            [{}, {}, {"item_llm_training": "some"}],
            "stages, stage 3: item_llm_training must be one of frozen, embeddings, full, "
            "found 'some'",
        ),
        (
            [{"frozen_parts": ["head", "rec_lm"]}],
            "stages, stage 1: frozen_parts must be a list of rec_llm, adapter, head, "
            "found ['head', 'rec_lm']",
        ),
        (
            [{"frozen_parts": "head"}],
            "stages, stage 1: frozen_parts must be a list of rec_llm, adapter, head, found 'head'",
        ),
        (
            [{"frozen_parts": [["head"]]}],
            "stages, stage 1: frozen_parts must be a list of rec_llm, adapter, head, "
            "found [['head']]",
        ),
        ([{"item_llm_training": "embeddings"}, {"item_llm_training": "full"}], MIXTURE),
        ([{"item_llm_training": "full"}, {}, {"item_llm_training": "embeddings"}], MIXTURE),
    ],
)
def test_what_is_refused(stages, message):
    with pytest.raises(ConfigError) as error:
        read(stages)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"item_llm_training": "yes"},
            "configuration: item_llm_training must be one of frozen, embeddings, full, found 'yes'",
        ),
        (
            {"frozen_parts": "rec_llm"},
            "configuration: frozen_parts must be a list of rec_llm, adapter, head, found 'rec_llm'",
        ),
    ],
)
def test_plain_keys_that_are_refused(changes, message):
    with pytest.raises(ConfigError) as error:
        read(**changes)
    assert str(error.value) == message


def test_the_configuration_refuses_them_before_anything_is_read(config_for):
    with pytest.raises(ConfigError, match="stages, stage 1: unknown key 'epoch'"):
        config_for("LiteLLM4Rec", stages=[{"epoch": 1}], data_path="nowhere")
