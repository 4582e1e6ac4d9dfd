"""What a pass teaches does not depend on how its rows are divided into batches."""

import json
from pathlib import Path

import pytest
import torch

from recbole_lite import LiteConfig, create_dataset, data_preparation, get_trainer, run
from recbole_lite.utils.errors import CheckpointError, ConfigError

PLAIN = {"n_heads": 2, "lm_dropout": 0.0, "user_dropout": 0.0}
PLAIN |= {"lr_scheduler": "constant", "warmup_ratio": 0.0}
STRATEGIES = ["all", "prefix"]


def epoch(config_for, **changes):
    """Change of ItemLM's weights by a pass of plain gradient descent, its loss and batches."""
    config = config_for("ItemLM", **{**PLAIN, "learner": "sgd", "learning_rate": 1e-5, **changes})
    train, *_ = data_preparation(config, create_dataset(config))
    torch.manual_seed(1)
    model = config.model_class(config, train._dataset).double()
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    trainer = get_trainer(config["MODEL_TYPE"], "ItemLM")(config, model)
    train.generator.manual_seed(3)  # samples the same windows
    loss = trainer._train_epoch(train, 0)
    change = torch.nn.utils.parameters_to_vector(model.parameters()) - before
    return change.detach(), loss, len(train)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_target_has_the_same_weight(strategy, config_for):
    whole, loss, _ = epoch(config_for, train_strategy=strategy, train_batch_size=10_000)
    change, losses, n = epoch(config_for, train_strategy=strategy, max_tokens_per_batch=40)
    assert n > 3
    assert (change / n - whole).norm() < 0.02 * whole.norm()
    assert losses / n == pytest.approx(loss, rel=0.005)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("clip", [None, {"max_norm": 0.01}])
def test_accumulated_batches_are_one(strategy, clip, config_for):
    settings = {"train_strategy": strategy, "shuffle": False, "clip_grad_norm": clip}
    whole = epoch(config_for, **settings, train_batch_size=12)
    parts = epoch(config_for, **settings, train_batch_size=4, accumulate_steps=3)
    torch.testing.assert_close(parts[0], whole[0], rtol=1e-3, atol=1e-8)
    assert parts[1] == pytest.approx(whole[1], rel=1e-5)
    assert parts[2] > 2 * whole[2]


def test_steps_are_those_of_the_optimiser(quick):
    """Also where a schedule and max_steps count them, and the last step has fewer batches."""
    settings = {**PLAIN, "lr_scheduler": "linear", "shuffle": False, "train_strategy": "all"}
    settings |= {"max_steps": 7, "epochs": 5}
    found = [
        run("ItemLM", "tiny", config_dict=quick(**settings, **own))["history"]
        for own in ({"train_batch_size": 60}, {"train_batch_size": 20, "accumulate_steps": 3})
    ]
    losses = [[one["train_loss"] for one in history] for history in found]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_a_resumed_run_has_the_batches_of_one_that_went_on(quick):
    settings = quick(**PLAIN, train_strategy="prefix", train_batch_size=4, epochs=3)
    whole = run("ItemLM", "tiny", config_dict=settings)
    first = run("ItemLM", "tiny", config_dict={**settings, "epochs": 1})
    rest = run("ItemLM", "tiny", config_dict={**settings, "resume": first["run_dir"]})
    losses = [[one["train_loss"] for one in r["history"]] for r in (rest, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_run_from_before_the_setting_resumes_as_it_was_trained(quick):
    settings = quick(epochs=1, cut_padding=False)
    done = run("SASRec", "tiny", config_dict=settings)
    path = Path(done["run_dir"], "config.json")
    content = json.loads(path.read_text())
    for key in ("cut_padding", "accumulate_steps", "max_tokens_per_batch"):
        content["settings"].pop(key)
    path.write_text(json.dumps(content))
    del settings["cut_padding"]
    settings |= {"resume": done["run_dir"], "epochs": 2}
    assert LiteConfig("SASRec", "tiny", config_dict=settings)["cut_padding"] is False
    assert len(run("SASRec", "tiny", config_dict=settings)["history"]) == 2
    with pytest.raises(CheckpointError, match="accumulate_steps was 1, is 2"):
        run("SASRec", "tiny", config_dict={**settings, "accumulate_steps": 2})


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ("Caser", {"max_tokens_per_batch": 100}, "Caser is not: set train_batch_size"),
        ("BERT4Rec", {"max_tokens_per_batch": 100}, "BERT4Rec is not: set train_batch_size"),
        ("SASRec", {"max_tokens_per_batch": 100, "cut_padding": False}, "SASRec is$"),
        ("BERT4Rec", {"bucket_by_length": True}, "bucket_by_length needs .* BERT4Rec is not: set"),
        ("SASRec", {"max_tokens_per_batch": 5}, "5 is less than one history of MAX.*: 6"),
        ("SASRec", {"accumulate_steps": 0}, "accumulate_steps must be a whole number of at least"),
        ("NCL", {"accumulate_steps": 2}, "NCL takes a step per batch"),
    ],
)
def test_wrong_settings(model, changes, message, config_for):
    with pytest.raises(ConfigError, match=message):
        config_for(model, **changes)
