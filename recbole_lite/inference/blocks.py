"""Weights of a Recommendation LLM, read out of Hugging Face's modules in one common form.

T5's encoder and GPT-2 are both stacks of `x + attention(norm(x))` and `x + feed_forward(norm(x))`.
What is constant at inference is worked out once: the scale of a norm goes into the matrix behind
it, query, key and value share one matrix, the position bias is a table.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import GPT2Model
from transformers.activations import ACT2FN
from transformers.models.t5.modeling_t5 import T5Stack

# Matrix [in, out] and bias [out], or None.
Affine = tuple[torch.Tensor, torch.Tensor | None]


@dataclass
class Block:
    """One layer: ``qkv`` gives ``[3 * heads * head_size]``, query already scaled."""

    qkv: Affine
    out: Affine
    up: Affine  # with a gate: both matrices side by side, the activated one first
    down: Affine


@dataclass
class Blocks:
    """A stack of layers.

    Attributes
    ----------
    norm : {"rms", "layer"}
        Kind of every norm; ``eps`` its epsilon.
    heads : int
        Of attention, in every layer.
    bias : torch.Tensor
        ``[1, heads or 1, L, L]``, added to the attention scores; -inf where a position is not
        seen. The bias of a shorter sequence is its corner.
    causal : bool
        Whether no position sees what is behind it.
    activation : nn.Module
    gated : bool
        Whether the feed-forward part is ``act(x A) * (x B)``.
    positions : torch.Tensor or None
        ``[L, d]``, added to the input.
    final : tuple of torch.Tensor
        Scale ``[d]`` and shift ``[d]`` (or None) of the norm at the end.
    layers : list of Block
    """

    norm: str
    eps: float
    heads: int
    bias: torch.Tensor
    causal: bool
    activation: nn.Module
    gated: bool
    positions: torch.Tensor | None
    final: Affine
    layers: list[Block] = field(default_factory=list)


def read_blocks(encoder: nn.Module, causal: bool, max_length: int) -> Blocks | None:
    """Read an encoder.

    Parameters
    ----------
    encoder : nn.Module
        Of a :class:`~recbole_lite.model.rec_llm.RecommendationLLM`.
    causal : bool
        Whether a causal mask is given to it.
    max_length : int
        Longest sequence.

    Returns
    -------
    Blocks or None
        None: not T5's encoder or GPT-2, or a variant of them that is not known here.
    """
    if isinstance(encoder, GPT2Model):
        return _read_gpt2(encoder, max_length)
    stacks = [module for module in encoder.modules() if isinstance(module, T5Stack)]
    if len(stacks) == 1 and not stacks[0].is_decoder:
        return _read_t5(stacks[0], causal, max_length)
    return None


def _read_t5(stack: T5Stack, causal: bool, max_length: int) -> Blocks:
    first = stack.block[0].layer[0].SelfAttention
    bias = first.compute_bias(max_length, max_length)  # [1, heads, L, L]
    if causal:
        bias = bias + _causal(max_length, bias)
    blocks = Blocks(
        norm="rms",
        eps=stack.config.layer_norm_epsilon,
        heads=first.n_heads,
        bias=bias,
        causal=causal,
        activation=ACT2FN[stack.config.dense_act_fn],
        gated=stack.config.is_gated_act,
        positions=None,
        final=(stack.final_layer_norm.weight, None),
    )
    for block in stack.block:
        attention, feed = block.layer[0].SelfAttention, block.layer[1].DenseReluDense
        scale, feed_scale = block.layer[0].layer_norm.weight, block.layer[1].layer_norm.weight
        qkv = torch.cat([attention.q.weight, attention.k.weight, attention.v.weight])
        up = torch.cat([feed.wi_0.weight, feed.wi_1.weight]) if blocks.gated else feed.wi.weight
        blocks.layers.append(
            Block(
                qkv=((qkv * scale).T, None),
                out=(attention.o.weight.T, None),
                up=((up * feed_scale).T, None),
                down=(feed.wo.weight.T, None),
            )
        )
    return blocks


def _read_gpt2(model: GPT2Model, max_length: int) -> Blocks | None:
    config = model.config
    if config.add_cross_attention:
        return None
    mask = torch.zeros(1, 1, max_length, max_length)
    blocks = Blocks(
        norm="layer",
        eps=config.layer_norm_epsilon,
        heads=config.num_attention_heads,
        bias=mask + _causal(max_length, mask),
        causal=True,
        activation=ACT2FN[config.activation_function],
        gated=False,
        positions=model.wpe.weight[:max_length],
        final=(model.ln_f.weight, model.ln_f.bias),
    )
    d = config.hidden_size
    for block in model.h:
        qkv, bias = _behind(block.ln_1, block.attn.c_attn)
        scale = torch.ones(3 * d, device=qkv.device)
        scale[:d] = block.attn.scaling  # queries
        blocks.layers.append(
            Block(
                qkv=(qkv * scale, bias * scale),
                out=(block.attn.c_proj.weight, block.attn.c_proj.bias),
                up=_behind(block.ln_2, block.mlp.c_fc),
                down=(block.mlp.c_proj.weight, block.mlp.c_proj.bias),
            )
        )
    return blocks


def _behind(norm: nn.LayerNorm, dense: nn.Module) -> Affine:
    """A matrix (GPT-2's, ``[in, out]``) with the scale and shift of the norm before it."""
    return norm.weight[:, None] * dense.weight, norm.bias @ dense.weight + dense.bias


def _causal(length: int, like: torch.Tensor) -> torch.Tensor:
    """``[L, L]``: -inf above the diagonal, 0 elsewhere."""
    return torch.full((length, length), -torch.inf, device=like.device).triu(1)
