"""Recommendation LLM: a Hugging Face encoder that reads vectors in place of words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PretrainedConfig

from recbole_lite.errors import ConfigError
from recbole_lite.model.dropout import use_cheap_dropout
from recbole_lite.paths import PROPERTIES
from recbole_lite.settings import read_yaml
from recbole_lite.text.hf_model import load_config, load_encoder, random_encoder
from recbole_lite.text.llm_files import resolve_llm

# Names that Hugging Face's configurations use for rates inside the encoder.
DROPOUT_KEYS = (
    "dropout_rate",
    "dropout",
    "attention_dropout",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "embd_pdrop",
    "resid_pdrop",
    "attn_pdrop",
)


class RecommendationLLM(nn.Module):
    """Encoder over item vectors (paper, Section 4.2, equation 4).

    Any Hugging Face model that takes ``inputs_embeds`` will do; its word-embedding table and
    pooler are not kept.

    Parameters
    ----------
    name : str
        Hub name, local folder, ``minilm``, or (with ``init="scratch"``) a file of
        ``properties/rec_llm``.
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
        name: str,
        init: str,
        overrides: Mapping[str, Any] | None,
        dropout: float | None,
        max_length: int,
        local_files_only: bool = False,
        causal: bool = False,
    ):
        super().__init__()
        if init not in ("pretrained", "scratch"):
            raise ConfigError(f"rec_llm_init must be pretrained or scratch, found {init!r}")
        if init == "pretrained" and overrides:
            raise ConfigError("rec_llm_config changes the architecture: set rec_llm_init=scratch")
        folder, config = _architecture(name, init, local_files_only)
        _change(config, overrides or {}, dropout)
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


def _architecture(name, init, local_files_only) -> tuple[Path | None, PretrainedConfig]:
    shipped = PROPERTIES / "rec_llm" / f"{name}.yaml"
    if init == "scratch" and shipped.is_file():
        values = {key: setting.value for key, setting in read_yaml(shipped).items()}
        return None, AutoConfig.for_model(values.pop("model_type"), **values)
    folder = resolve_llm(name, local_files_only=local_files_only, key="rec_llm")
    return folder, load_config(folder, "rec_llm")


def _change(config: PretrainedConfig, overrides: Mapping[str, Any], dropout: float | None):
    for key, value in overrides.items():
        if not hasattr(config, key):
            raise ConfigError(
                f"rec_llm_config: a {config.model_type} configuration has no {key!r}; it has "
                + ", ".join(sorted(key for key in config.to_diff_dict() if key[0] != "_"))
            )
        setattr(config, key, value)
    if dropout is not None:
        for key in DROPOUT_KEYS:
            if hasattr(config, key):
                setattr(config, key, dropout)


def _without_words(model: nn.Module) -> nn.Module:
    """Drop what reads words or sums up a text: neither is used with ``inputs_embeds``."""
    model.set_input_embeddings(nn.Identity())
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model
