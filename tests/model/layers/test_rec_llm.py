"""Encoders that read vectors: sizes of input and output, masks, and what is refused when."""

import pytest
import torch
from transformers import AutoConfig, AutoModel, BertModel

from recbole_lite import run
from recbole_lite.model.layers.rec_llm import EmbeddingEncoder, RecommendationLLM
from recbole_lite.text.llm_files import resolve_llm
from recbole_lite.utils.errors import ConfigError

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 32,
    "vocab_size": 8,
}
OPT = {"hidden_size": 16, "word_embed_proj_dim": 8, "ffn_dim": 16, "max_position_embeddings": 32}
OPT |= {
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 8,
    "do_layer_norm_before": False,
}
BLOOM = {"hidden_size": 16, "n_layer": 1, "n_head": 2, "vocab_size": 8}
MAMBA = {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4, "vocab_size": 8}
GPT2 = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32, "vocab_size": 8}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 8}
XLNET = {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16, "vocab_size": 8}


def reader(kind, causal, **sizes):
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(kind, **sizes))
    return EmbeddingEncoder(model.encoder if kind == "t5" else model, causal)


@pytest.mark.parametrize(
    "kind, sizes, read, given",
    [
        ("albert", {**SIZES, "embedding_size": 4}, 4, 16),
        ("electra", {**SIZES, "embedding_size": 4}, 4, 16),
        ("opt", OPT, 8, 8),
        ("bert", SIZES, 16, 16),
    ],
)
def test_sizes_are_those_of_the_embeddings_and_of_the_output(kind, sizes, read, given):
    encoder = reader(kind, causal=False, **sizes)
    assert (encoder.input_size, encoder.hidden_size) == (read, given)
    output = encoder(torch.randn(3, 5, read), torch.ones(3, 5, dtype=torch.bool))
    assert output.shape == (3, 5, given)
    assert encoder.training


@pytest.mark.parametrize(
    "kind, sizes, masking",
    [
        ("bert", SIZES, "kernel"),
        ("gpt2", GPT2, "kernel"),
        ("t5", T5, "kernel"),
        ("opt", OPT | {"word_embed_proj_dim": 16}, "kernel"),
        ("bloom", BLOOM, "model"),
        ("mamba", MAMBA, "model"),
    ],
)
def test_causal_encoders_do_not_look_ahead(kind, sizes, masking):
    encoder = reader(kind, causal=True, **sizes).eval()
    assert (encoder.masking, encoder.packs) == (masking, masking == "kernel")
    vectors, mask = torch.randn(1, 6, 16), torch.ones(1, 6, dtype=torch.bool)
    other = vectors.clone()
    other[:, 3:] = 1
    one, two = encoder(vectors, mask), encoder(other, mask)
    torch.testing.assert_close(one[:, :3], two[:, :3])
    assert not torch.allclose(one[:, 4:], two[:, 4:])


@pytest.mark.parametrize(("kind", "sizes"), [("gpt2", GPT2), ("t5", T5)])
def test_the_kernel_masks_as_a_mask_of_all_pairs_does(kind, sizes):
    encoder = reader(kind, causal=True, **sizes).eval()
    vectors, mask = torch.randn(2, 6, 16), torch.ones(2, 6, dtype=torch.bool)
    by_kernel = encoder(vectors, mask)
    encoder.masking = "mask"
    encoder.encoder.set_attn_implementation("sdpa")
    torch.testing.assert_close(encoder(vectors, mask), by_kernel)


@pytest.mark.parametrize("kind, sizes", [("xlnet", XLNET), ("deberta-v2", SIZES)])
def test_an_encoder_that_looks_ahead_is_no_causal_one(kind, sizes):
    reader(kind, causal=False, **sizes)
    with pytest.raises(ConfigError, match=r"rec_llm cannot read item vectors causally \("):
        reader(kind, causal=True, **sizes)


def test_an_encoder_without_masks_is_refused():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16, "vocab_size": 8}
    with pytest.raises(ConfigError, match=r"rec_llm cannot read item vectors \("):
        reader("fnet", causal=False, **sizes)


def test_the_probe_draws_no_random_numbers():
    model = AutoModel.from_config(AutoConfig.for_model("bert", **SIZES))
    before = torch.get_rng_state()
    EmbeddingEncoder(model, causal=False)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("kind", "causal", "sizes", "skips"),
    [
        ("gpt2", True, GPT2, True),
        ("t5", True, T5, True),
        ("llama", True, {**SIZES, "num_key_value_heads": 2}, True),
        ("bert", False, SIZES, True),
        ("mamba", True, MAMBA, False),  # no such module
    ],
)
@torch.no_grad()
def test_only_the_last_output_needs_the_last_feed_forward_module(kind, causal, sizes, skips):
    read = reader(kind, causal, **sizes).eval()
    vectors = torch.randn(4, 5, read.input_size, generator=torch.Generator().manual_seed(3))
    lengths = torch.tensor([5, 1, 3, 4])
    mask = torch.arange(5) < lengths[:, None]
    expected = read(vectors, mask)[torch.arange(4), lengths - 1]
    assert (read._feed_forward is not None) == skips
    seen = []
    if skips:
        module = read.encoder.get_submodule(read._feed_forward)
        module.register_forward_hook(lambda _, x, __: seen.append(x[0].shape[1]))
    with read.only_last(mask):
        found = read(vectors, mask)[torch.arange(4), lengths - 1]
    torch.testing.assert_close(found, expected)
    read(vectors, mask)
    assert seen == [1, 5] * skips  # nothing stays


def albert(quick, **changes):
    architecture = {"model_type": "albert", **SIZES, "embedding_size": 4}
    return quick(rec_llm=architecture, rec_llm_config={}, epochs=1, **changes)


def test_adapter_and_head_have_the_sizes_of_input_and_output(quick):
    from recbole_lite import load_data_and_model

    result = run("LiteLLM4Rec", "tiny", config_dict=albert(quick))
    model = load_data_and_model(result["run_dir"])[1]
    assert model.item_tower.adapter.weight.shape == (4, 16)  # BERT's 16 to ALBERT's 4
    assert model.head.weight.shape == (24, 16)


def test_a_tied_head_wants_equal_sizes(quick):
    with pytest.raises(ConfigError, match=r"rec_llm reads 4 numbers and gives 16\. Set tie_head"):
        run("LiteLLM4Rec", "tiny", config_dict=albert(quick, tie_head=True))


def test_a_refusal_comes_before_the_catalogue_is_encoded(quick, monkeypatch):
    from recbole_lite.model.layers import item_tower

    monkeypatch.setattr(item_tower, "load_item_vectors", lambda *_: pytest.fail("encoded"))
    settings = quick(
        rec_llm={"model_type": "xlnet", **XLNET}, rec_llm_config={}, rec_llm_causal=True
    )
    with pytest.raises(ConfigError, match="cannot read item vectors causally"):
        run("LiteLLM4Rec", "tiny", config_dict=settings)


def test_item_lm_sets_the_size_of_embeddings_too(config_for):
    from recbole_lite.data import create_dataset
    from recbole_lite.model.item_lm import ItemLM

    config = config_for("ItemLM", lm_architecture="albert", item_init="random", n_heads=2)
    lm = ItemLM(config, create_dataset(config)).lm
    assert lm.input_size == lm.hidden_size == 16


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"lm_architecture": "gpt_neo"}, "lm_architecture 'gpt_neo' does not take the sizes"),
        ({"lm_architecture": "xlnet"}, "lm_architecture 'xlnet' does not take the sizes"),
        ({"lm_config": {"n_layer": "a"}}, "lm_config: n_layer: 'a' is refused"),
    ],
)
def test_sizes_that_an_architecture_refuses(settings, message, config_for):
    from recbole_lite.data import create_dataset
    from recbole_lite.model.item_lm import ItemLM

    settings = {"lm_architecture": "gpt2", "item_init": "random", "n_heads": 2, **settings}
    config = config_for("ItemLM", **settings)
    with pytest.raises(ConfigError, match=message):
        ItemLM(config, create_dataset(config))


@pytest.mark.integration
@pytest.mark.parametrize("causal", [False, True])
def test_minilm_with_its_trained_weights(causal):
    llm = RecommendationLLM("minilm", "pretrained", None, None, 20, True, causal)
    assert (llm.input_size, llm.hidden_size) == (384, 384)
    assert llm.masking == ("kernel" if causal else "model")
    own = BertModel.from_pretrained(resolve_llm("minilm"))
    for name, tensor in llm.encoder.encoder.state_dict().items():
        assert torch.equal(tensor, own.encoder.state_dict()[name])


@pytest.mark.integration
@pytest.mark.parametrize(
    "changes",
    [
        {"rec_llm_init": "pretrained", "frozen_parts": ["rec_llm"], "rec_llm_config": {}},
        {"rec_llm_init": "pretrained", "frozen_parts": ["head"], "rec_llm_config": {}},
        {"rec_llm_init": "scratch", "rec_llm_config": {"num_hidden_layers": 1}},
    ],
)
def test_runs_with_minilm(changes, quick):
    result = run("LiteLLM4Rec", "tiny", config_dict=quick(rec_llm="minilm", epochs=1, **changes))
    assert 0 <= result["test_result"]["recall@5"] <= 1
