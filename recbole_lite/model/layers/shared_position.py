"""One position for all candidates (``task: topn``): they have no order."""

from __future__ import annotations

import inspect

import torch
import torch.nn.functional as F
from torch import nn

from recbole_lite.text.llm_loading import first_position
from recbole_lite.utils.errors import ConfigError


class _SharedPositionBias(nn.Embedding):
    """Relative attention bias (T5, MPNet) in which the last `n_candidates` positions are one.

    The input is the bucket of each pair of positions, ``[L, L]``; every candidate gets those of
    the first candidate.
    """

    n_candidates = 0

    def forward(self, buckets: torch.Tensor) -> torch.Tensor:
        """Biases ``[L, L, heads]`` (MPNet: with a leading dimension)."""
        if self.n_candidates:
            length = buckets.shape[-1]
            first = length - self.n_candidates
            position = torch.arange(length, device=buckets.device).clamp_max(first)
            buckets = buckets[..., position, :][..., position]
        return F.embedding(buckets, self.weight)


class SharedPosition:
    """Gives the last inputs of an encoder one position, the next after the other inputs.

    In models with a relative attention bias the bias module is replaced, with the same weights and
    names; models with absolute positions get ``position_ids``.

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
        self.first = first_position(encoder)

    def encoder_arguments(self, mask: torch.Tensor, n_candidates: int) -> dict[str, torch.Tensor]:
        """Set the number of candidates; further arguments of the encoder for a ``[B, L]`` mask."""
        for bias in self.biases:
            bias.n_candidates = n_candidates
        if not n_candidates or not self.numbers_positions:
            return {}
        others = mask.long()
        others[:, -n_candidates:] = 0
        # 0, 1 ... for the others, padding left out; then one number for all candidates.
        return {"position_ids": self.first + others.cumsum(1) - others}


def _replace(module: nn.Module) -> _SharedPositionBias:
    weight = module.relative_attention_bias.weight
    bias = _SharedPositionBias(*weight.shape, _weight=weight.data)
    bias.weight = weight  # the parameter itself
    module.relative_attention_bias = bias
    return bias


@torch.no_grad()
def check_permutation_equivariance(encode, size: int, name: str) -> None:
    """Test whether permuting the candidates permutes an encoder's outputs.

    Parameters
    ----------
    encode : callable
        ``(vectors [B, L, d], mask [B, L], n_candidates) -> [B, L, d]``, dropout off.
    size : int
        d.
    name : str
        Name of the encoder in messages.

    Raises
    ------
    ConfigError
        It does not: the model's learned positions cannot be set, or it only attends to the past.
    """
    vectors = torch.randn(1, 6, size, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([0, 1, 4, 2, 5, 3])
    mask = torch.ones(1, 6, dtype=torch.bool)
    one, other = encode(vectors, mask, 4), encode(vectors[:, order], mask, 4)
    if not torch.allclose(one[:, order], other, rtol=1e-3, atol=1e-3 * float(one.abs().max())):
        raise ConfigError(
            f"rec_llm {name!r} cannot read candidates without an order, so that scores would "
            "depend on it (task: topn); take an encoder such as t5-small or bert-base-uncased, or "
            "set rec_llm_causal: True"
        )
