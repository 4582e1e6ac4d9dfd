"""SDPA for encoders on a GPU: whether a mask hides anything is not looked up there."""

from __future__ import annotations

from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "sdpa_explicit_mask"


def explicit_mask(*args, allow_is_bidirectional_skip: bool = False, **kwargs):
    """Make transformers' mask, on a GPU always.

    transformers makes none where a batch has no padding, and the host has to wait for the GPU to
    know that. On a CPU this is kept.

    Returns
    -------
    torch.Tensor or None
        ``[B, 1, Q, K]`` bool.
    """
    padding = kwargs.get("attention_mask")
    can_look = padding is None or padding.device.type == "cpu"
    skip = allow_is_bidirectional_skip and can_look
    return sdpa_mask(*args, allow_is_bidirectional_skip=skip, **kwargs)


# Public extension points of transformers; nothing changes for models that do not ask for NAME.
AttentionInterface.register(NAME, sdpa_attention_forward)
AttentionMaskInterface.register(NAME, explicit_mask)


def use_explicit_mask(model: PreTrainedModel) -> PreTrainedModel:
    """Have a model pass SDPA a mask on every GPU batch; other attention stays as it is."""
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(NAME)
    return model
