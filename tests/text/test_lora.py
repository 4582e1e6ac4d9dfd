"""Low-rank adapters in a language model's layers."""

import sys

import pytest
import torch
from transformers import BertModel, GPT2Model

from recbole_lite.text.lora import add_lora, is_adapter, merge_lora, set_trainable
from recbole_lite.utils.errors import ConfigError, MissingDependencyError

SETTINGS = {"r": 2, "alpha": 6, "dropout": 0.1, "target_modules": ["query", "value"]}
WORDS = torch.tensor([[4, 5, 6]])


@pytest.fixture
def bert(llm_folders):
    return BertModel.from_pretrained(llm_folders["bert"]).eval()


def trained(model):
    """Adapters as after a training: B begins as zeros."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if is_adapter(name):
                parameter.normal_(std=0.5)
    return model


def trainable(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_the_output_of_an_adapted_layer(bert):
    layer = bert.encoder.layer[0].attention.self
    weight, bias = layer.query.weight.clone(), layer.query.bias.clone()
    add_lora(bert, SETTINGS, "key")
    x = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(layer.query(x), torch.nn.functional.linear(x, weight, bias))
    trained(bert)
    a, b = layer.query.lora_A["default"].weight, layer.query.lora_B["default"].weight
    expected = x @ weight.T + bias + 6 / 2 * x @ a.T @ b.T
    assert torch.allclose(layer.query(x), expected, atol=1e-5)


def test_only_adapters_are_trained(bert):
    add_lora(bert, SETTINGS, "key")
    n = 2 * 2 * 2 * (16 + 16)  # layers, targets, r, in + out
    assert trainable(bert) == n
    set_trainable(bert, False)
    assert trainable(bert) == 0
    set_trainable(bert, True)
    assert trainable(bert) == n


def test_a_model_without_adapters_is_trained_whole(bert):
    set_trainable(bert, False)
    assert trainable(bert) == 0
    set_trainable(bert, True)
    assert trainable(bert) == sum(p.numel() for p in bert.parameters())


@pytest.mark.parametrize(
    ("cls", "kind", "targets"),
    [
        (BertModel, "bert", ["query", "output.dense"]),
        (GPT2Model, "gpt2", ["c_attn", "mlp.c_proj"]),  # weights are [in, out]
        (GPT2Model, "gpt2", "all-linear"),
    ],
)
def test_merged_adapters(cls, kind, targets, llm_folders, recwarn):
    model = cls.from_pretrained(llm_folders[kind]).eval()
    names = model.state_dict().keys()
    before = model(WORDS).last_hidden_state
    add_lora(model, {**SETTINGS, "target_modules": targets}, "key")
    assert torch.allclose(model(WORDS).last_hidden_state, before, atol=1e-6)
    adapted = trained(model)(WORDS).last_hidden_state
    assert not torch.allclose(adapted, before, atol=1e-2)
    merged = merge_lora(model)
    assert merged.state_dict().keys() == names
    assert torch.allclose(merged(WORDS).last_hidden_state, adapted, atol=1e-4)
    assert not [w for w in recwarn if "fan_in" in str(w.message)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"target_modules": ["quary"]},
            "'quary' matches no layer of the model; did you mean query",
        ),
        ({"target_modules": ["query", "q_proj"]}, "'q_proj' matches no layer .* are query, key"),
        ({"target_modules": 3}, "target_modules must be a list of layers, found 3"),
        ({"rank": 4}, "key: unknown key 'rank'; it has r, alpha, dropout, target_modules"),
        ({"r": 0}, "key: r must be a whole number of at least 1, found 0"),
        ({"alpha": -1}, "key: alpha must be a positive number, found -1"),
        ({"dropout": 1}, "key: dropout must be a probability .* found 1"),
    ],
)
def test_wrong_settings(bert, changes, message):
    with pytest.raises(ConfigError, match=message):
        add_lora(bert, {**SETTINGS, **changes}, "key")


def test_targets_that_peft_does_not_know(llm_folders):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with pytest.raises(ConfigError, match=r"key: peft refuses it .*target_modules.*layers are 0"):
        add_lora(model, {"r": 2}, "key")


def test_without_peft(bert, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingDependencyError, match=r"key needs peft; .*recbole-lite\[lora\]"):
        add_lora(bert, SETTINGS, "key")
