"""Pooling of a language model's outputs into one vector per text, and the layers after it."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from recbole_lite.text.sentence_transformers_folder import WEIGHTS, Layer, Recipe
from recbole_lite.text.token_pooling import pool_tokens
from recbole_lite.utils.errors import ModelFilesError, one_line

_VECTOR = "sentence_embedding"  # what sentence-transformers calls the pooled vector


class TextHead(nn.Module):
    """Pooling of a recipe and the layers after it, in float32.

    Parameters
    ----------
    recipe : Recipe
    size : int
        Dimension of the language model's outputs.
    skipped : int
        Number of tokens at the front that are not pooled.

    Attributes
    ----------
    size : int
        Dimension of the vectors of texts.

    Raises
    ------
    ModelFilesError
        A layer's files are missing or do not fit.
    """

    def __init__(self, recipe: Recipe, size: int, skipped: int = 0):
        super().__init__()
        self.pooling, self.skipped = recipe.pooling, skipped
        if recipe.size not in (None, size):
            raise ModelFilesError(
                f"{recipe.files[0]}: the Pooling reads vectors of {recipe.size} numbers, the "
                f"language model gives {size}; download the model again"
            )
        self.size = size * len(recipe.pooling)
        self.layers = nn.Sequential()
        for layer in recipe.layers:
            self.layers.append(self._load(layer))

    def forward(self, output: Any, mask: torch.Tensor) -> torch.Tensor:
        """Vectors of texts.

        Parameters
        ----------
        output
            Of the language model: ``last_hidden_state`` ``[B, L, d]``, ``pooler_output``.
        mask : LongTensor [B, L]
            1 where there is a token, 0 for padding on the right.

        Returns
        -------
        Tensor [B, size], float32
        """
        if self.pooling == ("pooler",):
            pooled = output.pooler_output.float()
        else:
            hidden = output.last_hidden_state.float()
            parts = [pool_tokens(hidden, mask, mode, self.skipped) for mode in self.pooling]
            pooled = torch.cat(parts, dim=-1)
        return self.layers(pooled)

    def _load(self, layer: Layer) -> nn.Module:
        path, config = layer.folder / "config.json", layer.config
        names = {config.get(f"module_{way}_name") or _VECTOR for way in ("input", "output")}
        if names != {_VECTOR}:
            raise ModelFilesError(f"{path}: a {layer.kind} of {', '.join(names)} is not supported")
        try:
            module = _BUILDERS[layer.kind](config)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ModelFilesError(
                f"{path}: no {layer.kind} can be built ({type(error).__name__}: {one_line(error)})"
            ) from error
        reads = config.get("in_features", config.get("dimension", self.size))
        if reads != self.size:
            raise ModelFilesError(
                f"{path}: {layer.kind} reads vectors of {reads} numbers, but is given {self.size}"
            )
        self.size = config.get("out_features", self.size)
        if module.state_dict():
            _load_weights(module, layer.folder)
        return module


class _Dense(nn.Module):
    """Linear layer with an activation; parameters are named as in the files."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        size, out = config["in_features"], config["out_features"]
        self.linear = nn.Linear(size, out, bias=config.get("bias", True))
        self.activation_function = _activation(config.get("activation_function"))
        self.residual = None
        if config.get("use_residual"):
            same = size == out
            self.residual = nn.Identity() if same else nn.Linear(size, out, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[B, in]`` -> ``[B, out]``."""
        y = self.activation_function(self.linear(x))
        return y if self.residual is None else y + self.residual(x)


class _Normalize(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Vectors of length 1, ``[B, d]`` -> ``[B, d]``."""
        return F.normalize(x, dim=-1)


_BUILDERS = {
    "Dense": _Dense,
    "Normalize": lambda config: _Normalize(),
    # The name of its parameters in the files: norm.
    "LayerNorm": lambda config: nn.Sequential(OrderedDict(norm=nn.LayerNorm(config["dimension"]))),
    "Dropout": lambda config: nn.Dropout(config.get("dropout", 0.2)),
}


def _activation(name: str | None) -> nn.Module:
    """An activation of torch by its dotted name; tanh where a file names none."""
    if name is None:
        return nn.Tanh()
    short = str(name).rpartition(".")[2]
    known = nn.Identity if short == "Identity" else vars(nn.modules.activation).get(short)
    if not str(name).startswith("torch.nn.") or not isinstance(known, type):
        raise ValueError(f"{name!r} is no activation of torch.nn")
    return known()


def _load_weights(module: nn.Module, folder: Path) -> None:
    paths = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not paths:
        raise ModelFilesError(f"{folder} has no {' and no '.join(WEIGHTS)}; download it again")
    try:
        if paths[0].suffix == ".safetensors":
            tensors = load_file(paths[0])
        else:
            tensors = torch.load(paths[0], map_location="cpu", weights_only=True)
        module.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except Exception as error:  # safetensors, pickle, sizes: many classes
        raise ModelFilesError(
            f"{paths[0]} does not hold the weights that {folder / 'config.json'} describes "
            f"({one_line(error)}); download it again"
        ) from error
