"""Recommendation LLM: a Hugging Face encoder that reads vectors in place of words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from recbole_lite.errors import ConfigError, one_line
from recbole_lite.model.architecture import change_architecture, check_init, read_architecture
from recbole_lite.model.dropout import use_cheap_dropout
from recbole_lite.model.one_place import OnePlace, check_no_order
from recbole_lite.text.attention import CAUSAL, NAME, does_not_look, set_attention
from recbole_lite.text.hf_model import load_encoder, position_limit, random_encoder


class VectorReader(nn.Module):
    """A Hugging Face model that reads vectors in place of words.

    Parameters
    ----------
    encoder : transformers.PreTrainedModel
        Any that takes ``inputs_embeds``; its word-embedding table and pooler are not kept.
    causal : bool
        Let each position see only itself and what is before it.
    reads_sets : bool
        Whether :meth:`forward` will be asked to read vectors `together`.
    label : str
        What messages call the encoder.

    Raises
    ------
    ConfigError
        The encoder does not read vectors as it is asked to.

    Attributes
    ----------
    input_size, hidden_size : int
        Of the vectors that it reads and gives; they differ in ALBERT, ELECTRA and others.
    masking : {"kernel", "mask", "model"}
        What keeps a causal encoder from looking ahead: the attention's kernel, a mask of all pairs
        that it is given, or the model itself. Others are given a mask of the padding ("model").
    """

    def __init__(
        self, encoder: nn.Module, causal: bool, reads_sets: bool = False, label: str = "rec_llm"
    ):
        super().__init__()
        self.input_size: int = encoder.get_input_embeddings().weight.shape[1]
        self.encoder = does_not_look(_without_words(encoder))
        use_cheap_dropout(self.encoder)
        self.encoder.config.use_cache = False  # keys and values are for generation
        self.causal, self.masking = causal, "model"
        self.one_place = OnePlace(self.encoder) if reads_sets else None
        training = self.training
        self.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            self.hidden_size: int = self._probe(label, reads_sets)
        self.train(training)

    def _probe(self, label: str, reads_sets: bool) -> int:
        """Read two vectors and padding, to know now what would fail later; size of the output."""
        vectors = torch.randn(2, 3, self.input_size, generator=torch.Generator().manual_seed(0))
        # The second row differs where the first position (causal) or no item may look.
        vectors[1, : 1 if self.causal else 2] = vectors[0, : 1 if self.causal else 2]
        mask = torch.tensor([[True, True, False]]).expand(2, 3)
        usual = self.encoder.config._attn_implementation
        for masking in self._maskings(reads_sets):
            self.masking, problem = masking, None
            attention = CAUSAL if masking == "kernel" else usual
            try:
                if attention != self.encoder.config._attn_implementation:
                    set_attention(self.encoder, attention)
                output = self(vectors, mask)
            except Exception as error:  # of any kind: each architecture has its own
                problem = one_line(error)
                continue
            if output.shape[:2] != (2, 3):
                problem = "it gives another number of vectors than it reads"
                continue
            seen = output[:, : 1 if self.causal else 2]
            if torch.allclose(seen[0], seen[1], rtol=1e-3, atol=1e-4 * float(seen.abs().max())):
                return output.shape[-1]
            problem = "positions look ahead" if self.causal else "padding changes the others"
        raise ConfigError(
            f"{label} cannot read item vectors{' causally' * self.causal} ({problem}); take "
            "another architecture, such as T5, BERT or GPT-2"
        )

    def _maskings(self, reads_sets: bool) -> tuple[str, ...]:
        """Ways to try; what refuses masks of all pairs can be causal by itself (BLOOM, Mamba)."""
        if not self.causal:
            return ("model",)
        if reads_sets:  # whose members see each other
            return ("mask",)
        by_kernel = self.encoder.config._attn_implementation == NAME
        return ("kernel", "mask", "model") if by_kernel else ("mask", "model")

    def forward(self, vectors: torch.Tensor, mask: torch.Tensor, together: int = 0) -> torch.Tensor:
        """Contextual vectors.

        Parameters
        ----------
        vectors : torch.Tensor
            ``[B, L, d]``.
        mask : torch.Tensor
            ``[B, L]``, true where there is an item; a causal encoder wants the padding behind,
            with `together` in front.
        together : int
            So many of the last vectors are a set: they stand at one position and see each other,
            in a causal encoder, too.

        Returns
        -------
        torch.Tensor
            ``[B, L, d]``; what stands at masked positions means nothing.
        """
        visible = mask.long() if self.masking == "model" else None
        if self.masking == "mask":
            visible = _causal_mask(vectors)
            if together:
                visible = _with_a_set(visible, mask, together)
        others = self.one_place.arguments(mask, together) if self.one_place else {}
        output = self.encoder(inputs_embeds=vectors, attention_mask=visible, **others)
        return output.last_hidden_state


class RecommendationLLM(VectorReader):
    """Encoder over item vectors (paper, Section 4.2, equation 4).

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
        Longest sequence that will be read; a set counts as one.
    local_files_only : bool
        Never ask the hub.
    causal : bool
        Let each position see only itself and what is before it.
    reads_sets : bool
        Whether the last of the vectors can be a set, see :meth:`forward`.

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
        reads_sets: bool = False,
    ):
        check_init(init, overrides, "rec_llm")
        folder, config = read_architecture(name, init, "rec_llm", local_files_only)
        change_architecture(config, overrides or {}, dropout, "rec_llm_config")
        if init == "pretrained":
            encoder = load_encoder(folder, config, torch.float32, "rec_llm")
        else:
            encoder = random_encoder(config)
        limit = position_limit(encoder)
        if limit and limit < max_length:
            shown = max_length - reads_sets
            raise ConfigError(
                f"rec_llm {name!r} reads at most {limit} positions, MAX_ITEM_LIST_LENGTH is {shown}"
                + (", and the candidates need one more" if reads_sets else "")
            )
        super().__init__(encoder, causal, reads_sets, f"rec_llm {name!r}")
        if reads_sets:
            self.eval()
            check_no_order(self, self.input_size, name)
            self.train()


def _causal_mask(vectors: torch.Tensor) -> torch.Tensor:
    """``[1, 1, L, L]`` to be added to attention scores, beside any position bias.

    Padding stands behind, where no item looks: one mask serves the whole batch.
    """
    length = vectors.shape[1]
    lowest = torch.finfo(vectors.dtype).min
    mask = torch.full((length, length), lowest, dtype=vectors.dtype, device=vectors.device)
    return mask.triu(1)[None, None]


def _with_a_set(causal: torch.Tensor, mask: torch.Tensor, together: int) -> torch.Tensor:
    """``[B, 1, L, L]``: the last `together` positions see each other, and nobody the padding."""
    visible = causal.clone()
    visible[..., -together:, -together:] = 0
    lowest = torch.finfo(causal.dtype).min
    return torch.where(mask[:, None, None, :], visible, lowest)


def _without_words(model: nn.Module) -> nn.Module:
    """Drop what reads words or sums up a text: neither is used with ``inputs_embeds``."""
    model.set_input_embeddings(nn.Identity())
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model
