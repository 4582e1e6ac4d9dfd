"""LoRA (arXiv 2106.09685) through peft: low-rank adapters beside frozen weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn

from recbole_lite.config.validation import fit
from recbole_lite.utils.errors import ConfigError, MissingDependencyError, one_line
from recbole_lite.utils.suggestions import suggest

# Name -> type, and the name that peft has for it; what is left out has peft's default.
_SETTINGS = {
    "r": ("int >= 1", "r"),
    "alpha": ("float > 0", "lora_alpha"),
    "dropout": ("0 <= float < 1", "lora_dropout"),
    "target_modules": ("list of layers", "target_modules"),
}
_ADAPTER = ".lora_"  # in the names of an adapter's parameters
ALL = "all-linear"


def add_lora(model: nn.Module, settings: Mapping[str, Any], key: str) -> None:
    """Put adapters into a model's layers, in place, and freeze everything else.

    The output of a layer with weight W becomes ``W x + alpha / r * B A x``; A ``[r, in]`` and B
    ``[out, r]`` are trained, and B begins as zeros, so that the model begins unchanged.

    Parameters
    ----------
    model : torch.nn.Module
        A language model.
    settings : mapping
        ``r``, ``alpha``, ``dropout`` (on x) and ``target_modules``: names of layers, or their ends,
        or ``all-linear``. What is left out has peft's default; for ``target_modules`` that is
        peft's choice for the architecture.
    key : str
        Setting that holds them, for messages.

    Raises
    ------
    ConfigError
        A setting is unknown or wrong, or names no layer.
    MissingDependencyError
        peft is not installed.
    """
    arguments = _arguments(model, settings, key)
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise MissingDependencyError(
            f"{key} needs peft; type: pip install 'recbole-lite[lora]'"
        ) from None
    try:
        with warnings.catch_warnings():
            # GPT-2's layers keep their weights as [in, out], and peft adapts to that by itself.
            warnings.filterwarnings("ignore", "fan_in_fan_out")
            inject_adapter_in_model(LoraConfig(**arguments), model)
        model.train(model.training)  # also the adapters
    except (TypeError, ValueError) as error:
        layers = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in matrix_layers(model)))
        raise ConfigError(
            f"{key}: peft refuses it ({one_line(error)}); the model's layers are {layers}"
        ) from error


def _arguments(model: nn.Module, settings: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Arguments of peft's LoraConfig."""
    arguments = {}
    for name, value in settings.items():
        if name not in _SETTINGS:
            raise ConfigError(
                f"{key}: unknown key {name!r}{suggest(str(name), list(_SETTINGS))}; it has "
                + ", ".join(_SETTINGS)
            )
        kind, argument = _SETTINGS[name]
        value, wanted = fit(kind, value)
        if wanted:
            raise ConfigError(f"{key}: {name} must be {wanted}, found {value!r}")
        arguments[argument] = value
    targets = arguments.get("target_modules")
    if targets is None:
        return arguments
    names = matrix_layers(model)
    if targets in (ALL, [ALL]):
        return {**arguments, "target_modules": names}
    targets = [targets] if isinstance(targets, str) else targets
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in names):
            ends = list(dict.fromkeys(name.rpartition(".")[2] for name in names))
            raise ConfigError(
                f"{key}: target_modules: {target!r} matches no layer of the model"
                f"{suggest(str(target), ends)}; its layers are {', '.join(ends)}"
            )
    return {**arguments, "target_modules": list(targets)}


def matrix_layers(model: nn.Module) -> list[str]:
    """Names of the layers that have a matrix."""
    from transformers.pytorch_utils import Conv1D  # a start without a language model needs none

    layers = (nn.Linear, Conv1D)
    return [name for name, module in model.named_modules() if isinstance(module, layers)]


def set_trainable(model: nn.Module, trains: bool) -> None:
    """Train a model or freeze it; of one with adapters, the adapters alone are trained."""
    names = dict(model.named_parameters())
    adapted = any(map(is_adapter, names))
    for name, parameter in names.items():
        parameter.requires_grad_(trains and (is_adapter(name) or not adapted))


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to an adapter."""
    return _ADAPTER in name


def merge_lora(model: nn.Module) -> nn.Module:
    """Add adapters to the weights that they adapt, and remove them, in place.

    Returns
    -------
    torch.nn.Module
        The model, whose parameters have the names that they have without adapters.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if hasattr(child, "base_layer") and hasattr(child, "merge"):
                child.merge()
                setattr(module, name, child.get_base_layer())
    return model
