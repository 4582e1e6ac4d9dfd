"""The module that is exported: a trained model's scores, with an encoder that skips padding.

The items of all histories are packed into one row, ``[1, N, d]``, so that matrix products, norms
and activations compute nothing for padding; only attention uses the layout by user. This works for
any Hugging Face encoder whose attention goes through transformers' AttentionInterface and whose
positions come from ``position_ids`` or T5's relative bias. Other encoders keep the padding.
"""

from __future__ import annotations

import inspect
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface
from transformers.pytorch_utils import Conv1D

from recbole_lite.model.abstract_recommender import NextItemModel
from recbole_lite.text.attention import set_attention
from recbole_lite.text.lora import merge_lora

ATTENTION_NAME = "attention_of_packed_histories"
# The first layer's query, key and value of every item are precomputed up to this size.
FIRST_LAYER_BYTES = 64 * 2**20
_LOWEST = torch.finfo(torch.float32).min


@dataclass
class Packing:
    """Two layouts of the items of B histories: packed ``[N, ...]`` and by user ``[B, L, ...]``."""

    ids: torch.Tensor  # [N], internal
    positions: torch.Tensor  # [N]: position of an item in its history, from 0
    users: torch.Tensor  # [N]: row of its history
    slots: torch.Tensor  # [B, L]: index among the N; arbitrary for padding
    lengths: torch.Tensor  # [B]

    @classmethod
    def from_padded(cls, items: torch.Tensor) -> Packing:
        """Packing of histories ``[B, L]``, padded with 0 on the right."""
        mask = items != 0
        lengths = mask.sum(1)
        users, positions = mask.nonzero(as_tuple=True)
        first = lengths.cumsum(0) - lengths
        slots = first[:, None] + torch.arange(items.shape[1])
        return cls(items[mask], positions, users, slots.clamp_max(len(users) - 1), lengths)

    @property
    def mask(self) -> torch.Tensor:
        """``[B, L]``, true for items, false for padding."""
        return torch.arange(self.slots.shape[1]) < self.lengths[:, None]

    def unpack(self, rows: torch.Tensor) -> torch.Tensor:
        """``[N, d]`` -> ``[B, L, d]``; arbitrary values at padding."""
        return F.embedding(self.slots, rows)

    def pack(self, by_user: torch.Tensor) -> torch.Tensor:
        """``[B, L, d]`` -> ``[N, d]``."""
        places = self.users * self.slots.shape[1] + self.positions
        return F.embedding(places, by_user.flatten(0, 1))


def _packed_attention(
    module, query, key, value, attention_mask, scaling=None, packing=None, **kwargs
) -> tuple[torch.Tensor, None]:
    """Attention of each item to those of its own history.

    Parameters
    ----------
    query, key, value : torch.Tensor
        ``[1, heads, N, size]``; keys and values may have fewer heads.
    attention_mask : torch.Tensor
        ``[B or 1, heads or 1, L or 1, L]``, added to the scores. It includes T5's bias by the
        positions in the histories; T5's own ``position_bias`` (of N positions) is ignored.
    packing : Packing

    Returns
    -------
    (torch.Tensor, None)
        ``[1, N, heads, size]``.
    """
    size = query.shape[3]
    rows = [states.transpose(1, 2).flatten(2)[0] for states in (query, key, value)]  # [N, width]
    if hasattr(module, "item_projections"):
        rows = F.embedding(packing.ids, module.item_projections).chunk(3, -1)
    # [B, heads, L, size] each
    query, key, value = (packing.unpack(x).unflatten(2, (-1, size)).transpose(1, 2) for x in rows)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    scores = query @ key.transpose(2, 3)  # [B, heads, L, L]
    if scaling != 1.0:
        scores = scores * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    mixed = (scores + attention_mask).softmax(-1) @ value  # [B, heads, L, size]
    packed = packing.pack(mixed.transpose(1, 2).flatten(2))  # [N, heads * size]
    return packed.view(1, -1, mixed.shape[1], size), None


# Public extension points of transformers; nothing changes for models with another implementation.
AttentionInterface.register(ATTENTION_NAME, _packed_attention)
AttentionMaskInterface.register(ATTENTION_NAME, lambda *args, **kwargs: None)


class ScoringModule(nn.Module):
    """Packed histories -> scores of all items.

    Parameters
    ----------
    model : NextItemModel
        LiteLLM4Rec or ItemLM; set to evaluation mode, otherwise left as it is.

    Attributes
    ----------
    packs : bool
        Whether the encoder runs on packed histories.
    """

    @torch.no_grad()
    def __init__(self, model: NextItemModel):
        super().__init__()
        model.eval()
        self.reader = merge_lora(deepcopy(model.reader)).cpu()
        self.pooling, self.cosine = deepcopy(model.pooling).cpu(), model.scale is not None
        self.register_buffer("table", model.item_table().detach().cpu())
        self.register_buffer("head", model.score_head().detach().cpu().T.contiguous())
        encoder = self.reader.encoder
        if self.reader.shared_position is not None:  # no candidates stand behind the histories
            self.reader.shared_position.encoder_arguments(torch.ones(1, 1), n_candidates=0)
        self.takes_positions = "position_ids" in inspect.signature(encoder.forward).parameters
        # GPT-2 and similar decoders are always causal.
        decodes = any(getattr(module, "is_causal", False) for module in encoder.modules())
        self.causal = self.reader.causal or decodes
        self.register_buffer("bias", _bias(encoder, self.causal, model.max_seq_length))
        _simplify(encoder)
        self.packs = self._try_packing(model.max_seq_length)
        if self.packs:
            self._keep_first_layer()

    def forward(self, ids, positions, users, slots, lengths) -> torch.Tensor:
        """Scores ``[B, n_items]``, -inf for padding (id 0); arguments: fields of `Packing`."""
        packing = Packing(ids, positions, users, slots, lengths)
        vectors = F.embedding(ids, self.table)  # [N, d]
        if self.packs:
            hidden = packing.unpack(self._packed(vectors, packing))
        else:
            hidden = self.reader(packing.unpack(vectors), packing.mask)
        h_u = self.pooling(hidden, packing.mask)
        if self.cosine:
            h_u = F.normalize(h_u, dim=-1)
        return F.pad(h_u @ self.head, (1, 0), value=-torch.inf)

    def _packed(self, vectors: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Outputs of the encoder, ``[N, d]`` -> ``[N, d]``."""
        length = packing.slots.shape[1]
        bias = self.bias[..., :length, :length]
        if not self.causal:  # a causal encoder never attends to the padding on the right
            bias = bias + torch.where(packing.mask, 0.0, _LOWEST)[:, None, None]
        numbers = {"position_ids": packing.positions[None]} if self.takes_positions else {}
        output = self.reader.encoder(
            inputs_embeds=vectors[None], attention_mask=bias, packing=packing, **numbers
        )
        return output.last_hidden_state[0]

    def _try_packing(self, max_length: int) -> bool:
        """Whether the packed encoder gives the same outputs as the padded one."""
        encoder = self.reader.encoder
        generator = torch.Generator().manual_seed(0)
        lengths = torch.arange(1, min(max_length, 5) + 1)
        items = torch.randint(1, len(self.table), (len(lengths), len(lengths)), generator=generator)
        packing = Packing.from_padded(items * (torch.arange(len(lengths)) < lengths[:, None]))
        vectors = F.embedding(packing.ids, self.table)
        expected = packing.pack(self.reader(packing.unpack(vectors), packing.mask))
        usual = encoder.config._attn_implementation
        try:
            set_attention(encoder, ATTENTION_NAME)
            found = self._packed(vectors, packing)
            near = 1e-4 * float(expected.abs().max())
            if torch.allclose(found, expected, rtol=1e-4, atol=near):
                return True
        except Exception:  # architectures fail differently on an unknown argument
            pass
        set_attention(encoder, usual)
        return False

    def _keep_first_layer(self) -> None:
        """Precompute the projections of T5's first layer, which depend on the item alone."""
        for layer in self.reader.encoder.modules():
            attention = getattr(layer, "SelfAttention", None)
            if not getattr(attention, "has_relative_attention_bias", False):
                continue
            if len(self.table) * 3 * attention.inner_dim * 4 <= FIRST_LAYER_BYTES:
                x = layer.layer_norm(self.table)
                known = torch.cat([attention.q(x), attention.k(x), attention.v(x)], -1)
                attention.register_buffer("item_projections", known)  # [n_items, 3 * width]
            return


def _bias(encoder: nn.Module, causal: bool, length: int) -> torch.Tensor:
    """Bias ``[1, heads or 1, length, length]`` of attention scores: T5's and the causal mask."""
    bias = torch.zeros(1, 1, length, length)
    for module in encoder.modules():
        if getattr(module, "has_relative_attention_bias", False):
            bias = module.compute_bias(length, length)
    if causal:
        ahead = torch.ones(length, length, dtype=torch.bool).triu(1)
        bias = bias.masked_fill(ahead, _LOWEST)
    return bias


class _MatMul(nn.Module):
    """A linear layer with its weight in the layout of ONNX's MatMul, ``[in, out]``."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None):
        super().__init__()
        self.register_buffer("weight", weight.detach().contiguous())
        self.register_buffer("bias", None if bias is None else bias.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., in]`` -> ``[..., out]``."""
        x = x @ self.weight
        return x if self.bias is None else x + self.bias


class _RMSNorm(nn.Module):
    """RMS norm of T5 and Llama, by operators that onnxruntime fuses into one."""

    def __init__(self, weight: torch.Tensor, eps: float):
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", weight.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., d]``."""
        return self.weight * (x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


def _simplify(module: nn.Module) -> None:
    """Replace layers, in place, by forms that export to fewer operators."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, _MatMul(child.weight.T, child.bias))
        elif isinstance(child, Conv1D):  # GPT-2's: [in, out] already
            setattr(module, name, _MatMul(child.weight, child.bias))
        elif hasattr(child, "variance_epsilon") and hasattr(child, "weight"):
            setattr(module, name, _RMSNorm(child.weight, child.variance_epsilon))
        else:
            _simplify(child)
