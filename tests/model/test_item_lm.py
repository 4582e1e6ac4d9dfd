"""ItemLM: what an item is, what a position sees, what is scored."""

import pytest
import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction

from recbole_lite import create_dataset, data_preparation, load_data_and_model, run
from recbole_lite.data.prefix_windows import TARGETS
from recbole_lite.model.layers.pca import principal_axes
from recbole_lite.text.item_vectors import load_item_vectors
from recbole_lite.utils.errors import ConfigError

ARCHITECTURES = ["gpt2", "llama", "qwen3", "t5"]
INITS = ["random", "text", "text_plus_id"]


@pytest.fixture
def item_lm(config_for):
    """``item_lm(key=value, ...)`` -> model in evaluation mode, training loader."""

    def build(**changes):
        config = config_for("ItemLM", n_heads=2, **changes)
        train, *_ = data_preparation(config, create_dataset(config))
        torch.manual_seed(1)
        model = config.model_class(config, train._dataset).eval()
        with torch.no_grad():  # far from symmetric: what is mixed up shows
            for name, parameter in model.named_parameters():
                if "norm" not in name and "ln_" not in name:
                    parameter.add_(torch.randn_like(parameter), alpha=0.3)
        return model, train

    return build


def alone(model, items):
    """Scores after one sequence, ``[n_items]``."""
    seq = torch.tensor([items])
    return model.full_sort_predict(
        Interaction({"item_id_list": seq, "item_length": torch.tensor([len(items)])})
    )[0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("pooling", ["last", "recency"])
def test_the_loss_asks_after_every_item_for_the_next(architecture, pooling, item_lm):
    model, train = item_lm(
        lm_architecture=architecture, user_pooling=pooling, loss_exclude_history=False
    )
    batch = next(iter(train))[:8]
    losses = []
    for items, targets in zip(batch["item_id_list"], batch[TARGETS].tolist(), strict=True):
        for step, target in enumerate(targets):
            if target:
                scores = alone(model, items[: step + 1].tolist())[1:]
                losses.append(F.cross_entropy(scores[None], torch.tensor([target - 1])))
    assert len(losses) > len(batch)
    torch.testing.assert_close(
        model.calculate_loss(batch), torch.stack(losses).mean(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_has_the_size_that_the_keys_give(architecture, item_lm):
    model, _ = item_lm(lm_architecture=architecture, n_layers=3, hidden_size=24, inner_size=40)
    weights = [p for n, p in model.lm.named_parameters() if p.dim() == 2 and "bias" not in n]
    shapes = {tuple(p.shape) for p in weights}
    assert any(40 in shape for shape in shapes)
    assert all(set(shape) & {24, 40, 12} for shape in shapes)
    blocks = [m for m in model.lm.modules() if isinstance(m, torch.nn.ModuleList)]
    assert 3 in [len(block) for block in blocks]
    assert alone(model, [3, 4]).shape == (25,)


@pytest.mark.parametrize("init", INITS)
def test_scores_are_inner_products_with_the_table(init, item_lm):
    model, _ = item_lm(item_init=init)
    items = torch.tensor([[5, 2, 9]])
    hidden = model.encode(items)[0, -1]
    scores = alone(model, [5, 2, 9])
    torch.testing.assert_close(scores[1:], model.item_table()[1:] @ hidden)
    assert scores[0] == -torch.inf


def test_a_head_of_its_own(item_lm):
    model, _ = item_lm(tie_head=False)
    hidden = model.encode(torch.tensor([[5, 2, 9]]))[0, -1]
    torch.testing.assert_close(alone(model, [5, 2, 9])[1:], model.head.weight @ hidden)
    assert model.head.weight.data_ptr() != model.items.weight.data_ptr()


def test_text_gives_the_table_its_first_values(config_for):
    config = config_for("ItemLM", n_heads=2, item_init="text", hidden_size=20)
    dataset = create_dataset(config)
    model = config.model_class(config, dataset)
    texts = load_item_vectors(config, dataset)
    table = model.items.weight.detach()[texts.has_text]
    unit = F.normalize(texts.vectors[texts.has_text], dim=-1)  # 16 numbers each
    # The axes are turned, so inner products are what has to agree, up to one scale.
    ours, theirs = table[:, :16] @ table[:, :16].T, unit @ unit.T
    torch.testing.assert_close(ours / ours[0, 0], theirs, rtol=1e-3, atol=1e-4)
    assert table[:, :16].std().item() == pytest.approx(config["initializer_range"], rel=1e-3)
    assert table[:, 16:].std() > 0  # the rest stays noise


def test_text_and_id_are_added(item_lm):
    model, _ = item_lm(item_init="text_plus_id")
    ids = torch.arange(model.n_items)
    expected = model.items.weight + model.item_tower.adapter(model.item_tower.vectors)
    torch.testing.assert_close(model.item_table(), expected)
    assert not model.item_tower.vectors.requires_grad
    assert model.items(ids).shape == expected.shape


def test_an_item_that_is_never_a_target_has_its_text_alone(config_for, data_path):
    # i0 comes first only, i1 is validation and test only, the others are targets.
    rows = [f"u{u}\ti{item}\t3\t{step}" for u in range(8)
            for step, item in enumerate([0, *range(2, 24), 1, 1])]  # fmt: skip
    head = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    (data_path / "tiny" / "tiny.inter").write_text("\n".join([head, *rows]) + "\n")
    config = config_for("ItemLM", n_heads=2, item_init="text_plus_id", weight_decay=0.1)
    train, *_ = data_preparation(config, create_dataset(config))
    model = config.model_class(config, train._dataset).train()
    own = [train._dataset.token2id("item_id", token) for token in ("i0", "i1")]
    optimizer = torch.optim.AdamW(model.parameters())
    for batch in train:
        model.calculate_loss(batch).backward()
        optimizer.step()
    assert (model.items.weight.abs().sum(1) == 0).nonzero().flatten().tolist() == sorted([0, *own])
    text = model.item_tower(torch.tensor(own))
    assert text.abs().sum() > 0
    torch.testing.assert_close(model.item_vectors(torch.tensor(own)), text)
    torch.testing.assert_close(model.item_table()[own], text)


def test_a_run_learns_and_its_checkpoint_gives_the_same_scores(quick):
    settings = quick(n_heads=2, epochs=12, item_init="text_plus_id", train_batch_size=8)
    result = run("ItemLM", "tiny", config_dict=settings)
    assert result["history"][-1]["train_loss"] < 0.8 * result["history"][0]["train_loss"]
    _, model, _, _, _, test = load_data_and_model(result["run_dir"])
    hits = torch.zeros(())
    for batch, history, _, positive in test:
        scores = model.eval().full_sort_predict(batch)
        scores[history] = -torch.inf
        hits += (scores.topk(5).indices == positive[:, None]).any(1).sum()
    assert hits / len(test._dataset) == pytest.approx(result["test_result"]["recall@5"], abs=1e-4)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"lm_architecture": "lama"}, "lm_architecture: .*'lama'; did you mean"),
        ({"item_init": "id"}, "item_init must be one of random, text, text_plus_id, found 'id'"),
        ({"hidden_size": 15}, "hidden_size 15 is not a multiple of n_heads 2"),
        ({"lm_config": {"n_headz": 2}}, "lm_config: a gpt2 configuration has no 'n_headz'"),
        ({"user_pooling": "first"}, "user_pooling must be one of"),
        ({"loss_type": "BPR"}, "loss_type must be one of CE, SCE, InfoNCE for ItemLM"),
    ],
)
def test_bad_settings(changes, message, item_lm):
    with pytest.raises(ConfigError, match=message):
        item_lm(**changes)


# -- LiteLLM4Rec with the same items ------------------------------------------------------------


def test_litellm4rec_with_principal_axes_and_a_tied_head_is_the_same_model(config_for):
    sizes = {"hidden_size": 12, "n_layers": 1, "n_heads": 2, "inner_size": 24}
    ids = config_for("ItemLM", item_init="text", **sizes)
    text = config_for(
        "LiteLLM4Rec",
        rec_llm="gpt2",
        rec_llm_config={"n_embd": 12, "n_layer": 1, "n_head": 2, "n_inner": 24, "n_positions": 6},
        rec_llm_causal=True,
        item_llm_training="embeddings",
        item_vector_norm="unit",
        item_adapter="pca",
        tie_head=True,
        user_pooling="last",
    )
    dataset = create_dataset(ids)
    ours = text.model_class(text, create_dataset(text)).eval()
    theirs = ids.model_class(ids, dataset).eval()
    ours.rec_llm.load_state_dict(theirs.lm.state_dict())
    has_text = load_item_vectors(ids, dataset).has_text
    torch.testing.assert_close(ours.item_tower.table()[has_text], theirs.item_table()[has_text])
    assert has_text[1:].all()
    torch.testing.assert_close(alone(ours, [3, 9, 4])[1:], alone(theirs, [3, 9, 4])[1:])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"item_adapter": "mlp"}, "item_adapter must be one of linear, pca"),
        (
            {"item_adapter": "pca", "item_llm_training": "full"},
            "pca cannot be combined with item_llm_training: full",
        ),
        (
            {"item_adapter": "pca", "rec_llm_config": {"d_model": 24, "num_layers": 1}},
            "vectors of 16 numbers to fewer, the Recommendation LLM reads 24",
        ),
    ],
)
def test_bad_adapters(changes, message, config_for):
    def build():
        config = config_for("LiteLLM4Rec", **changes)
        config.model_class(config, create_dataset(config))

    with pytest.raises(ConfigError, match=message):
        build()


def test_principal_axes_keep_inner_products():
    torch.manual_seed(0)
    plane = torch.randn(9, 2) @ torch.randn(2, 5)  # of rank 2: two axes keep all
    axes = principal_axes(plane, 3, 0.5)
    turned = plane @ axes
    assert turned.std().item() == pytest.approx(0.5, rel=1e-4)
    ratio = (turned @ turned.T) / (plane @ plane.T)
    torch.testing.assert_close(ratio, ratio[0, 0].expand(9, 9), rtol=1e-3, atol=1e-5)
