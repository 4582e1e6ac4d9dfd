"""Two processes that divide the item table train what one process trains with all of it."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from recbole_lite import LiteConfig, Recommender, load_data_and_model, run
from recbole_lite.inference.saved_run import evaluate_saved_run
from recbole_lite.model import abstract_recommender
from recbole_lite.model.layers.half_table import ItemEmbedding
from recbole_lite.model.layers.sharded_embedding import ShardedEmbedding, normal_rows
from recbole_lite.trainer import row_updates
from recbole_lite.trainer.item_shards import check_shard_items
from recbole_lite.trainer.launch import launch
from recbole_lite.trainer.row_updates import update_rows_only
from recbole_lite.utils.errors import ConfigError

# 30 users: the second process has no row of the last batch of training and of evaluation.
SMALL = {"n_heads": 2, "hidden_size": 8, "lm_dropout": 0.0, "user_dropout": 0.0, "epochs": 2}
SMALL |= {"train_batch_size": 29, "eval_batch_size": 29, "adam_eps": 1e-4}
CE = {"label_smoothing": 0.1, "clip_grad_norm": {"max_norm": 0.5}, "sample_users": 2}
TEXT = {"item_init": "text", "cosine_head": True, "train_strategy": "all", "accumulate_steps": 2}
SCE = {"loss_type": "SCE", "num_negatives": 7, "loss_exclude_history": False, "learner": "adamw"}
METRICS = ["Recall", "NDCG", "ItemCoverage"]


def figures(result):
    return [entry["train_loss"] for entry in result["history"]]


def train(values, **own):
    return run("ItemLM", "tiny", config_dict={**values, **SMALL, **own}, per_user=True)


def in_each(config_dict):
    """Runs in each of two processes; an assertion that fails in one of them fails the test."""
    held = []
    whole = ShardedEmbedding.whole

    def watched(self, folder, optimizer=None):
        states = {} if optimizer is None else optimizer.state[self.weight]
        held.extend(len(v) for v in (self.weight, *states.values()) if v.dim())
        return whole(self, folder, optimizer)

    ShardedEmbedding.whole = watched
    sampled = abstract_recommender.sampled_cross_entropy

    def known_sample(users, weight, targets, *settings):
        torch.manual_seed(int(targets.sum()))
        return sampled(users, weight, targets, *settings)

    abstract_recommender.sampled_cross_entropy = known_sample
    values = {**config_dict, "shard_items": True}
    results = {"ce": train(values, **CE), "text": train(values, **TEXT)}
    assert set(held) == {12 + dist.get_rank()}  # of 25 rows
    begun = train(values, last_epoch=1, **CE)
    results["resumed"] = train(values, **CE, resume=begun["run_dir"])
    results["to resume"] = train(values, last_epoch=1, **CE)
    results["sce"] = train(values, **SCE)
    results["sce unsharded"] = train(config_dict, **SCE)
    sparse = {**SCE, "loss_type": "InfoNCE", "sparse_item_updates": True}
    rounded, row_updates.round_stochastically = row_updates.round_stochastically, drawing
    results["sparse"] = train(values, **sparse)
    row_updates.round_stochastically = rounded
    half = {**sparse, "item_dtype": "bfloat16"}
    results["half"] = train(values, **half)
    begun = train(values, last_epoch=1, **half)
    results["half resumed"] = train(values, **half, resume=begun["run_dir"])
    check_steps(LiteConfig("ItemLM", "tiny", config_dict=values))
    return results


def drawing(values, dtype):
    """No rounding, but as many random numbers: later draws are those of half precision."""
    return values + 0 * torch.randint_like(values, 2) if values.dim() == 2 else values


def check_steps(config):
    """Steps on the rows of the table are those on one table with the uses of both processes."""
    uses = [torch.tensor([[1, 3, 3, 8]]), torch.empty(1, 0, dtype=torch.long)]
    settings = {"learner": "adamw", "clip_grad_norm": None, "single_spec": False}
    settings["shard_items"] = True
    with pytest.raises(ConfigError, match="shard_items: 2 items are too few for 2 workers"):
        ShardedEmbedding(config, 3, 2)
    for sparse, dtype in ((False, torch.float32), (True, torch.float32), (True, torch.bfloat16)):
        config["sparse_item_updates"], config["item_dtype"] = sparse, str(dtype).split(".")[1]
        torch.manual_seed(3)
        table = ShardedEmbedding(config, 9, 2)
        torch.manual_seed(3)
        whole = nn.Embedding(9, 2)
        nn.init.normal_(whole.weight, std=config["initializer_range"])
        whole = ItemEmbedding(9, 2, sparse=sparse, _weight=whole.weight.detach().to(dtype))
        assert torch.equal(table.weight, whole.weight[table.rows])
        # Each rounding at random adds up to a distance of neighbours; gradients follow.
        close = {} if dtype == torch.float32 else {"rtol": 0.05, "atol": 1e-4}
        steps = []
        for module in (table, whole):
            module.weight.grad_dtype = torch.float32
            optimizer = torch.optim.AdamW(module.parameters(), weight_decay=0.0)
            if sparse:
                update_rows_only(optimizer, module, settings)
            steps.append(optimizer)
        for _ in range(2):
            (table(uses[dist.get_rank()]) ** 2).sum().backward()
            (sum((whole(use) ** 2).sum() for use in uses) / 2).backward()
            for optimizer in steps:
                optimizer.step()
                optimizer.zero_grad()
        torch.testing.assert_close(table.weight, whole.weight[table.rows], **close)
        state, wanted = (step.state_dict()["state"][0] for step in steps)
        with table.whole(None, steps[0]):
            if dist.get_rank() == 0:
                torch.testing.assert_close(table.weight, whole.weight, **close)
                torch.testing.assert_close(state, wanted, **close)
        saved = steps[1].state_dict()
        table.own_state(steps[0], saved)
        torch.testing.assert_close(saved["state"][0], state, **close)


def test_two_processes_are_one_with_the_whole_table(quick, workdir):
    torch.set_num_threads(1)
    values = quick(metrics=METRICS)
    alone = {"ce": train(values, **CE), "text": train(values, **TEXT)}
    config = LiteConfig("ItemLM", "tiny", config_dict=values, overrides=["--nproc=2"])
    found = launch(in_each, config, {"config_dict": values})
    begun = found.pop("to resume")["run_dir"]
    found["resumed by one"] = train(values, **CE, resume=begun)
    pairs = [("ce", alone["ce"]), ("text", alone["text"]), ("sce", found["sce unsharded"])]
    pairs += [("resumed", alone["ce"]), ("resumed by one", alone["ce"])]
    for name, one in pairs:
        two = found[name]
        assert figures(two) == pytest.approx(figures(one), rel=2e-5), name
        assert two["best_valid_result"] == pytest.approx(one["best_valid_result"], abs=1e-3)
        assert two["test_result"] == pytest.approx(one["test_result"], abs=1e-3)
        assert np.array_equal(two["per_user"]["ranks"], one["per_user"]["ranks"])
        assert two["parameters"] == one["parameters"]
        assert two["samples"] == one["samples"]
        weights = [load_data_and_model(result["run_dir"])[1].state_dict() for result in (one, two)]
        assert weights[1]["items.weight"].shape == (25, 8)
        for part, tensor in weights[0].items():
            torch.testing.assert_close(weights[1][part], tensor, rtol=1e-3, atol=1e-5)
    assert np.isfinite(figures(found["sparse"])).all()
    half = found["half"]
    assert figures(half) == pytest.approx(figures(found["sparse"]), rel=0.01)
    assert figures(found["half resumed"]) == figures(half)
    assert found["half resumed"]["test_result"] == half["test_result"]
    trainer, result, *_ = evaluate_saved_run(half["run_dir"])  # by one process
    assert trainer.model.items.weight.dtype == torch.bfloat16
    assert dict(result) == pytest.approx(half["test_result"], abs=1e-6)
    assert not list(workdir.rglob("*.tmp"))
    loaded = [Recommender.load(r["run_dir"], runtime="torch") for r in (alone["ce"], found["ce"])]
    lists = [recommender.recommend([["i1", "i2"]], k=5)[0] for recommender in loaded]
    assert [entry.id for entry in lists[0]] == [entry.id for entry in lists[1]]


@pytest.mark.parametrize(("shape", "block"), [((75, 5), 1), ((64, 8), 128), ((40, 3), 10**6)])
def test_blocks_of_noise_are_those_of_a_whole_table(shape, block):
    torch.manual_seed(1)
    whole = torch.empty(shape).normal_(std=0.3)
    torch.manual_seed(1)
    assert torch.equal(normal_rows(shape, 0.3, slice(7, 39), block), whole[7:39])


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"single_spec": True}, "one process"),
        ({"tie_head": False}, "tie_head: False"),
        ({"item_init": "text_plus_id"}, "item_init: text_plus_id"),
        ({"distill_from": "saved"}, "distill_from"),
        ({"ema_decay": 0.9}, "ema_decay"),
        ({"enable_scaler": True}, "enable_scaler"),
        ({"enable_amp": True}, "enable_amp"),
        ({"replay": 0.1}, "update"),
        ({"task": "topn"}, "task: topn"),
        ({"eval_args": {"mode": {"valid": "full", "test": "uni9"}}}, "sampled items"),
        ({"metrics": ["Recall", "GAUC"]}, "the metric GAUC"),
    ],
)
def test_combinations_that_are_refused(settings, named, config_for):
    config = config_for("ItemLM", shard_items=True)
    config["single_spec"] = False
    check_shard_items(config)
    config.final_config_dict.update(settings)
    with pytest.raises(ConfigError, match=f"shard_items cannot be combined with {named}"):
        check_shard_items(config)


def test_other_models_are_refused(quick):
    with pytest.raises(ConfigError, match="shard_items: SASRec cannot divide its item table"):
        run("SASRec", "tiny", config_dict=quick(shard_items=True))
