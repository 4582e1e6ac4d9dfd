"""Positions for an encoder that reads a set: the candidates of ``task: topn`` have no order."""

from __future__ import annotations

import inspect

import torch
import torch.nn.functional as F
from torch import nn

from recbole_lite.utils.errors import ConfigError


class _OnePlaceBias(nn.Embedding):
    """Bias by distance (T5, MPNet) in which the last `together` positions are one.

    It reads the buckets of all pairs of positions, ``[L, L]``, and takes those of the first
    candidate for every candidate.
    """

    together = 0

    def forward(self, buckets: torch.Tensor) -> torch.Tensor:
        """Biases ``[L, L, heads]`` (MPNet: with a leading dimension)."""
        if self.together:
            length = buckets.shape[-1]
            place = torch.arange(length, device=buckets.device).clamp_max(length - self.together)
            buckets = buckets[..., place, :][..., place]
        return F.embedding(buckets, self.weight)


class SharedPosition:
    """Makes the last inputs of an encoder stand at one position, just behind the others.

    Models with a bias by distance are given another one, with the same weights and names;
    models with numbered positions are told the numbers.

    Parameters
    ----------
    encoder : transformers model
        Its ``relative_attention_bias`` is replaced.
    """

    def __init__(self, encoder: nn.Module):
        self.biases = [
            _replace(module)
            for module in encoder.modules()
            if isinstance(getattr(module, "relative_attention_bias", None), nn.Embedding)
        ]
        takes = inspect.signature(encoder.forward).parameters
        self.numbers_positions = not self.biases and "position_ids" in takes
        self.first = _first_number(encoder)

    def arguments(self, mask: torch.Tensor, together: int) -> dict[str, torch.Tensor]:
        """What the encoder has to be told before it reads inputs with this mask, ``[B, L]``."""
        for bias in self.biases:
            bias.together = together
        if not together or not self.numbers_positions:
            return {}
        others = mask.long()
        others[:, -together:] = 0
        # 0, 1 ... for the others, padding left out; then one number for all candidates.
        places = others.cumsum(1) - others
        return {"position_ids": self.first + places}


def _replace(module: nn.Module) -> _OnePlaceBias:
    weight = module.relative_attention_bias.weight
    bias = _OnePlaceBias(*weight.shape, _weight=weight.data)
    bias.weight = weight  # the parameter itself
    module.relative_attention_bias = bias
    return bias


def _first_number(encoder: nn.Module) -> int:
    """Number of the first position: RoBERTa and its kin count from behind the padding's."""
    for name, module in encoder.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0


@torch.no_grad()
def check_no_order(encode, size: int, name: str) -> None:
    """Try whether an encoder gives the same for candidates in another order.

    Parameters
    ----------
    encode : callable
        ``(vectors [B, L, d], mask [B, L], together) -> [B, L, d]``, dropout off.
    size : int
        d.
    name : str
        What messages call the encoder.

    Raises
    ------
    ConfigError
        It does not: a model with learned positions that cannot be told, or one that looks back
        only.
    """
    vectors = torch.randn(1, 6, size, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([0, 1, 4, 2, 5, 3])
    mask = torch.ones(1, 6, dtype=torch.bool)
    one, other = encode(vectors, mask, 4), encode(vectors[:, order], mask, 4)
    if not torch.allclose(one[:, order], other, rtol=1e-3, atol=1e-3 * float(one.abs().max())):
        raise ConfigError(
            f"rec_llm {name!r} cannot read candidates without an order, so that their places would "
            "count (task: topn); take an encoder such as t5-small or bert-base-uncased, or set "
            "rec_llm_causal: True"
        )
