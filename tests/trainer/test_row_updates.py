"""Steps on the rows of a table against a reference that loops over them."""

import math

import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_lite import Recommender, create_dataset, data_preparation, load_data_and_model, run
from recbole_lite.model.abstract_recommender import HeadRows
from recbole_lite.model.layers.softmax_loss import sampled_cross_entropy
from recbole_lite.trainer import row_updates
from recbole_lite.trainer.row_updates import _update, check_item_dtype, update_rows_only
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_mean_of_steps_in_half_precision_is_the_step_in_float32(dtype):
    """Rows begin alike; the step, 0.001, is less than half the distance of neighbours of 1."""
    n = 4000
    torch.manual_seed(0)
    begin = torch.tensor([1.0, -0.75, 0.02, 0.0]).to(dtype)
    gradient = torch.tensor([1e-7, -3e-7, 2e-7, 1e-7])  # most of it is below float16's numbers
    group, rows = {"betas": (0.9, 0.999), "eps": 1e-12, "lr": 1e-3}, torch.arange(n)
    tables, states = {}, {}
    for kept in (dtype, torch.float32):
        tables[kept], states[kept] = begin.to(kept).repeat(n, 1), {}
        for _ in range(2):
            _update(tables[kept], rows, gradient.repeat(n, 1), group, states[kept])
    found, wanted = tables[dtype], tables[torch.float32][0]
    assert found.dtype == dtype
    assert states[dtype]["exp_avg"].dtype == torch.bfloat16
    assert {states[dtype][name].dtype for name in ("exp_avg_sq", "step")} == {torch.float32}
    distance = torch.finfo(dtype).eps * begin.float().abs().clamp(min=2e-3)
    torch.testing.assert_close(
        states[dtype]["exp_avg_sq"], states[torch.float32]["exp_avg_sq"], rtol=1e-5, atol=0.0
    )
    for value, mean in (
        (wanted, found.double().mean(0).float()),
        (states[torch.float32]["exp_avg"][0], states[dtype]["exp_avg"].double().mean(0).float()),
    ):
        spread = 4 * distance if value is wanted else 0.02 * value.abs()
        assert ((mean - value).abs() < 5 * spread / n**0.5).all()
    nearest = (begin.float() - 1e-3 * gradient.sign()).to(dtype)
    if dtype == torch.bfloat16:
        assert nearest[0] == begin[0]  # rounding to the nearest would lose the step


HALF = {"loss_type": "SCE", "num_negatives": 5, "loss_exclude_history": False}
HALF |= {"sparse_item_updates": True, "epochs": 3}


def drawing(values, dtype):
    """No rounding, but as many random numbers: later draws are those of half precision."""
    return values + 0 * torch.randint_like(values, 2) if values.dim() == 2 else values


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_training_in_half_precision(quick, dtype, monkeypatch):
    """Near the one in float32; resumed it goes on as if undisturbed; its files can be used."""
    monkeypatch.setattr("recbole_lite.model.layers.half_table._ROWS_AT_ONCE", 4)
    settings = quick(**HALF)
    with monkeypatch.context() as patch:
        patch.setattr(row_updates, "round_stochastically", drawing)
        results = [run("ItemLM", "tiny", config_dict=settings)]
    settings["item_dtype"] = dtype
    results.append(run("ItemLM", "tiny", config_dict=settings))
    part = run("ItemLM", "tiny", config_dict={**settings, "last_epoch": 1})
    results.append(run("ItemLM", "tiny", config_dict={**settings, "resume": part["run_dir"]}))
    exact, half, resumed = ([epoch["train_loss"] for epoch in one["history"]] for one in results)
    assert half == pytest.approx(exact, rel=2e-3)
    assert resumed == half
    assert results[2]["test_result"] == results[1]["test_result"]
    folder = results[1]["run_dir"]
    _, model, *_ = load_data_and_model(folder)
    assert model.items.weight.dtype == getattr(torch, dtype)
    recommender = Recommender.load(folder, runtime="torch")
    assert recommender.model.items.weight.dtype == torch.float32
    histories = torch.tensor([[1, 2, 3], [4, 5, 0]])
    batch = {model.ITEM_SEQ: histories, model.ITEM_SEQ_LEN: torch.tensor([3, 2])}
    scores = [one.eval().full_sort_predict(batch) for one in (model, recommender.model)]
    torch.testing.assert_close(*scores)
    batch |= {model.ITEM_ID: torch.tensor([7, 8]), model.USER_ID: torch.tensor([1, 2])}
    batch = Interaction(batch)
    torch.testing.assert_close(model.predict(batch), scores[0][[0, 1], [7, 8]])
    recommender.save_pretrained("packed")
    packed = Recommender.load("packed", runtime="torch")
    assert packed.recommend([["i1", "i2"]], k=5) == recommender.recommend([["i1", "i2"]], k=5)


@pytest.mark.parametrize("how", ["random", "text"])
def test_a_table_in_half_precision_begins_as_in_float32(loaded, how):
    tables = []
    for dtype in ("float32", "bfloat16"):
        settings = {**HALF, "item_dtype": dtype, "item_init": how}
        config, loaders = loaded(**settings)
        torch.manual_seed(1)
        tables.append(config.model_class(config, loaders[0]._dataset).items.weight)
    assert tables[1].dtype == torch.bfloat16
    torch.testing.assert_close(tables[1], tables[0].bfloat16(), rtol=0.01, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"sparse_item_updates": False}, "sparse_item_updates: False; set it to True"),
        ({"item_init": "text_plus_id"}, "item_init: text_plus_id"),
        ({"distill_from": "saved"}, "distill_from"),
        ({"ema_decay": 0.9}, "ema_decay"),
        ({"replay": 0.1}, "update"),
    ],
)
def test_half_precision_is_refused_with(settings, named, config_for):
    config = config_for("ItemLM", item_dtype="float16", sparse_item_updates=True)
    check_item_dtype(config)
    config.final_config_dict.update(settings)
    with pytest.raises(ConfigError, match=f"item_dtype: float16 cannot be combined with {named}"):
        check_item_dtype(config)


def test_half_precision_is_refused_before_the_data_are_read(quick):
    with pytest.raises(ConfigError, match="item_dtype: bfloat16: SASRec keeps its item table"):
        run("SASRec", "none", config_dict=quick(item_dtype="bfloat16"))


def test_half_precision_is_refused_by_an_old_pytorch(config_for, monkeypatch):
    config = config_for("ItemLM", item_dtype="bfloat16", sparse_item_updates=True)
    monkeypatch.setattr(torch, "Tensor", object)
    with pytest.raises(ConfigError, match=r"item_dtype: bfloat16 needs PyTorch 2\.10"):
        check_item_dtype(config)
