"""From item ids to user vectors, computing nothing twice and nothing for padding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from recbole_lite.inference.blocks import Block, Blocks, read_blocks
from recbole_lite.inference.dense import Dense, fastest, round_up
from recbole_lite.inference.layout import Layout
from recbole_lite.model.lite_llm4rec import LiteLLM4Rec
from recbole_lite.model.pooling import UserPooling

# The first layer's query, key and value of every item are kept where they take no more than this.
FIRST_LAYER_BYTES = 256 * 2**20
# A history up to this long that comes alone is computed with as many rows as it has items, since
# each row too many costs a thirtieth of the time; of longer ones the share is smaller, and oneDNN
# would prepare code for too many shapes.
EXACT_ROWS = 32


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
        The latter for Recommendation LLMs other than T5's encoder and GPT-2, and for those that
        read sets (``task: topn``), whose positions are others.
    """
    ids = torch.arange(model.n_items, device=next(model.parameters()).device)
    tower = model.item_tower
    table = tower.table() if tower.item_llm is None else tower(ids)
    reader, blocks = model.rec_llm, None
    if reader.one_place is None:
        blocks = read_blocks(reader.encoder, reader.causal, model.max_seq_length)
    if blocks is None:
        return PlainEncoder(model, table)
    if kind is None:
        kind = fastest(blocks.layers[0].up, dtype)
    return FastEncoder(blocks, model.pooling, table, dtype, kind)


class PlainEncoder(nn.Module):
    """Any Recommendation LLM as it is, over ready item vectors."""

    kind = Dense

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
    attention (under 1% of the work at these lengths) lays them out by user. Where the last output
    alone is read (``user_pooling: last``), the last layer makes no other.

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
        self.kind, self.exact_rows = kind, EXACT_ROWS
        self.norm, self.eps, self.heads = blocks.norm, blocks.eps, blocks.heads
        self.causal, self.last_alone = blocks.causal, pooling.kind == "last"
        self.register_buffer("table", table.contiguous())
        self.register_buffer("bias", blocks.bias.contiguous())
        self.register_buffer("positions", blocks.positions)
        self.layers = nn.ModuleList(_Layer(block, blocks, dtype, kind) for block in blocks.layers)
        # Row t - 1: what the outputs of a history of t items count for, [L, L].
        length = blocks.bias.shape[-1]
        ones = torch.ones(length, length, device=table.device)
        every = torch.diag(ones[0]).expand(length, -1, -1)
        self.register_buffer("weights", pooling(every, ones.tril().bool()).contiguous())
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
        if not padded and len(items) == 1 and items.shape[1] <= self.exact_rows:
            return self._one(items[0])
        layout = Layout(items, padded, rounds=self.kind is not Dense)
        ids = layout.pack(items.flatten())  # [N]
        x = F.embedding(ids, self.table)  # [N, d]
        if self.positions is not None:
            x = x + F.embedding(layout.places(), self.positions)
        bias = self.bias[..., : layout.length, : layout.length]
        bias = self._without_padding(bias, layout)
        for number, layer in enumerate(self.layers):
            if number == 0 and self.first is not None:
                qkv = F.embedding(ids, self.first)  # [N, 3 * width]
            else:
                qkv = layer.qkv(self._norm(x))
            heads = layout.unpack(qkv).view(layout.rows, layout.length, 3, self.heads, -1)
            q, k, v = heads.permute(2, 0, 3, 1, 4)  # [B, heads, L, head_size] each
            if number == len(self.layers) - 1 and self.last_alone:
                return self._last(layer, layout, x, (q, k, v))
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
            mixed = mixed.transpose(1, 2).reshape(layout.mask.numel(), -1)  # [B * L, width]
            x = x + layer.out(layout.pack(mixed))
            x = x + layer.feed(self._norm(x))
        x = layout.unpack(self._finish(x)).view(layout.rows, layout.length, -1)
        if not layout.padded:
            return self.weights[layout.length - 1, : layout.length] @ x
        weights = self.weights[layout.mask.sum(1) - 1, : layout.length]  # [B, L]
        return (weights.unsqueeze(1) @ x).squeeze(1)

    def _one(self, ids: torch.Tensor) -> torch.Tensor:
        """:meth:`forward` for one history ``[L]`` without padding, in fewer and smaller steps."""
        length = len(ids)
        x = F.embedding(ids, self.table)  # [L, d]
        if self.positions is not None:
            x = x + self.positions[:length]
        bias = self.bias[0, :, :length, :length].expand(self.heads, -1, -1)
        for number, layer in enumerate(self.layers):
            if number == 0 and self.first is not None:
                qkv = F.embedding(ids, self.first)  # [L, 3 * width]
            else:
                qkv = layer.qkv(self._norm(x))
            # [heads, L, head_size] each
            q, k, v = qkv.view(length, 3, self.heads, -1).permute(1, 2, 0, 3).unbind()
            if number == len(self.layers) - 1 and self.last_alone:
                q, bias, x = q[:, -1:], bias[:, -1:], x[-1:]
            # For so few positions the fused attention takes longer than its parts.
            chances = torch.baddbmm(bias, q, k.transpose(1, 2)).softmax(-1)
            mixed = torch.bmm(chances, v).transpose(0, 1).reshape(len(x), -1)
            x = x + layer.out(mixed)
            x = x + layer.feed(self._norm(x))
        x = self._finish(x)
        return x if self.last_alone else self.weights[length - 1 : length, :length] @ x

    def warm_up(self, items: int) -> None:
        """Run every kind of product with every number of rows that up to `items` items make."""
        layer = self.layers[0]  # the others have the same shapes
        if self.kind is not Dense:
            counts = {round_up(count) for count in range(1, items + 1)}
            counts.update(range(1, min(self.bias.shape[-1], self.exact_rows) + 1))
            for rows in sorted(counts):
                for part in (layer.qkv, layer.out, layer.up, layer.down):
                    part(torch.zeros(rows, part.shape[0]))

    def _last(self, layer, layout: Layout, x, qkv) -> torch.Tensor:
        """The rest of the last layer where only each history's last output is read, ``[B, d]``."""
        places, steps = layout.last_places()  # [B] each
        q, k, v = qkv
        q = q.transpose(1, 2).flatten(0, 1).index_select(0, places).unsqueeze(2)
        # [heads or 1, B, L] -> [B, heads or 1, 1, L]
        seen = self.bias[0].index_select(1, steps)[..., : layout.length]
        seen = self._without_padding(seen.transpose(0, 1).unsqueeze(2), layout)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=1.0)
        x = layout.unpack(x).index_select(0, places) + layer.out(mixed.flatten(1))
        return self._finish(x + layer.feed(self._norm(x)))

    def _without_padding(self, bias: torch.Tensor, layout: Layout) -> torch.Tensor:
        """``[1 or B, heads or 1, L or 1, L]``, with what hides padding added."""
        if not layout.padded or self.causal:  # causal: no item looks at the padding behind it
            return bias
        lowest = torch.finfo(bias.dtype).min
        padding = torch.zeros_like(layout.mask, dtype=bias.dtype).masked_fill(~layout.mask, lowest)
        return bias + padding[:, None, None]

    def _finish(self, x: torch.Tensor) -> torch.Tensor:
        x = self._norm(x) * self.scale
        return x if self.shift is None else x + self.shift

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
