"""Cross-attention of a beam search: the beams of a user read one set of keys and values.

``generate`` hands the encoder's output to the decoder once for every beam, which works out the
same keys and values 20 times, keeps them 20 times, and copies them at every step.
"""

from __future__ import annotations

import torch
from transformers import AttentionInterface, DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface

from recbole_lite.text.attention import mask_without_looking, set_attention

NAME = "sdpa_of_beams"


class KeysOfUsers(EncoderDecoderCache):
    """Cache whose cross-attention part has a row for each user, not for each beam."""

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Let beams go on from others of the same user, who share what the encoder said."""
        self.self_attention_cache.reorder_cache(beam_idx)


def attention_of_beams(
    module, query, key, value, attention_mask, *args, **kwargs
) -> tuple[torch.Tensor, None]:
    """SDPA; where there are fewer keys than queries, the beams of a user are its queries.

    Parameters
    ----------
    query : torch.Tensor
        ``[B * W, heads, 1, d]``, the W beams of a user one after the other.
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
AttentionInterface.register(NAME, attention_of_beams)
AttentionMaskInterface.register(NAME, mask_without_looking)


def share_keys(model: PreTrainedModel) -> bool:
    """Make a model's beams share keys; False where its attention is of another kind than SDPA."""
    if model.config._attn_implementation != "sdpa":
        return False
    set_attention(model, NAME)
    return True


def keys_of_users(model: PreTrainedModel, states: torch.Tensor, mask: torch.Tensor) -> KeysOfUsers:
    """Work out the cross-attention's keys and values of a batch.

    Parameters
    ----------
    model : transformers model
        Encoder-decoder that :func:`share_keys` has prepared.
    states, mask : torch.Tensor
        Output of the encoder ``[B, T, d]`` and its mask ``[B, T]``.
    """
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    start = torch.full((len(states), 1), model.config.decoder_start_token_id, device=states.device)
    # A step of the decoder fills the cache, whatever its architecture calls its layers.
    model.get_decoder()(
        input_ids=start,
        encoder_hidden_states=states,
        encoder_attention_mask=mask,
        past_key_values=cache,
        use_cache=True,
    )
    return KeysOfUsers(DynamicCache(), cache.cross_attention_cache)
