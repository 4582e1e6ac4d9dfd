"""Recommendation LLM: a Hugging Face encoder that reads vectors in place of words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from recbole_lite.errors import ConfigError
from recbole_lite.model.architecture import change_architecture, check_init, read_architecture
from recbole_lite.model.dropout import use_cheap_dropout
from recbole_lite.text.hf_model import load_encoder, random_encoder


class RecommendationLLM(nn.Module):
    """Encoder over item vectors (paper, Section 4.2, equation 4).

    Any Hugging Face model that takes ``inputs_embeds`` will do; its word-embedding table and
    pooler are not kept.

    Parameters
    ----------
    name : str or mapping
        Hub name, local folder, ``minilm``, or (with ``init="scratch"``) a file of
        ``properties/rec_llm`` or what such a file holds.
    init : {"pretrained", "scratch"}
        Trained weights, or random ones in the same architecture.
    overrides : mapping
        With ``scratch``: changes to the architecture, by the names of its configuration.
    dropout : float, optional
        Rate inside the encoder; None keeps its configuration's.
    max_length : int
        Longest sequence that will be read.
    local_files_only : bool
        Never ask the hub.
    causal : bool
        Let each position see only itself and what is before it.

    Raises
    ------
    ConfigError
        A value of these keys is wrong.
    ModelFilesError
        The weights or the configuration cannot be had.
    """

    def __init__(
        self,
        name: str | Mapping[str, Any],
        init: str,
        overrides: Mapping[str, Any] | None,
        dropout: float | None,
        max_length: int,
        local_files_only: bool = False,
        causal: bool = False,
    ):
        super().__init__()
        check_init(init, overrides, "rec_llm")
        folder, config = read_architecture(name, init, "rec_llm", local_files_only)
        change_architecture(config, overrides or {}, dropout, "rec_llm_config")
        limit = getattr(config, "max_position_embeddings", None)
        if limit and limit < max_length:
            raise ConfigError(
                f"rec_llm {name!r} reads at most {limit} positions, MAX_ITEM_LIST_LENGTH is "
                f"{max_length}"
            )
        if init == "pretrained":
            encoder = load_encoder(folder, config, torch.float32, "rec_llm")
        else:
            encoder = random_encoder(config)
        self.encoder = _without_words(encoder)
        use_cheap_dropout(self.encoder)
        self.causal = causal
        self.hidden_size: int = config.hidden_size

    def forward(self, vectors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Contextual vectors.

        Parameters
        ----------
        vectors : torch.Tensor
            ``[B, L, d]``.
        mask : torch.Tensor
            ``[B, L]``, true where there is an item; a causal encoder wants the padding behind.

        Returns
        -------
        torch.Tensor
            ``[B, L, d]``; what stands at masked positions means nothing.
        """
        visible = _causal_mask(vectors) if self.causal else mask.long()
        return self.encoder(inputs_embeds=vectors, attention_mask=visible).last_hidden_state


def _causal_mask(vectors: torch.Tensor) -> torch.Tensor:
    """``[1, 1, L, L]`` to be added to attention scores, beside any position bias.

    Padding stands behind, where no item looks: one mask serves the whole batch.
    """
    length = vectors.shape[1]
    lowest = torch.finfo(vectors.dtype).min
    mask = torch.full((length, length), lowest, dtype=vectors.dtype, device=vectors.device)
    return mask.triu(1)[None, None]


def _without_words(model: nn.Module) -> nn.Module:
    """Drop what reads words or sums up a text: neither is used with ``inputs_embeds``."""
    model.set_input_embeddings(nn.Identity())
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model
