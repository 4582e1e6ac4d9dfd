"""Two processes with gloo train what one process trains with the joint batch."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from recbole.model.general_recommender import BPR

from recbole_lite import (
    LiteConfig,
    create_dataset,
    data_preparation,
    get_trainer,
    load_data_and_model,
    run,
)
from recbole_lite.cli.main import run_main
from recbole_lite.model.generative import semantic_ids
from recbole_lite.trainer import data_parallel
from recbole_lite.trainer.launch import launch, needs_launch
from recbole_lite.utils import process_group
from recbole_lite.utils.errors import ConfigError, TrainingError

# No dropout: its draws are each process's own.
PLAIN = {
    "GRU4Rec": {"dropout_prob": 0.0, "loss_type": "CE", "train_batch_size": 37},
    "LiteLLM4Rec": {
        "train_strategy": "prefix",
        "rec_llm_causal": True,
        "loss_exclude_history": True,
        "user_pooling": "recency",
        "user_dropout": 0.0,
        "rec_llm_dropout": 0.0,
        "train_batch_size": 19,
        "lr_scheduler": "linear",
        "label_smoothing": 0.1,
        "ema_decay": 0.5,
        "history_drop_ratio": 0.2,
        "stages": [{"epochs": 2}, {"epochs": 2, "item_llm_training": "embeddings"}],
    },
}


class CountingBPR(BPR):
    """Counts the users and the steps that it is trained on."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.register_buffer("user_count", torch.zeros(self.n_users))
        self.steps = 0

    def calculate_loss(self, interaction):
        self.user_count.index_add_(0, interaction[self.USER_ID], torch.ones(len(interaction)))
        self.steps += 1
        return super().calculate_loss(interaction)


def several(config_dict, runs):
    """Several runs in the same processes; starting those is what takes the time.

    The last one goes on with the first. CountingBPR is told by what becomes of it. The second
    process, were it asked, would give items other semantic ids.
    """
    if dist.is_initialized() and dist.get_rank():
        make = semantic_ids.make_codes
        semantic_ids.make_codes = lambda *given: 3 - make(*given)
    try:
        counted = run(CountingBPR, "tiny", config_dict={**config_dict, "epochs": 1})["epochs"]
    except ConfigError as error:
        counted = str(error)
    results = [
        run(model, "tiny", config_dict={**config_dict, **own}, per_user=True)
        for model, own in runs.items()
    ]
    longer = {**config_dict, **runs["GRU4Rec"], "epochs": 5, "resume": results[0]["run_dir"]}
    return [*results, run("GRU4Rec", "tiny", config_dict=longer, per_user=True)], counted


def figures(result):
    return [entry["train_loss"] for entry in result["history"]]


def test_two_processes_are_one_with_the_joint_batch(quick, workdir, llm_folders, trained):
    torch.set_num_threads(1)
    writes = {"llm_dropout": 0.0, "num_beams": 6, "eval_step": 1, "train_batch_size": 7}
    writer = {  # its loss is a mean over tokens, of which items have more or fewer
        **writes,
        "llm": str(llm_folders["writer"]),
        "prompt_templates": ["after {user} what {items} next"],
    }
    codes = {**writes, "codebook_size": 4, "rqvae_epochs": 2, "item_embedding_cache_dir": None}
    codes["llm_config"] = dict.fromkeys(("d_model", "d_kv", "d_ff"), 16)
    codes["llm_config"] |= dict.fromkeys(("num_layers", "num_decoder_layers"), 1)
    # 29 of 30 users: the second process has none of the last batch.
    runs = {**PLAIN, "P5": writer, "GRU4Rec": {**PLAIN["GRU4Rec"], "eval_batch_size": 29}}
    runs["TIGER"] = codes
    runs["Pop"] = {"train_batch_size": 50}
    runs["ItemLM"] = {"n_heads": 2, "hidden_size": 8, "lm_dropout": 0.0, "user_dropout": 0.0}
    runs["ItemLM"]["distill_from"] = str(trained("ItemLM", n_heads=2))
    values = quick(epochs=3, metrics=["Recall", "NDCG", "ItemCoverage"])
    alone, counted = several(values, runs)
    assert counted == 1
    config = LiteConfig("GRU4Rec", "tiny", config_dict=values, overrides=["--nproc=2"])
    boards = set(Path("log_tensorboard").iterdir())
    together, counted = launch(several, config, {"config_dict": values, "runs": runs})
    assert counted == (
        "nproc: CountingBPR changes user_count in its loss without a gradient, from the rows of "
        "one process alone; train it by one process"
    )
    records = set(Path("log_tensorboard").iterdir()) - boards
    assert len(records) == len(together) + 1  # the first process's
    for one, two in zip(alone, together, strict=True):
        assert figures(two) == pytest.approx(figures(one), rel=2e-5)
        assert two["best_valid_result"] == pytest.approx(one["best_valid_result"], abs=1e-3)
        assert two["test_result"] == pytest.approx(one["test_result"], abs=1e-3)
        assert (two["epochs"], two["beams"]) == (one["epochs"], one["beams"])
        assert two["per_user"]["users"] == one["per_user"]["users"]
        assert np.array_equal(two["per_user"]["ranks"], one["per_user"]["ranks"])
        # One folder for both processes; it reloads in one process, to the same weights.
        assert len(list((workdir / "saved").iterdir())) == 2 * len(alone)
        settings = json.loads((workdir / two["run_dir"] / "config.json").read_text())["settings"]
        assert "local_rank" not in settings
        weights = [load_data_and_model(result["run_dir"])[1].state_dict() for result in (one, two)]
        for name, tensor in weights[0].items():
            # By norms: Adam makes steps out of the rounding of gradients that are nearly 0.
            error = torch.linalg.vector_norm(weights[1][name].double() - tensor.double())
            assert error <= 1e-3 * torch.linalg.vector_norm(tensor.double()) + 1e-6, name


def test_an_error_in_the_processes_is_one_line(quick, capsys):
    """``--nproc=2`` as the user gives it."""
    values = quick(item_llm="./nowhere")
    flags = [f"--{key}={values[key]}" for key in ("data_path", "item_llm", "rec_llm_init")]
    assert run_main(["--model=LiteLLM4Rec", "--dataset=tiny", "--nproc=2", *flags]) == 2
    error = capsys.readouterr().err
    (line,) = (line for line in error.splitlines() if line.startswith("error: "))
    assert "nowhere" in line
    assert "Traceback" not in error


def test_one_process_is_no_group(config_for):
    assert not needs_launch(config_for("GRU4Rec"))
    assert not needs_launch(config_for("GRU4Rec", nproc=1, world_size=-1, ip="localhost"))
    assert needs_launch(config_for("GRU4Rec", nproc=2, world_size=2))
    assert needs_launch(config_for("GRU4Rec", num_workers=1))
    with pytest.raises(ConfigError, match="nproc must be a whole number, found 'two'"):
        needs_launch(config_for("GRU4Rec", nproc="two"))


def test_more_processes_than_gpus(config_for, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    config = config_for("GRU4Rec", use_gpu=False, nproc=2)
    config["use_gpu"] = True
    with pytest.raises(ConfigError, match="nproc: 2 processes need 2 GPUs, visible: 1"):
        launch(None, config, {})


def die(config_dict):
    raise SystemExit(3)


def test_a_process_that_dies_ends_the_run(config_for):
    with pytest.raises(TrainingError, match=r"a training process failed: .*exit code 3"):
        launch(die, config_for("GRU4Rec", nproc=2), {"config_dict": {}})


@pytest.mark.parametrize("first", [True, False])
def test_only_the_first_process_writes_when_a_run_is_resumed(first, config_for, quick, monkeypatch):
    """The other one would take away the files that the first is writing."""
    done = run("SASRec", "tiny", config_dict=quick())
    folder = Path(done["run_dir"])
    stale = folder / ".config.yaml.1234.tmp"
    stale.write_text("half")
    before = (folder / "config.yaml").read_text()
    config = config_for("SASRec", epochs=5, resume=str(folder))
    train, *_ = data_preparation(config, create_dataset(config))
    model = config.model_class(config, train._dataset)
    monkeypatch.setattr(process_group, "is_main_process", lambda _: first)
    get_trainer(config["MODEL_TYPE"], "SASRec")(config, model).resume_checkpoint(folder)
    assert stale.exists() is not first
    assert ((folder / "config.yaml").read_text() != before) is first


class Stateful(torch.nn.Module):
    """Everything that a model can keep beside its parameters."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))
        self.norm = torch.nn.BatchNorm1d(2)
        self.inner = torch.nn.Module()
        self.inner.register_buffer("count", torch.zeros(3, dtype=torch.long))
        self.mean = torch.zeros(2)
        self.seen = np.zeros(2)
        self.total, self.steps = 0.0, 0


CHANGES = {
    "weight": lambda model: model.weight.data.add_(1),
    "norm": lambda model: model.norm.running_mean.add_(1),
    "inner.count": lambda model: model.inner.count.add_(1),
    "mean": lambda model: model.mean.mul_(0.5).add_(1),
    "seen": lambda model: model.seen.__iadd__(1),
    "total": lambda model: setattr(model, "total", 2.5),
}


@pytest.mark.parametrize("place", CHANGES)
@pytest.mark.parametrize("everywhere", [True, False])
def test_own_state_that_differs_between_processes_is_refused(place, everywhere, monkeypatch):
    def gather(parts, own):
        parts[:] = [own, own if everywhere else {}]

    monkeypatch.setattr(data_parallel.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(data_parallel.dist, "all_gather_object", gather)
    model = Stateful()
    before = data_parallel._module_state(model)
    CHANGES[place](model)
    if everywhere or place in ("weight", "norm"):
        data_parallel._check_module_state(model, before)
        return
    with pytest.raises(ConfigError, match=f"nproc: Stateful changes {place} in its loss"):
        data_parallel._check_module_state(model, before)


def test_batch_norms_have_the_mean_of_all_processes(monkeypatch):
    monkeypatch.setattr(data_parallel.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(data_parallel.dist, "all_reduce", lambda tensor: tensor.add_(3.0))
    model = Stateful()  # its running mean is 0, its variance 1; the other process has 3
    data_parallel.average_batch_norms(model)
    assert model.norm.running_mean.tolist() == [1.5, 1.5]
    assert model.norm.running_var.tolist() == [2.0, 2.0]
