"""Transfer of batches to a GPU, without waiting for it and without copies back."""

from __future__ import annotations

import torch
from recbole.data.interaction import Interaction

_SOURCE = "_recbole_lite_source"  # attribute of a moved tensor


def tensor_to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Move a CPU tensor to `device`; :func:`to_host` gives its values without a copy back.

    A blocking copy would wait for all that the device has still to do, and so would, on CUDA, a
    large one out of memory that is not pinned.
    """
    sent = values.pin_memory() if device.type == "cuda" else values
    copy = sent.to(device, non_blocking=True)
    if copy is not values and not copy.is_inference():  # inference tensors have no version
        setattr(copy, _SOURCE, (values, copy._version))
    return copy


def batch_to_device(batch: Interaction, device: torch.device) -> Interaction:
    """Move the fields of a batch, each as :func:`tensor_to_device`."""
    return Interaction({field: tensor_to_device(batch[field], device) for field in batch})


def to_host(values: torch.Tensor) -> torch.Tensor:
    """Give values on the CPU.

    A tensor that :func:`tensor_to_device` has made, and nobody has changed, is not copied. What
    decides the shape of other tensors (how many targets, the longest row) is to be read from here:
    read from the device, it makes the host wait.
    """
    source, version = getattr(values, _SOURCE, (None, None))
    if source is not None and version == values._version:
        return source
    return values.cpu()
