from __future__ import annotations

import copy
import json
import logging

import pytest
import torch
from transformers import AutoModel, BertForMaskedLM

from recbole_lite.text.item_vectors import load_item_vectors
from recbole_lite.text.trainable_item_llm import TrainableItemLLM
from recbole_lite.utils.errors import ConfigError

# Items 0 (padding) and 3 have no text, 1 and 5 the same.
CASES = [
    *[(kind, "mean") for kind in ("bert", "t5", "gpt2", "bart")],
    *[(kind, "cls") for kind in ("bert", "t5", "bart")],
    ("bert", "pooler"),
]
RATES = ["hidden_dropout_prob", "attention_probs_dropout_prob", "dropout_rate", "dropout"]
RATES += ["attention_dropout", "activation_dropout", "embd_pdrop", "resid_pdrop", "attn_pdrop"]
IDS = torch.tensor([[0, 1, 2, 5], [2, 4, 3, 1], [6, 6, 2, 4]])


@pytest.fixture
def build(settings, items, llm_folders):
    """``build(kind, key=value, ...)`` -> TrainableItemLLM over the six items."""

    def build(kind="bert", columns=None, **changes):
        config = settings(**{"item_llm": str(llm_folders[kind]), **changes})
        return TrainableItemLLM(config, items(**(columns or {})))

    return build


@pytest.fixture
def without_dropout(llm_copy):
    """Folder of a model whose configuration drops out nothing."""

    def folder(kind):
        path = llm_copy(kind)
        config = json.loads((path / "config.json").read_text())
        config.update({rate: 0.0 for rate in RATES if rate in config})
        (path / "config.json").write_text(json.dumps(config))
        return str(path)

    return folder


@pytest.fixture
def rows():
    """Count the texts that pass through a model: ``rows(module)`` -> list, one entry per pass."""

    def count(module):
        counted = []

        def hook(_, args, kwargs):
            counted.append(len(kwargs["input_ids"]))

        module.encoder.register_forward_pre_hook(hook, with_kwargs=True)
        return counted

    return count


def weighted_sum(vectors):
    """Some scalar that no two entries contribute to alike."""
    weights = torch.arange(1.0, vectors.numel() + 1).sin().view_as(vectors)
    return (vectors * weights).sum()


def gradients(module, vectors):
    module.zero_grad()
    weighted_sum(vectors).backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert max(gradient.abs().max() for gradient in ours.values()) > 1e-2
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-4, atol=1e-5, msg=name)


def perturb(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1)


# -- the same vectors as without training -----------------------------------------------------


@pytest.mark.parametrize("kind, pooling", CASES)
@pytest.mark.parametrize("batch_size", [2, 64])
def test_before_training_the_vectors_are_the_frozen_ones(
    build, settings, items, llm_folders, kind, pooling, batch_size
):
    changes = {"item_llm_pooling": pooling, "item_llm_batch_size": batch_size}
    frozen = load_item_vectors(settings(item_llm=str(llm_folders[kind]), **changes), items())
    module = build(kind, **changes).eval()
    assert torch.equal(module.has_text, frozen.has_text)
    assert (module.n_items, module.hidden_size) == frozen.vectors.shape
    for vectors in (module.encode_all(), module.vectors(), module(torch.arange(7))):
        assert vectors.dtype == torch.float32
        torch.testing.assert_close(vectors, frozen.vectors, rtol=0, atol=1e-5)


def test_a_text_without_tokens_has_zeros_as_without_training(build):
    module = build("gpt2", columns={"title": ["toy", "\u200b", "story"]}).eval()
    tokens = module._lengths.tolist()
    module._lengths[2] = 0  # a tokenizer that knows nothing of this text
    assert tokens[2] > 0
    assert module.has_text.tolist() == [False, True, True, True]
    assert module.vectors()[2].eq(0).all()


def test_long_texts_are_cut_as_without_training(build, settings, items):
    columns = {"title": ["toy " * 100, "toy story golden eye", "toy"]}
    for max_length in (None, 4):
        config = settings(item_llm_max_length=max_length)
        frozen = load_item_vectors(config, items(**columns)).vectors
        module = build(columns=columns, item_llm_max_length=max_length)
        torch.testing.assert_close(module.encode_all(), frozen, rtol=0, atol=1e-5)


# -- gradients --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, pooling", CASES)
@pytest.mark.parametrize("batch_size", [2, 64])
def test_gradients_are_those_of_encoding_every_occurrence_alone(
    build, items, without_dropout, kind, pooling, batch_size
):
    changes = {"item_llm": without_dropout(kind), "item_llm_pooling": pooling}
    module = build(**changes, item_llm_batch_size=batch_size).train()

    def alone(item):
        if not module.has_text[item]:
            return torch.zeros(16)
        output = module.encoder(input_ids=module._tokens[item].unsqueeze(0))
        if pooling == "pooler":
            return output.pooler_output[0]
        tokens = output.last_hidden_state[0]
        return tokens[0] if pooling == "cls" else tokens.mean(dim=0)

    naive = torch.stack([alone(int(item)) for item in IDS.flatten()]).view(3, 4, 16)
    vectors = module(IDS)
    torch.testing.assert_close(vectors, naive, rtol=0, atol=1e-5)
    assert_same(gradients(module, vectors), gradients(module, naive))


def test_each_distinct_item_is_encoded_once(build, rows):
    module = build(item_llm_batch_size=64).train()
    counted = rows(module)
    vectors = module(IDS)
    assert counted == [5]
    vectors.sum().backward()
    assert counted == [5]  # nothing is computed twice where one chunk holds all


def test_more_items_than_a_chunk_holds_are_computed_again_in_backward(build, rows):
    module = build(item_llm_batch_size=2).train()
    counted = rows(module)
    vectors = module(IDS)
    assert counted == [2, 2, 1]
    vectors.sum().backward()
    assert sorted(counted[3:]) == [1, 2, 2]


def test_without_gradients_nothing_is_prepared_for_backward(build, rows):
    module = build(item_llm_batch_size=2).train()
    counted = rows(module)
    with torch.no_grad():
        assert not module(IDS).requires_grad
    assert counted == [2, 2, 1]


def test_a_chunk_is_padded_to_its_own_longest_text_only(build):
    module = build(item_llm_batch_size=2)
    shapes = []
    module.encoder.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    module(IDS)
    lengths = sorted(module._lengths.tolist(), reverse=True)
    assert shapes == [(2, lengths[0]), (2, lengths[2]), (1, lengths[4])]
    assert lengths[0] > lengths[4] > lengths[5] == 0


def test_gradients_with_dropout_are_those_of_the_same_draw(build):
    """Backward computes a chunk again: it must drop out what forward has."""
    module = build(item_llm_batch_size=2).train()
    torch.manual_seed(5)
    recomputed = gradients(module, module(IDS))
    torch.manual_seed(5)
    chunks = [torch.tensor(items) for items in split_by_length(module, 2)]
    rows = torch.zeros(7, 16)
    for chunk in chunks:
        rows = rows.index_copy(0, chunk, module._encode_chunk(chunk, recompute=False))
    assert_same(recomputed, gradients(module, rows[IDS]))


def split_by_length(module, size):
    items = [i for i in range(7) if module._lengths[i] > 0]
    items.sort(key=lambda i: -int(module._lengths[i]))
    return [items[i : i + size] for i in range(0, len(items), size)]


def test_a_step_of_an_optimiser_changes_the_vectors(build):
    module = build()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
    before = module.encode_all()
    weighted_sum(module(IDS)).backward()
    optimizer.step()
    after = module.encode_all()
    assert (before - after)[module.has_text].abs().amax(dim=1).gt(1e-4).all()
    assert after[~module.has_text].eq(0).all()


# -- ids --------------------------------------------------------------------------------------


def test_padding_and_items_without_text_are_zeros_without_gradient(build):
    module = build().train()
    for ids in (torch.tensor([[0, 3], [3, 0]]), torch.tensor([0])):
        vectors = module(ids)
        assert vectors.shape == (*ids.shape, 16)
        assert vectors.eq(0).all()
        assert not vectors.requires_grad
    vectors = module(IDS)
    textless = (IDS == 0) | (IDS == 3)
    assert vectors[textless].eq(0).all()
    vectors[textless].sum().backward()
    assert all(p.grad is None or p.grad.eq(0).all() for p in module.parameters())


@pytest.mark.parametrize("shape", [(), (1,), (12,), (3, 4), (2, 3, 2), (0,), (2, 0)])
def test_ids_of_any_shape(build, without_dropout, shape):
    module = build(item_llm=without_dropout("bert"))
    ids = IDS.flip(0).flatten()[: torch.Size(shape).numel()].view(shape)
    expected = module.encode_all()[ids]
    for mode in (True, False):
        module.train(mode)
        torch.testing.assert_close(module(ids), expected, rtol=0, atol=1e-5)
        with torch.no_grad():
            assert module(ids).shape == (*shape, 16)


def test_ids_that_do_not_exist_are_refused(build):
    module = build().eval()
    with pytest.raises(IndexError):
        module(torch.tensor([7]))
    with torch.no_grad(), pytest.raises(IndexError):
        module(torch.tensor([7]))


# -- evaluation -------------------------------------------------------------------------------


def test_evaluation_encodes_all_items_once(build, rows):
    module = build(item_llm_batch_size=64).eval()
    counted = rows(module)
    with torch.no_grad():
        for _ in range(3):
            assert torch.equal(module(IDS), module.vectors()[IDS])
    assert counted == [5]
    assert module(IDS).requires_grad  # gradients are wanted: encoded now
    assert counted == [5, 5]


def test_training_mode_encodes_anew_and_keeps_nothing(build, rows):
    module = build(item_llm_batch_size=64).eval()
    module.vectors()
    counted = rows(module)
    module.train()
    with torch.no_grad():
        module(IDS)
        module(IDS)
    module.vectors()
    assert counted == [5, 5, 5]
    assert module._vectors is None


def test_train_forgets_the_vectors(build, rows):
    model = torch.nn.Sequential(build(item_llm_batch_size=64)).eval()
    before = model[0].vectors()
    counted = rows(model[0])
    model.train()
    assert model[0]._vectors is None
    for parameter in model.parameters():
        parameter.data.add_(0.1)  # seen by nobody
    model.eval()
    assert not torch.allclose(model[0].vectors(), before)
    assert counted == [5]
    model.eval()
    model[0].vectors()
    assert counted == [5]


@pytest.mark.parametrize("options", [{}, {"strict": False}, {"assign": True}])
@pytest.mark.parametrize("inside", [False, True])
def test_loading_forgets_the_vectors(build, options, inside):
    module = build().eval()
    other = copy.deepcopy(module)
    perturb(other)
    before = module.vectors()
    target = torch.nn.Sequential(module) if inside else module
    weights = {("0." if inside else "") + name: w for name, w in other.state_dict().items()}
    target.load_state_dict(weights, **options)
    assert module._vectors is None
    assert not torch.allclose(module.vectors(), before)
    assert torch.equal(module.vectors(), other.vectors())


def test_loading_a_part_forgets_the_vectors(build):
    module = build().eval()
    before = module.vectors()
    name = next(name for name in module.state_dict() if "word_embeddings" in name)
    module.load_state_dict({name: module.state_dict()[name].flip(0)}, strict=False)
    assert not torch.allclose(module.vectors(), before)


def test_weights_that_changed_in_evaluation_mode_are_noticed(build):
    module = build().eval()
    before = module.vectors()
    weighted_sum(module(IDS)).backward()
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    after = module.vectors()
    assert not torch.allclose(after, before)
    module.encoder.load_state_dict({k: v + 0.1 for k, v in module.encoder.state_dict().items()})
    assert not torch.allclose(module.vectors(), after)
    module.double()
    assert module.vectors() is module.vectors()


def test_a_copy_keeps_its_own_vectors(build):
    module = build().eval()
    vectors = module.vectors()
    twin = copy.deepcopy(module)
    twin.load_state_dict(twin.state_dict())
    assert twin._vectors is None
    assert module.vectors() is vectors
    perturb(twin)
    assert not torch.allclose(twin.vectors(), vectors)


def test_vectors_made_in_inference_mode_can_be_trained_on(build):
    module = build().eval()
    with torch.inference_mode():
        module(IDS)
    vectors = module.vectors()
    assert not vectors.is_inference()
    assert not vectors.requires_grad
    (torch.nn.Parameter(torch.ones(16)) * vectors).sum().backward()


def test_encode_all_leaves_every_mode_as_it_was(build):
    module = build().train()
    module.encoder.encoder.layer[0].eval()
    modes = [m.training for m in module.modules()]
    assert set(modes) == {True, False}
    first = module.encode_all()
    assert torch.equal(first, module.encode_all())  # no dropout
    assert [m.training for m in module.modules()] == modes


# -- the module -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bert", "t5", "gpt2", "bart"])
def test_the_state_is_the_weights_of_the_encoder(build, llm_folders, kind):
    module = build(kind)
    stock = AutoModel.from_pretrained(llm_folders[kind]).state_dict()
    state = module.state_dict()
    assert state.keys() == {f"encoder.{name}" for name in module.encoder.state_dict()}
    assert {name for name in state if "." in name} == state.keys()
    for name, weight in state.items():
        name = name.removeprefix("encoder.")
        loaded = stock[f"encoder.{name}"] if kind == "bart" else stock[name]
        assert torch.equal(weight, loaded)


def test_only_a_pooler_that_is_used_is_kept(build):
    for pooling, kept in [("mean", False), ("cls", False), ("pooler", True)]:
        module = build(item_llm_pooling=pooling).train()
        assert any("pooler" in name for name in module.state_dict()) is kept
        module(IDS).sum().backward()
        assert all(p.grad is not None for p in module.parameters())


def test_building_draws_no_random_numbers(build, llm_copy):
    folder = llm_copy("bert")
    BertForMaskedLM.from_pretrained(folder).save_pretrained(folder)  # transformers draws a pooler
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    build(item_llm=str(folder))
    assert torch.equal(torch.rand(3), expected)


def test_dropout_is_the_configurations_and_follows_the_seed(build, without_dropout):
    module = build().train()
    assert module.encoder.training
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(module(IDS))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.allclose(drawn[0], drawn[2])
    exact = build(item_llm=without_dropout("bert")).train()
    assert torch.equal(exact(IDS), exact(IDS))


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_trained_weights_are_float32(build, dtype):
    module = build(item_llm_dtype=dtype)
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in module.parameters())


@pytest.mark.parametrize(
    "changes, found",
    [
        ({"item_llm_dtype": "float16"}, "item_llm_dtype: float16; "),
        ({"item_text_fields": ["plot"]}, "item_text_fields: plot to read"),
    ],
)
def test_a_wrong_value_names_its_key(build, changes, found):
    with pytest.raises(ConfigError) as caught:
        build(**changes)
    assert str(caught.value).startswith(found)
    assert "\n" not in str(caught.value)


def test_what_is_logged(build, settings, caplog):
    caplog.set_level(logging.INFO)
    module = build()
    lines = [record.getMessage() for record in caplog.records if record.name == "root"]
    assert lines[0].startswith("1 of 6 items have no text (item ids: token-3)")
    tokens = int(module._lengths.sum())
    assert lines[1] == f"Item LLM {settings()['item_llm']}: trained; 5 items, {tokens} tokens"
    assert len(lines) == 2


# -- a learned token at the end ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bert", "t5", "gpt2", "bart"])
def test_the_item_token(kind, build, items, llm_folders, without_dropout):
    """The output at a token behind the text, one text at a time, by transformers alone."""
    module = build(item_llm=without_dropout(kind), item_llm_pooling="item_token")
    token = module.item_token
    assert token.shape == (16,)
    model = module.encoder
    texts = {item: ids for item, ids in enumerate(module._tokens) if len(ids)}
    found = module(torch.tensor(list(texts)))
    for row, ids in enumerate(texts.values()):
        words = model.get_input_embeddings()(ids[None, :-1])
        expected = model(inputs_embeds=torch.cat([words, token[None, None]], 1))
        assert torch.allclose(found[row], expected.last_hidden_state[0, -1], atol=1e-5)
    weighted_sum(found).backward()
    assert token.grad.abs().max() > 0
    assert "item_token" in module.state_dict()


def test_the_item_token_is_one_of_the_maximum(build):
    module = build(item_llm_pooling="item_token", item_llm_max_length=4)
    assert max(map(len, module._tokens)) == 4
    with pytest.raises(ConfigError, match="item_llm_max_length: 3 leaves no token for the text"):
        build(item_llm_pooling="item_token", item_llm_max_length=3)


def test_the_item_token_needs_a_training(settings, items):
    with pytest.raises(ConfigError, match=r"item_token is a token that is trained .* full"):
        load_item_vectors(settings(item_llm_pooling="item_token"), items())
