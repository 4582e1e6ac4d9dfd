"""Optimiser and schedule, seen from the numbers that they give."""

import pytest
import torch

from recbole_lite import (
    create_dataset,
    data_preparation,
    get_trainer,
    load_data_and_model,
    run,
)
from recbole_lite.trainer.trainer import LiteMixin
from recbole_lite.utils.errors import ConfigError


def trainer_of(config):
    loaders = data_preparation(config, create_dataset(config))
    torch.manual_seed(0)
    model = config.model_class(config, loaders[0]._dataset)
    return get_trainer(config["MODEL_TYPE"], config["model"])(config, model), loaders


def test_the_import_path_of_version_0_1(config_for):
    from recbole_lite.trainer import LiteTrainer

    assert type(trainer_of(config_for("BPR"))[0]) is LiteTrainer
    with pytest.raises(ImportError, match="Absent"):
        from recbole_lite.trainer import Absent  # noqa: F401


def test_weight_decay_spares_norms_and_biases(config_for):
    trainer, _ = trainer_of(config_for("SASRec", learner="adamw", weight_decay=0.3))
    decayed, spared = trainer.optimizer.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.3, 0.0)
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    spared_names = {names[id(p)] for p in spared["params"]}
    assert {n for n in spared_names if not n.endswith("bias")} == {
        n for n in names.values() if "LayerNorm.weight" in n
    }
    assert len(decayed["params"]) + len(spared["params"]) == len(names)


def test_adam_eps(config_for):
    trainer, _ = trainer_of(config_for("SASRec", adam_eps=1e-6))
    assert {group["eps"] for group in trainer.optimizer.param_groups} == {1e-6}
    trainer, _ = trainer_of(config_for("SASRec"))
    assert {group["eps"] for group in trainer.optimizer.param_groups} == {1e-8}


def rates_of(config):
    """Learning rate at every step of a training."""
    trainer, (train_data, valid_data, _) = trainer_of(config)
    rates = []
    trainer.optimizer.register_step_pre_hook(
        lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"])
    )
    trainer.fit(train_data, valid_data, saved=False)
    assert len(rates) == config["epochs"] * len(train_data)
    return rates


def test_linear_schedule_with_warm_up(config_for):
    """Up from 0 over the first quarter of the steps, then down to 0."""
    changes = {"lr_scheduler": "linear", "warmup_ratio": 0.25, "epochs": 4, "learning_rate": 0.8}
    rates = rates_of(config_for("SASRec", **changes))
    total, warm = len(rates), round(len(rates) * 0.25)
    expected = [
        0.8 * (step / warm if step < warm else (total - step) / (total - warm))
        for step in range(total)
    ]
    assert rates == pytest.approx(expected)


def test_warm_up_alone_then_constant(config_for):
    rates = rates_of(config_for("SASRec", warmup_ratio=0.5, learning_rate=0.1))
    warm = round(len(rates) / 2)
    assert rates == pytest.approx([0.1 * min(1, step / warm) for step in range(len(rates))])


def test_without_schedule_the_rate_is_constant(config_for):
    assert set(rates_of(config_for("SASRec"))) == {0.01}


@pytest.mark.parametrize("strategy", ["all", "prefix"])
def test_training_ends_after_max_steps_and_the_schedule_with_it(strategy, config_for):
    changes = {"train_strategy": strategy, "rec_llm_causal": True, "user_pooling": "last"}
    changes.update(max_steps=5, lr_scheduler="linear", learning_rate=0.5, train_batch_size=16)
    config = config_for("LiteLLM4Rec", epochs=50, **changes)
    trainer, (train_data, valid_data, _) = trainer_of(config)
    rates = []
    trainer.optimizer.register_step_pre_hook(
        lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"])
    )
    trainer.fit(train_data, valid_data, saved=False)
    assert rates == pytest.approx([0.5, 0.4, 0.3, 0.2, 0.1])
    per_epoch = len(train_data)
    assert (per_epoch < 5) is (strategy == "prefix")
    assert len(trainer.history) == -(-5 // per_epoch)  # the last, partial epoch is validated


def test_each_stage_counts_its_own_steps(config_for):
    stages = [{"epochs": 9, "max_steps": 2}, {"epochs": 9, "max_steps": 1}, {"epochs": 1}]
    config = config_for("LiteLLM4Rec", stages=stages, train_batch_size=16)
    trainer, (train_data, valid_data, _) = trainer_of(config)
    loss_of, epochs = trainer.model.calculate_loss, []

    def counted(batch):
        epochs.append(trainer._guard.epoch)
        return loss_of(batch)

    trainer.model.calculate_loss = counted
    trainer.fit(train_data, valid_data, saved=False)
    assert [entry["epoch"] for entry in trainer.history] == [0, 1, 2]
    assert [epochs.count(epoch) for epoch in range(3)] == [2, 1, len(train_data)]


def test_pop_which_has_one_epoch_is_saved_though_eval_step_is_larger(quick):
    result = run("Pop", "tiny", config_dict=quick(epochs=9, eval_step=3))
    assert (result["epochs"], result["best_valid_result"]) == (1, None)
    assert result["test_result"]["recall@5"] > 0
    assert load_data_and_model(result["run_dir"])[1].item_cnt.sum() > 0


def test_an_unknown_schedule_is_refused(quick):
    with pytest.raises(ConfigError, match="lr_scheduler: liner is not a valid"):
        run("SASRec", "tiny", config_dict=quick(lr_scheduler="liner"))


SCHEDULE = {"epochs": 4, "lr_scheduler": "cosine", "warmup_ratio": 0.1, "learner": "adamw"}
PREFIX = {"train_strategy": "prefix", "rec_llm_causal": True, "user_pooling": "recency"}
TWO_STAGES = [
    {"epochs": 1, "learning_rate": 0.02},
    {"epochs": 3, "learning_rate": 0.005, "item_llm_training": "embeddings"},
]


@pytest.mark.parametrize(
    "changes",
    [
        {"train_strategy": "all"},
        {"train_strategy": "sampling"},
        {**PREFIX, "loss_exclude_history": True},
        {**PREFIX, "stages": TWO_STAGES},
        {"stages": [{"epochs": 2}, {"epochs": 2, "item_llm_training": "full"}]},
        {"max_steps": 11},  # of 4 epochs of 3
        {**PREFIX, "ema_decay": 0.9, "history_drop_ratio": 0.3, "item_mask_ratio": 0.2},
    ],
    ids=["all", "sampling", "prefix", "two stages", "two stages, full", "max_steps", "average"],
)
def test_a_resumed_run_goes_on_as_if_nothing_had_been(changes, quick, workdir):
    """The first run is cut after two of four epochs, as by a kill."""
    settings = quick(**SCHEDULE, **changes)
    whole = run("LiteLLM4Rec", "tiny", config_dict=settings)
    assert len(whole["history"]) == 4

    save = LiteMixin._save_last

    def save_and_die(self, epoch):
        save(self, epoch)
        if epoch == 1:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LiteMixin, "_save_last", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            run("LiteLLM4Rec", "tiny", config_dict={**settings, "checkpoint_dir": "cut"})
    (folder,) = (workdir / "cut").iterdir()
    cut = {**settings, "checkpoint_dir": "cut", "resume": str(folder)}
    resumed = run("LiteLLM4Rec", "tiny", config_dict=cut)
    losses = [[epoch["train_loss"] for epoch in r["history"]] for r in (resumed, whole)]
    assert losses[0] == losses[1]
    assert resumed["test_result"] == whole["test_result"]


# -- stages -----------------------------------------------------------------------------------


def test_each_stage_trains_its_own_parts_at_its_own_rate(config_for):
    stages = [
        {"epochs": 1, "learning_rate": 0.02, "frozen_parts": ["head"], "weight_decay": 0.1},
        {"epochs": 2, "learning_rate": 0.5, "item_llm_training": "embeddings"},
    ]
    trainer, (train_data, valid_data, _) = trainer_of(config_for("LiteLLM4Rec", stages=stages))
    model, seen = trainer.model, []

    def after_epoch(epoch, _):
        (group, _) = trainer.optimizer.param_groups
        tensors = [t.detach().clone() for t in (model.item_tower.vectors, model.head.weight)]
        seen.append((epoch, group["lr"], group["weight_decay"], *tensors))

    first = [t.detach().clone() for t in (model.item_tower.vectors, model.head.weight)]
    trainer.fit(train_data, valid_data, saved=False, callback_fn=after_epoch)
    assert [entry[:3] for entry in seen] == [(0, 0.02, 0.1), (1, 0.5, 0.0), (2, 0.5, 0.0)]
    assert torch.equal(seen[0][3], first[0])
    assert torch.equal(seen[0][4], first[1])
    assert not torch.equal(seen[1][3], first[0])
    assert not torch.equal(seen[1][4], first[1])
    assert not seen[2][3][0].any()  # the padding's vector stays zero


def test_a_stage_starts_with_the_best_of_the_one_before(config_for):
    """Validation figures are made up: the first epoch of three is the best."""
    stages = [{"epochs": 3}, {"epochs": 1}]
    trainer, (train_data, valid_data, _) = trainer_of(config_for("LiteLLM4Rec", stages=stages))
    scores, weights, starts = iter([0.9, 0.5, 0.4, 0.3]), [], []

    def made_up(*_, **__):
        weights.append(trainer.model.head.weight.detach().clone())
        trainer._last_valid_result = {}
        return next(scores), {}

    train_epoch = trainer._train_epoch

    def watched(*arguments, **others):
        starts.append(trainer.model.head.weight.detach().clone())
        return train_epoch(*arguments, **others)

    trainer._valid_epoch, trainer._train_epoch = made_up, watched
    score, _ = trainer.fit(train_data, valid_data)
    assert score == 0.9
    assert torch.equal(starts[1], weights[0])
    assert torch.equal(starts[2], weights[1])
    assert torch.equal(starts[3], weights[0])  # the second stage: back to the best
    trainer.evaluate(valid_data)
    assert torch.equal(trainer.model.head.weight, weights[0])


def test_patience_counts_within_a_stage(config_for):
    stages = [{"epochs": 9, "stopping_step": 1}, {"epochs": 9, "stopping_step": 2}]
    trainer, (train_data, valid_data, _) = trainer_of(config_for("LiteLLM4Rec", stages=stages))
    scores = iter([0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])

    def made_up(*_, **__):
        trainer._last_valid_result = {}
        return next(scores), {}

    trainer._valid_epoch = made_up
    trainer.fit(train_data, valid_data)
    # Stage 1: the best, then two without improvement; stage 2: three without.
    assert [entry["epoch"] for entry in trainer.history] == [0, 1, 2, 3, 4, 5]


def test_sampling_trains_on_one_segment_per_user(config_for):
    _, (train_data, *_) = trainer_of(config_for("SASRec", train_strategy="sampling"))
    sizes = [len(list(train_data)) for _ in range(2)]
    assert sizes == [len(train_data)] * 2
    users = torch.cat([batch["user_id"] for batch in train_data]).tolist()
    assert sorted(users) == list(range(1, 31))
