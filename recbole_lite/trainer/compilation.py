"""``torch.compile`` for the training steps of a model's language model (``compile``)."""

from __future__ import annotations

import torch

from recbole_lite.utils.errors import ConfigError, one_line


def compile_reader(model: torch.nn.Module, device: torch.device) -> None:
    """Have training steps run the language model over item vectors compiled.

    Weights and their names stay, evaluation and serving run as before.

    Raises
    ------
    ConfigError
        The model has no such language model, or torch cannot compile for `device`.
    """
    reader = getattr(model, "reader", None)
    if reader is None:
        raise ConfigError(
            "compile: True compiles the language model over item vectors of LiteLLM4Rec and ItemLM;"
            f" {type(model).__name__} has none. Set compile: False"
        )
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(8, device=device))
    except Exception as error:  # of any kind: no C++ compiler, no Triton, an unknown device
        raise ConfigError(
            f"compile: torch cannot compile for {device} here ({one_line(error)}). Set compile: "
            "False"
        ) from error
    encoder = reader.encoder

    def run(**inputs) -> torch.Tensor:
        return encoder(**inputs).last_hidden_state

    reader.compiled = torch.compile(run)
