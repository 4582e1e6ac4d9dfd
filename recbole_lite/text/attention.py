"""SDPA without host synchronisation, and without a mask where the kernel can be causal itself."""

from __future__ import annotations

from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "sdpa_explicit_mask"
CAUSAL = "sdpa_causal"


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


def causal_attention(module, query, key, value, attention_mask, *args, **kwargs):
    """SDPA in which no position looks ahead; the kernel is told so and reads no mask.

    With a mask of all pairs torch cannot choose its flash kernels. T5's bias by distance stays a
    mask to be added, which those kernels do not read. A mask that is given (of packed rows) is
    causal itself.
    """
    kwargs["is_causal"] = True
    return sdpa_attention_forward(module, query, key, value, attention_mask, *args, **kwargs)


# Public extension points of transformers; nothing changes for models that do not ask for a name.
AttentionInterface.register(NAME, sdpa_attention_forward)
AttentionMaskInterface.register(NAME, explicit_mask)
AttentionInterface.register(CAUSAL, causal_attention)  # without a function that makes masks


def set_attention(model: PreTrainedModel, name: str) -> None:
    """Set the attention of a model and of its parts.

    T5's encoder and decoder have configurations of their own, which transformers 5.17 leaves alone.
    """
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module.set_attn_implementation(name)


def use_explicit_mask(model: PreTrainedModel) -> PreTrainedModel:
    """Have a model pass SDPA a mask on every GPU batch; other attention stays as it is."""
    if model.config._attn_implementation == "sdpa":
        set_attention(model, NAME)
    return model
