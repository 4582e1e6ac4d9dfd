"""Trainings and evaluations on the pretend device give what they give on the CPU."""

import contextlib
import shutil

import pytest
import torch
from device_cases import EXCLUDE, LOSSES, METRICS, PREFIX, REAL, RUNS, STAGES, STILL

from recbole_lite import (
    LiteConfig,
    create_dataset,
    data_preparation,
    get_trainer,
    load_data_and_model,
    run,
)
from recbole_lite.trainer.trainer import LiteMixin
from recbole_lite.utils.errors import TrainingError

pytestmark = pytest.mark.device

# In RecBole's own code; everything else waits for nothing.
WAITS = {"FDSA": {"blocking copy from the CPU at model/layers.py": 1}}


@pytest.fixture
def settings_of(quick, llm_folders, trained):
    def make(name, **more):
        model, changes = RUNS[name]
        own = {"llm": str(llm_folders["writer"])} if model in ("P5", "POD") else {}
        if "distill_loss" in changes:
            own["distill_from"] = str(trained("ItemLM", n_heads=2, n_layers=2, train_batch_size=24))
        return model, quick(**{**STILL, **own, **changes, **more})

    return make


def losses(result):
    return [epoch["train_loss"] for epoch in result["history"]]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_equals_the_cpus_and_its_steps_do_not_wait(name, settings_of, on_device, waits):
    model, settings = settings_of(name)
    with on_device():
        there = run(model, "tiny", config_dict=settings, saved=False)
    if model != "Pop" and not (REAL and name in WAITS):  # Pop has no steps worth counting
        assert waits == WAITS.get(name, {})
    here = run(model, "tiny", config_dict=settings, saved=False)
    if REAL and "SCE" in name:  # which draws its negatives on the device
        return
    assert losses(there) == pytest.approx(losses(here), rel=LOSSES)
    for one, other in zip(there["history"], here["history"], strict=True):
        assert one["valid_result"] == pytest.approx(other["valid_result"], abs=METRICS)
    assert there["test_result"] == pytest.approx(here["test_result"], abs=METRICS)


MIXED = ["T5", "GPT-2", "prefix, embeddings, without history", "full", "topn, history", "ItemLM",
    "P5", "POD", "LightLM", "SASRec", "BERT4Rec", "GRU4Rec", "FDSA"]  # fmt: skip


@pytest.mark.parametrize("name", MIXED)
def test_mixed_precision_gives_nearly_the_same(name, settings_of, on_device):
    """Half precision as on CUDA: another loss than in full, and not far from it."""
    model, settings = settings_of(name, epochs=1)
    here = run(model, "tiny", config_dict=settings, saved=False)
    with on_device():
        amp = {**settings, "enable_amp": True}
        there = run(model, "tiny", config_dict=amp, saved=False)
    assert losses(there) == pytest.approx(losses(here), rel=5e-3)
    assert losses(there) != losses(here)


@pytest.mark.parametrize("name", ["T5", "full", "ItemLM", "P5", "SASRec", "GRU4Rec"])
def test_dropout_works_on_the_device(name, quick, llm_folders, on_device):
    model, changes = RUNS[name]
    own = {"llm": str(llm_folders["writer"])} if model == "P5" else {}
    settings = quick(**{**own, **changes, "epochs": 1, "user_dropout": 0.5, "item_dropout": 0.1})
    with on_device():
        result = run(model, "tiny", config_dict=settings, saved=False)
    assert result["test_result"]


def trainer_of(config):
    loaders = data_preparation(config, create_dataset(config))
    torch.manual_seed(0)
    model = config.model_class(config, loaders[0]._dataset).to(config["device"])
    return get_trainer(config["MODEL_TYPE"], config["model"])(config, model), loaders


@pytest.mark.parametrize("clip", [None, {"max_norm": 0.1}], ids=["free", "clipped"])
def test_scaled_losses_train_alike(clip, settings_of, on_device):
    """RecBole clips scaled gradients: with a scale of 65536 next to nothing was left of them."""
    model, settings = settings_of("SASRec", learner="sgd", learning_rate=0.1, clip_grad_norm=clip)
    found = []
    for scales in (False, True):
        with on_device():
            trainer, loaders = trainer_of(LiteConfig(model, "tiny", config_dict=settings))
        trainer.enable_scaler = scales  # RecBole wants CUDA for it
        trainer.fit(loaders[0], None, saved=False)
        found.append(list(trainer.train_losses.values()))
    assert found[0] == pytest.approx(found[1], rel=LOSSES)
    assert found[0][1] < found[0][0]


def test_a_loss_that_is_not_finite_is_named_by_its_batch(settings_of, on_device):
    """It is looked at some steps later on the device; the message is the CPU's."""
    model, settings = settings_of("SASRec")
    messages = []
    for place in (contextlib.nullcontext, on_device):
        with place():
            trainer, loaders = trainer_of(LiteConfig(model, "tiny", config_dict=settings))
        loss_of, calls = trainer.model.calculate_loss, []

        def spoilt(batch, loss_of=loss_of, calls=calls):
            calls.append(len(calls))
            return loss_of(batch) * (float("nan") if len(calls) == 4 else 1.0)

        trainer.model.calculate_loss = spoilt
        with pytest.raises(TrainingError, match="loss is nan in epoch 0, batch 3 ") as error:
            trainer.fit(loaders[0], None, saved=False)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


# -- checkpoints ------------------------------------------------------------------------------

RESUMED = {
    "prefix": {**PREFIX, **EXCLUDE, "item_llm_training": "embeddings", "lr_scheduler": "cosine"},
    "stages": {
        "stages": [STAGES[0], {**STAGES[1], "epochs": 2}],
        "user_dropout": 0.3,
        "train_batch_size": 64,
    },
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_run_is_resumed_there_and_on_the_cpu(name, quick, on_device, workdir):
    changes = {**STILL, "epochs": 3, **RESUMED[name], "sample_users": 2, "baselines": ["Pop"]}
    settings = quick(**changes)
    save = LiteMixin._save_last

    def save_and_die(self, epoch):
        save(self, epoch)
        if epoch == 1:  # of 3
            raise KeyboardInterrupt

    with on_device():
        whole = run("LiteLLM4Rec", "tiny", config_dict=settings)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LiteMixin, "_save_last", save_and_die)
            with pytest.raises(KeyboardInterrupt):
                run("LiteLLM4Rec", "tiny", config_dict={**settings, "checkpoint_dir": "cut"})
    (folder,) = (workdir / "cut").iterdir()
    copy = shutil.copytree(folder, workdir / "copy")
    with on_device() as device:
        again = run("LiteLLM4Rec", "tiny", config_dict={**settings, "resume": str(folder)})
        _, model, *_ = load_data_and_model(whole["run_dir"])
        assert {p.device.type for p in model.parameters()} == {device.type}
        if name == "prefix":
            begun = {**settings, "epochs": 1, "init_from": whole["run_dir"]}
            run("LiteLLM4Rec", "tiny", config_dict=begun, saved=False)
    if not REAL:  # a GPU adds up gradients of embeddings in any order
        assert losses(again) == losses(whole)
        assert again["test_result"] == whole["test_result"]
    here = run("LiteLLM4Rec", "tiny", config_dict={**settings, "resume": str(copy)})
    if not settings["user_dropout"]:
        assert losses(here) == pytest.approx(losses(whole), rel=LOSSES)


def test_s3rec_in_its_two_phases(quick, on_device):
    found = []
    for place in (contextlib.nullcontext, on_device):
        with place():
            pretrained = run("S3Rec", "tiny", config_dict=quick(**STILL, pretrain_epochs=1))
            more = {"train_stage": "finetune", "pre_model_path": pretrained["run_dir"]}
            settings = quick(**STILL, **more)
            found.append(losses(run("S3Rec", "tiny", config_dict=settings, saved=False)))
    assert found[0] == pytest.approx(found[1], rel=LOSSES)
