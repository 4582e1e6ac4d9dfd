"""From item ids to user vectors, computing nothing twice and nothing for padding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from recbole_lite.inference.blocks import Block, Blocks, read_blocks
from recbole_lite.inference.dense import Dense, fastest, pad_rows, round_up
from recbole_lite.model.lite_llm4rec import LiteLLM4Rec
from recbole_lite.model.pooling import UserPooling

# The first layer's query, key and value of every item are kept where they take no more than this.
FIRST_LAYER_BYTES = 256 * 2**20


def build_encoder(
    model: LiteLLM4Rec, dtype: torch.dtype = torch.float32, kind: type | None = None
) -> nn.Module:
    """Take what a trained model needs to encode histories.

    Parameters
    ----------
    model : LiteLLM4Rec
        In evaluation mode.
    dtype : torch.dtype
        Of the matrix products; sums and norms stay in float32.
    kind : type, optional
        Of the layers: Dense or PackedDense; default: the faster one here.

    Returns
    -------
    FastEncoder or PlainEncoder
        The latter for Recommendation LLMs other than T5's encoder and GPT-2.
    """
    ids = torch.arange(model.n_items, device=next(model.parameters()).device)
    tower = model.item_tower
    table = tower.table() if tower.item_llm is None else tower(ids)
    blocks = read_blocks(model.rec_llm.encoder, model.rec_llm.causal, model.max_seq_length)
    if blocks is None:
        return PlainEncoder(model, table)
    if kind is None:
        kind = fastest(blocks.layers[0].up, dtype)
    return FastEncoder(blocks, model.pooling, table, dtype, kind)


class PlainEncoder(nn.Module):
    """Any Recommendation LLM as it is, over ready item vectors."""

    def __init__(self, model: LiteLLM4Rec, table: torch.Tensor):
        super().__init__()
        self.register_buffer("table", table)
        self.rec_llm, self.pooling = model.rec_llm, model.pooling

    def forward(self, items: torch.Tensor, padded: bool = True) -> torch.Tensor:
        """See :meth:`FastEncoder.forward`."""
        mask = items != 0
        return self.pooling(self.rec_llm(F.embedding(items, self.table), mask), mask)


class FastEncoder(nn.Module):
    """T5's encoder or GPT-2 without padding, dropout, or anything that is known beforehand.

    Matrix products, norms and activations run over the items of all users in one row; only
    attention (under 1% of the work at these lengths) lays them out by user.

    Parameters
    ----------
    blocks : Blocks
    pooling : UserPooling
    table : torch.Tensor
        ``[n_items, d]``, item vectors as the first layer reads them; row 0 is padding.
    dtype : torch.dtype
        Of the matrix products.
    kind : type
        Of the layers that make them: Dense or PackedDense.
    """

    def __init__(
        self, blocks: Blocks, pooling: UserPooling, table: torch.Tensor, dtype, kind: type = Dense
    ):
        super().__init__()
        self.kind = kind
        self.norm, self.eps, self.heads = blocks.norm, blocks.eps, blocks.heads
        self.causal, self.pooling = blocks.causal, pooling
        self.register_buffer("table", table.contiguous())
        self.register_buffer("bias", blocks.bias.contiguous())
        self.register_buffer("positions", blocks.positions)
        self.layers = nn.ModuleList(
            _Layer(block, blocks, dtype, kind) for block in blocks.layers
        )
        self.register_buffer("scale", blocks.final[0])
        self.register_buffer("shift", blocks.final[1])
        width = blocks.layers[0].qkv[0].shape[1]
        fits = len(table) * width * table.element_size() <= FIRST_LAYER_BYTES
        # Without positions in the input, the first layer's projections depend on the item alone.
        first = self.layers[0].qkv(self._norm(table)) if self.positions is None and fits else None
        self.register_buffer("first", first)

    def forward(self, items: torch.Tensor, padded: bool = True) -> torch.Tensor:
        """User vectors.

        Parameters
        ----------
        items : torch.Tensor
            ``[B, L]`` internal item ids, 0 for padding, which stands behind; each row has at
            least one item.
        padded : bool
            Whether there may be padding.

        Returns
        -------
        torch.Tensor
            ``[B, d]``.
        """
        rows, length = items.shape
        mask = items != 0  # [B, L]
        flat, seen = items.flatten(), mask.flatten()
        if self.kind is not Dense:
            padded = padded or round_up(len(flat)) != len(flat)
        kept = seen.nonzero()[:, 0] if padded else None  # [N] of B * L places
        # For each of the B * L places the row that holds it among the N; anything for padding.
        row_of = (seen.long().cumsum(0) - 1).clamp_min(0) if padded else None
        if padded and self.kind is not Dense:
            kept = pad_rows(kept)
        ids = flat if kept is None else flat.index_select(0, kept)
        x = F.embedding(ids, self.table)  # [N, d]
        if self.positions is not None:
            places = torch.arange(length, device=items.device).expand(rows, length).flatten()
            x = x + F.embedding(
                places if kept is None else places.index_select(0, kept), self.positions
            )
        bias = self.bias[..., :length, :length]
        if padded and not self.causal:  # where it is causal, no item looks at what is behind it
            lowest = torch.finfo(bias.dtype).min
            bias = (
                bias
                + torch.zeros_like(mask, dtype=bias.dtype).masked_fill(~mask, lowest)[:, None, None]
            )
        for number, layer in enumerate(self.layers):
            if number == 0 and self.first is not None:
                qkv = F.embedding(ids, self.first)
            else:
                qkv = layer.qkv(self._norm(x))
            qkv = qkv if row_of is None else qkv.index_select(0, row_of)  # [B * L, 3 * width]
            q, k, v = qkv.view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
            mixed = mixed.transpose(1, 2).reshape(rows * length, -1)
            x = x + layer.out(mixed if kept is None else mixed.index_select(0, kept))
            x = x + layer.feed(self._norm(x))
        x = self._norm(x) * self.scale
        x = x if self.shift is None else x + self.shift
        x = x if row_of is None else x.index_select(0, row_of)
        return self.pooling(x.view(rows, length, -1), mask)

    def _norm(self, x: torch.Tensor) -> torch.Tensor:
        if self.norm == "rms":
            return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        return F.layer_norm(x, x.shape[-1:], eps=self.eps)


class _Layer(nn.Module):
    """The matrices of one layer."""

    def __init__(self, block: Block, blocks: Blocks, dtype: torch.dtype, kind: type):
        super().__init__()
        self.gate = blocks.activation if blocks.gated else None
        self.qkv, self.out, self.down = (
            kind(affine, dtype) for affine in (block.qkv, block.out, block.down)
        )
        self.up = kind(block.up, dtype, None if blocks.gated else blocks.activation)

    def feed(self, x: torch.Tensor) -> torch.Tensor:
        """Feed-forward part, ``[N, d]`` -> ``[N, d]``."""
        x = self.up(x)
        if self.gate is not None:
            gate, x = x.chunk(2, dim=-1)
            x = self.gate(gate) * x
        return self.down(x)
