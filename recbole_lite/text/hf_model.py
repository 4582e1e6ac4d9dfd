"""Loading a Hugging Face encoder, safely and quietly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import (
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from recbole_lite.errors import ConfigError, ModelFilesError
from recbole_lite.text.llm_files import one_line


def load_model(
    folder: Path, dtype: torch.dtype, pooling: str
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Load tokenizer and encoder; never code from the folder, never from the network.

    Parameters
    ----------
    folder : Path
        As `recbole_lite.text.llm_files.resolve_llm` gives it.
    dtype : torch.dtype
        Of the weights.
    pooling : str
        ``pooler`` asks for a trained pooler.

    Returns
    -------
    (tokenizer, model)
        The model is an encoder: T5 and other encoder-decoders come without their decoder.

    Raises
    ------
    ModelFilesError
        The files cannot be loaded, lack tensors, or need code of their own.
    ConfigError
        No trained pooler, where one is asked for.
    """
    safe = {"trust_remote_code": False, "local_files_only": True}
    try:
        with _quiet():
            config = AutoConfig.from_pretrained(folder, **safe)
            # "attn_implementation" in a config.json may name a kernel to fetch from the hub.
            config._attn_implementation = None
            text_encoder = type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING
            auto = AutoModelForTextEncoding if text_encoder else AutoModel
            model, info = auto.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                output_loading_info=True,
                weights_only=True,
                **safe,
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, **safe)
    except Exception as error:  # config, weights and tokenizer: many classes of their own
        raise ModelFilesError(
            f"item_llm {str(folder)!r} cannot be loaded ({one_line(error)}); its files must be "
            "whole and of a model that transformers knows without remote code"
        ) from error
    has_decoder = not text_encoder and config.is_encoder_decoder
    unused = ("pooler.", "decoder.") if has_decoder else ("pooler.",)
    _check_weights(folder, set(info["missing_keys"]), pooling, unused)
    return tokenizer, model.get_encoder() if has_decoder else model


def _check_weights(
    folder: Path, missing_keys: set[str], pooling: str, unused: tuple[str, ...]
) -> None:
    """Refuse tensors that transformers filled with random numbers, where they are used."""
    if pooling == "pooler" and any(key.startswith("pooler.") for key in missing_keys):
        raise no_pooler(folder)
    used = sorted(key for key in missing_keys if not key.startswith(unused))
    if used:
        raise ModelFilesError(
            f"item_llm {str(folder)!r}: the weights lack {len(used)} tensors of the model "
            f"({', '.join(used[:3])}{', ...' if len(used) > 3 else ''}); get the files anew"
        )


def no_pooler(folder: Path) -> ConfigError:
    """Say that `folder` has no trained pooler."""
    return ConfigError(
        f"item_llm_pooling: pooler, but the model in {folder} has no trained pooler; "
        "use mean or cls"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Mute transformers' loading bar and report; what matters of it is checked here."""
    verbosity, bar = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bar:
            hf_logging.enable_progress_bar()
