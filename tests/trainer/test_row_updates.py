"""Steps on the rows of a table against a reference that loops over them."""

import math

import pytest
import torch

from recbole_lite import create_dataset, data_preparation, run
from recbole_lite.model.abstract_recommender import HeadRows
from recbole_lite.model.layers.softmax_loss import sampled_cross_entropy
from recbole_lite.trainer.row_updates import update_rows_only
from recbole_lite.utils.errors import ConfigError

SETTINGS = {"learner": "adamw", "clip_grad_norm": None, "single_spec": True, "shard_items": False}


@pytest.fixture
def loaded(config_for):
    """Settings of ItemLM -> its configuration and its loaders."""

    def load(**settings):
        config = config_for("ItemLM", **settings)
        return config, data_preparation(config, create_dataset(config))

    return load


SPARSE = torch.nn.Embedding(2, 2, sparse=True)


def optimiser(*parameters, decay=0.0):
    made = torch.optim.AdamW(parameters, lr=0.1, weight_decay=decay)
    update_rows_only(made, SPARSE, SETTINGS)
    return made


def test_rows_are_those_of_adam_with_own_counts():
    torch.manual_seed(0)
    table = torch.nn.Embedding(6, 3, sparse=True)
    dense = torch.nn.Parameter(torch.ones(2))
    wanted = table.weight.detach().double().tolist()
    state = {row: (0, [0.0] * 3, 0.0) for row in range(6)}
    made, reference = optimiser(table.weight, dense), torch.nn.Parameter(torch.ones(2))
    other = torch.optim.AdamW([reference], lr=0.1, weight_decay=0.0)
    for read in ([1, 4, 4], [4], [1, 2]):
        factors = torch.randn(len(read), 3)
        made.zero_grad()
        ((table(torch.tensor(read)) * factors).sum() + (dense**2).sum()).backward()
        made.step()
        other.zero_grad()
        (reference**2).sum().backward()
        other.step()
        for row in set(read):
            gradient = sum(factors[i] for i, item in enumerate(read) if item == row).tolist()
            steps, mean, square = state[row]
            mean = [0.9 * m + 0.1 * g for m, g in zip(mean, gradient, strict=True)]
            square = 0.999 * square + 0.001 * sum(g * g for g in gradient) / 3
            state[row] = steps + 1, mean, square
            scale = math.sqrt(square / (1 - 0.999 ** (steps + 1))) + 1e-8
            for place, m in enumerate(mean):
                wanted[row][place] -= 0.1 * m / (1 - 0.9 ** (steps + 1)) / scale
    torch.testing.assert_close(table.weight.detach(), torch.tensor(wanted))
    torch.testing.assert_close(dense, reference)
    again = optimiser(table.weight, dense)
    again.load_state_dict(made.state_dict())
    assert again.state[table.weight]["step"].tolist() == [0, 2, 1, 0, 2, 0]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learner": "sgd"}, "learner sgd"),
        ({"clip_grad_norm": {"max_norm": 1}}, "clip_grad_norm"),
        ({"single_spec": False}, "several processes"),
    ],
)
def test_settings_that_need_all_rows_are_refused(change, named):
    made = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], weight_decay=0.0)
    with pytest.raises(ConfigError, match=f"sparse_item_updates.* {named}"):
        update_rows_only(made, SPARSE, {**SETTINGS, **change})


def test_other_models_ignore_the_setting(caplog):
    update_rows_only(torch.optim.SGD([torch.ones(1)]), torch.nn.Linear(1, 1), {})
    assert "sparse_item_updates is ignored: Linear" in caplog.text


def test_weight_decay_is_refused():
    with pytest.raises(ConfigError, match=r"sparse_item_updates.* weight_decay"):
        optimiser(torch.nn.Parameter(torch.ones(1)), decay=0.1)


def test_sampled_loss_reads_only_rows(loaded):
    """The table's gradient has the rows of histories, targets and sample; values as if dense."""
    models = {}
    for sparse in (False, True):
        settings = {"loss_type": "SCE", "num_negatives": 3, "sparse_item_updates": sparse}
        config, loaders = loaded(loss_exclude_history=False, **settings)
        torch.manual_seed(1)
        model = config.model_class(config, loaders[0]._dataset).eval()
        torch.manual_seed(2)
        batch = next(iter(loaders[0]))[:2]
        model.calculate_loss(batch).backward()
        models[sparse] = model.items.weight.grad
    assert models[True].is_sparse
    assert len(models[True].coalesce().indices()[0]) < len(models[False])
    torch.testing.assert_close(models[True].to_dense(), models[False])


def test_head_rows_are_the_heads(loaded):
    config, loaders = loaded(loss_exclude_history=False, loss_type="SCE")
    model = config.model_class(config, loaders[0]._dataset).eval()
    users, targets = torch.randn(4, 16), torch.tensor([3, 0, 7, 7])
    found = []
    for head in (HeadRows(model), model.head_weight()):
        torch.manual_seed(3)
        found.append(sampled_cross_entropy(users, head, targets, 5, 0.1))
    torch.testing.assert_close(*found)


def test_a_full_loss_is_refused(loaded):
    config, loaders = loaded(sparse_item_updates=True)
    with pytest.raises(ConfigError, match="sparse_item_updates needs a loss over a sample"):
        config.model_class(config, loaders[0]._dataset)


def test_a_resumed_run_equals_an_undisturbed_one(quick):
    """The state of the rows is saved with the optimiser's."""
    settings = quick(
        loss_type="SCE", num_negatives=5, loss_exclude_history=False, sparse_item_updates=True
    )
    settings["epochs"] = 3
    whole = run("ItemLM", "tiny", config_dict=settings)
    part = run("ItemLM", "tiny", config_dict={**settings, "last_epoch": 1})
    resumed = run("ItemLM", "tiny", config_dict={**settings, "resume": part["run_dir"]})
    losses = [[epoch["train_loss"] for epoch in one["history"]] for one in (whole, resumed)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert resumed["test_result"] == whole["test_result"]
