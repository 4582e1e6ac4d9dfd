"""Cross-attention of a beam search: the beams of a user share one set of keys and values.

``generate`` passes the encoder's output to the decoder once for every beam, which computes the
same keys and values 20 times, stores them 20 times, and copies them at every step.
"""

from __future__ import annotations

import torch
from transformers import AttentionInterface, DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface

from recbole_lite.text.attention import mask_without_looking, set_attention

NAME = "sdpa_shared_cross_attention"


class SharedCrossAttentionCache(EncoderDecoderCache):
    """Cache whose cross-attention part has a row for each user, not for each beam."""

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Reorder beams; they stay with their user, whose cross-attention entries are shared."""
        self.self_attention_cache.reorder_cache(beam_idx)


def beam_attention(
    module, query, key, value, attention_mask, *args, **kwargs
) -> tuple[torch.Tensor, None]:
    """SDPA; with fewer key rows than query rows, a user's beams are the queries of one call.

    Parameters
    ----------
    query : torch.Tensor
        ``[B * W, heads, 1, d]``, the W beams of a user in successive rows.
    key, value : torch.Tensor
        ``[B, heads, T, d]``; with B * W rows it is plain SDPA.
    attention_mask : torch.Tensor or None
        ``[B * W, 1, 1, T]``, the same for all beams of a user.

    Returns
    -------
    (torch.Tensor, None)
        ``[B * W, 1, heads, d]``.
    """
    rows, users = len(query), len(key)
    if rows == users:
        return sdpa_attention_forward(module, query, key, value, attention_mask, *args, **kwargs)
    width = rows // users
    query = query.unflatten(0, (users, width)).squeeze(3).transpose(1, 2)  # [B, heads, W, d]
    if attention_mask is not None:
        attention_mask = attention_mask[::width]
    kwargs["is_causal"] = False
    found, _ = sdpa_attention_forward(module, query, key, value, attention_mask, *args, **kwargs)
    return found.flatten(0, 1).unsqueeze(1), None


# Public extension points of transformers; nothing changes for models that do not ask for NAME.
AttentionInterface.register(NAME, beam_attention)
AttentionMaskInterface.register(NAME, mask_without_looking)


def share_cross_attention(model: PreTrainedModel) -> bool:
    """Share cross-attention among a model's beams; False where its attention is not SDPA."""
    if model.config._attn_implementation != "sdpa":
        return False
    set_attention(model, NAME)
    return True


def precompute_cross_attention(
    model: PreTrainedModel, states: torch.Tensor, mask: torch.Tensor
) -> SharedCrossAttentionCache:
    """Compute the cross-attention's keys and values of a batch.

    Parameters
    ----------
    model : transformers model
        Encoder-decoder prepared by :func:`share_cross_attention`.
    states, mask : torch.Tensor
        Output of the encoder ``[B, T, d]`` and its mask ``[B, T]``.
    """
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    start = torch.full((len(states), 1), model.config.decoder_start_token_id, device=states.device)
    # One step of the decoder fills the cache, whatever the architecture's layers are called.
    model.get_decoder()(
        input_ids=start,
        encoder_hidden_states=states,
        encoder_attention_mask=mask,
        past_key_values=cache,
        use_cache=True,
    )
    return SharedCrossAttentionCache(DynamicCache(), cache.cross_attention_cache)
