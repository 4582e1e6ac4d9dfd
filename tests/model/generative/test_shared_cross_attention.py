"""Beams that share a user's keys, against ``generate`` as it is."""

import pytest
import torch
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GenerationConfig,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.modeling_outputs import BaseModelOutput

from recbole_lite.model.generative.shared_cross_attention import (
    NAME,
    beam_attention,
    precompute_cross_attention,
    share_cross_attention,
)

USERS, WIDTH, LENGTH, SIZE = 3, 4, 6, 16


def t5(depth=2, **more):
    sizes = {"d_model": SIZE, "d_kv": 8, "d_ff": 16, "num_heads": 2, "num_layers": depth}
    config = T5Config(vocab_size=20, num_decoder_layers=2, decoder_start_token_id=0, **sizes)
    return T5ForConditionalGeneration._from_config(config, **more), "EncDecAttention.k"


def bart(**more):
    config = BartConfig(
        vocab_size=20, d_model=SIZE, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2, pad_token_id=0,
        bos_token_id=2, eos_token_id=1, decoder_start_token_id=1, forced_eos_token_id=None,
    )  # fmt: skip
    return BartForConditionalGeneration._from_config(config, **more), "encoder_attn.k_proj"


@pytest.fixture(params=[t5, bart])
def model(request):
    """Language model in evaluation mode, and what its cross-attention calls the map to keys."""
    torch.manual_seed(3)
    llm, name = request.param()
    for weights in llm.parameters():  # far enough from uniform for beams to differ
        nn.init.normal_(weights, std=0.4)
    return llm.eval(), name


def search(llm, states, mask, **more):
    settings = GenerationConfig(
        num_beams=WIDTH, num_return_sequences=WIDTH, max_new_tokens=5, eos_token_id=1,
        pad_token_id=0, decoder_start_token_id=llm.config.decoder_start_token_id,
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    encoded = BaseModelOutput(last_hidden_state=states)
    with torch.no_grad():
        return llm.generate(
            encoder_outputs=encoded, attention_mask=mask, generation_config=settings, **more
        )


@pytest.mark.parametrize("lengths", [[LENGTH] * USERS, [LENGTH, 2, 4]])
def test_beams_and_their_scores_stay_the_same(lengths, model):
    llm, keys = model
    states = torch.randn(USERS, LENGTH, SIZE)
    mask = (torch.arange(LENGTH) < torch.tensor(lengths)[:, None]).long()
    rows = []
    for name, part in llm.named_modules():
        if name.endswith(keys):
            part.register_forward_hook(lambda _, inputs, out: rows.append(len(inputs[0])))
    expected = search(llm, states, mask)
    assert rows == [USERS * WIDTH] * 2  # once for every beam in each layer

    rows.clear()
    assert share_cross_attention(llm)
    with torch.no_grad():
        cache = precompute_cross_attention(llm, states, mask)
    found = search(llm, states, mask, past_key_values=cache)
    assert rows == [USERS] * 2
    assert torch.equal(found.sequences, expected.sequences)
    assert torch.allclose(found.sequences_scores, expected.sequences_scores, atol=1e-5)
    assert len({tuple(row) for row in found.sequences.tolist()}) > USERS


@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_attention_by_its_definition(with_mask, with_bias):
    heads, d = 2, 8
    query = torch.randn(USERS * WIDTH, heads, 1, d)
    key, value = torch.randn(2, USERS, heads, LENGTH, d)
    bias = torch.randn(1, heads, 1, LENGTH) if with_bias else torch.zeros(1)
    mask = torch.ones(USERS, LENGTH, dtype=torch.bool)
    if with_mask:
        mask[1, 2:] = False
    every = torch.arange(USERS).repeat_interleave(WIDTH)
    logits = query @ key[every].transpose(2, 3) * d**-0.5 + bias
    logits = logits.masked_fill(~mask[every][:, None, None], -torch.inf)
    expected = (logits.softmax(-1) @ value[every]).transpose(1, 2)

    module = nn.Module()
    module.is_causal = True  # must not matter: beams are no positions
    found, _ = beam_attention(
        module, query, key, value, mask[every][:, None, None] if with_mask else None,
        position_bias=bias if with_bias else None,
    )  # fmt: skip
    assert found.shape == (USERS * WIDTH, 1, heads, d)
    assert torch.allclose(found, expected, atol=1e-5)


def test_the_decoder_has_the_attention_of_beams():
    """Its configuration can be a copy of the model's, which transformers 5.17 leaves alone."""
    llm, _ = t5()
    assert share_cross_attention(llm)
    for part in (llm, llm.get_encoder(), llm.get_decoder()):
        assert part.config._attn_implementation == NAME


def test_other_kinds_of_attention_are_left_alone():
    llm, _ = t5(attn_implementation="eager")
    assert not share_cross_attention(llm)
    assert llm.config._attn_implementation == "eager"


def test_a_decoder_deeper_than_its_encoder():
    """``generate`` alone makes its cache as deep as the encoder, and fails."""
    llm, _ = t5(depth=1)
    states, mask = torch.randn(USERS, LENGTH, SIZE), torch.ones(USERS, LENGTH, dtype=torch.long)
    assert share_cross_attention(llm)
    with torch.no_grad():
        cache = precompute_cross_attention(llm, states, mask)
    assert len(search(llm, states, mask, past_key_values=cache).sequences) == USERS * WIDTH
