"""Load configs, weights and tokenizers of Hugging Face models; never code from their folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForTextEncoding,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from recbole_lite.utils.errors import ConfigError, ModelFilesError, listed, one_line

_SAFE = {"trust_remote_code": False, "local_files_only": True}


def load_config(folder: Path, key: str = "item_llm") -> PretrainedConfig:
    """Load the configuration in a model's folder; `key` is the setting that names the model.

    Raises
    ------
    ModelFilesError
        It cannot be read, or needs code of its own.
    """
    with _readable(folder, key):
        config = AutoConfig.from_pretrained(folder, **_SAFE)
    # "attn_implementation" in a config.json may name a kernel to fetch from the hub.
    config._attn_implementation = None
    return config


def load_encoder(
    folder: Path,
    config: PretrainedConfig,
    dtype: torch.dtype,
    key: str = "item_llm",
    pooling: str = "mean",
) -> PreTrainedModel:
    """Load an encoder's weights; of T5 and other encoder-decoders without the decoder.

    Raises
    ------
    ModelFilesError
        The weights cannot be read, or some are missing.
    ConfigError
        `pooling` is ``pooler`` and there is no trained one.
    """
    auto, has_decoder = _auto_class(config)
    model, missing = _load(auto, folder, config, dtype, key)
    if pooling == "pooler" and any(name.startswith("pooler.") for name in missing):
        raise no_pooler(folder)
    # Unused tensors may be missing.
    unused = ("pooler.", "decoder.") if has_decoder else ("pooler.",)
    _refuse_missing([name for name in missing if not name.startswith(unused)], folder, key)
    return model.get_encoder() if has_decoder else model


def load_seq2seq(folder: Path | None, config: PretrainedConfig) -> PreTrainedModel:
    """Load an encoder-decoder that writes text; with random weights where `folder` is None.

    Raises
    ------
    ModelFilesError
        The weights cannot be read, or some are missing; the architecture has no decoder.
    """
    if type(config) not in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
        raise ModelFilesError(f"llm: a {config.model_type} model does not generate text; use T5")
    if folder is None:
        return AutoModelForSeq2SeqLM.from_config(config, trust_remote_code=False)
    model, missing = _load(AutoModelForSeq2SeqLM, folder, config, torch.float32, "llm")
    _refuse_missing(missing, folder, "llm")
    return model


def load_language_model(folder: Path) -> tuple[PreTrainedModel, bool]:
    """Load a language model with its head that predicts tokens.

    Returns
    -------
    tuple
        The model in float32, and whether it is causal. A missing head for masked words is random.

    Raises
    ------
    ModelFilesError
        The weights cannot be read, or some are missing; the architecture predicts no tokens.
    """
    config = load_config(folder)
    masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING
    if config.is_encoder_decoder or not (masked or type(config) in MODEL_FOR_CAUSAL_LM_MAPPING):
        raise ModelFilesError(
            f"item_llm {str(folder)!r}: a {config.model_type} model is neither a causal language "
            "model nor an encoder with masked words; use one such as Qwen, GPT-2, BERT or minilm"
        )
    auto = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    model, missing = _load(auto, folder, config, torch.float32, "item_llm")
    of_base = {name for name in missing if name.startswith(f"{model.base_model_prefix}.")}
    _refuse_missing(of_base if masked else missing, folder, "item_llm")
    return model, not masked


def load_tokenizer(folder: Path, key: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer; never code from the folder, never from the network.

    Raises
    ------
    ModelFilesError
        The files cannot be read.
    """
    with _readable(folder, key):
        return AutoTokenizer.from_pretrained(folder, **_SAFE)


def _load(auto, folder, config, dtype, key) -> tuple[PreTrainedModel, set[str]]:
    """Model, and names of tensors that its files lack; transformers initialises those randomly."""
    with _readable(folder, key):
        model, info = auto.from_pretrained(
            folder, config=config, dtype=dtype, output_loading_info=True, weights_only=True, **_SAFE
        )
    return model, set(info["missing_keys"])


def _refuse_missing(names: Iterable[str], folder: Path, key: str) -> None:
    names = sorted(names)
    if names:
        raise ModelFilesError(
            f"{key} {str(folder)!r}: the weights lack {len(names)} tensors of the model "
            f"({listed(names)}); download the files again"
        )


def random_encoder(config: PretrainedConfig) -> PreTrainedModel:
    """Build an encoder of this architecture with random weights.

    Raises
    ------
    ConfigError
        Its sizes do not match.
    """
    auto, has_decoder = _auto_class(config)
    try:
        model = auto.from_config(config, trust_remote_code=False)
    except Exception as error:  # validators of transformers have classes of their own
        raise ConfigError(
            f"a {config.model_type} model cannot be built with these sizes ({one_line(error)}); "
            "change rec_llm_config or lm_config"
        ) from error
    return model.get_encoder() if has_decoder else model


def _auto_class(config: PretrainedConfig) -> tuple[type, bool]:
    """Class that loads an encoder, and whether the model has a decoder, too."""
    if type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING:
        return AutoModelForTextEncoding, False
    return AutoModel, bool(config.is_encoder_decoder)


def position_limit(model: PreTrainedModel) -> int | None:
    """Number of positions that the model has; None where they are relative."""
    limit = getattr(model.config, "max_position_embeddings", None)
    return limit - first_position(model) if isinstance(limit, int) and limit > 0 else None


def first_position(model: torch.nn.Module) -> int:
    """Number of the first position: RoBERTa and similar models start after ``padding_idx``."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Embedding) and name.endswith("position_embeddings"):
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0


@contextmanager
def _readable(folder: Path, key: str) -> Iterator[None]:
    try:
        with quiet():
            yield
    except Exception as error:  # config, weights and tokenizer: many classes of their own
        raise ModelFilesError(
            f"{key} {str(folder)!r} cannot be loaded ({one_line(error)}); its files must be "
            "whole and of a model that transformers knows without remote code"
        ) from error


def no_pooler(folder: Path) -> ConfigError:
    """Error for a model in `folder` without a trained pooler."""
    return ConfigError(
        f"item_llm_pooling: pooler, but the model in {folder} has no trained pooler; "
        "use mean, cls or lasttoken"
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Mute transformers' progress bar and report; missing tensors are checked here."""
    verbosity, bar = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bar:
            hf_logging.enable_progress_bar()
