"""Vectors of items and users whose products are a model's scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from recbole_lite.data.device_transfer import tensor_to_device
from recbole_lite.inference import ranking
from recbole_lite.utils.errors import RequestError


@torch.no_grad()
def item_vectors(model: torch.nn.Module) -> np.ndarray:
    """Vectors of all items without padding, ``[n_items - 1, d]`` float32.

    A bias of the items is a last component.
    """
    if hasattr(model, "score_head"):  # LiteLLM4Rec, ItemLM
        return model.score_head().float().cpu().numpy()
    vectors = model.item_embedding.weight[: model.n_items]
    bias = getattr(model, "output_bias", None)
    if bias is not None:
        vectors = torch.cat([vectors, bias[:, None]], 1)
    return vectors[1:].float().cpu().numpy()


@torch.no_grad()
def user_vectors(model: torch.nn.Module, histories: Sequence[Sequence[int]]) -> np.ndarray:
    """Vectors of users with non-empty histories of internal ids, ``[B, d]`` float32."""
    length = int(model.max_seq_length)
    items = torch.from_numpy(ranking.pad(histories, max_length=length))
    items = torch.nn.functional.pad(items, (0, length - items.shape[1]))
    items = tensor_to_device(items, next(model.parameters()).device)
    counts = (items != 0).sum(1)
    if hasattr(model, "outputs_at_mask"):  # BERT4Rec
        users = model.outputs_at_mask(items, counts)
        users = torch.nn.functional.pad(users, (0, 1), value=1.0)  # for the bias
    else:
        users = model.forward(items, counts)
        if hasattr(model, "score_users"):
            users = model.score_users(users)
    return users.float().cpu().numpy()


def text_vectors(model: torch.nn.Module) -> np.ndarray:
    """Vectors of the items' texts from the Item LLM, ``[n_items - 1, d]`` float32.

    Raises
    ------
    RequestError
        The model has none.
    """
    vectors = getattr(getattr(model, "item_tower", None), "vectors", None)
    if vectors is None:
        raise RequestError("by: text: the model has no vectors of texts; use by='trained'")
    return vectors[1:].float().cpu().numpy()
