"""Recommendation LLM: a Hugging Face encoder whose input embeddings are item vectors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from recbole_lite.model.layers.dropout import replace_dropout
from recbole_lite.model.layers.llm_architecture import read_architecture
from recbole_lite.model.layers.row_packing import RowPacking, pack_rows
from recbole_lite.model.layers.shared_position import SharedPosition, check_permutation_equivariance
from recbole_lite.text.attention import CAUSAL, NAME, set_attention, use_explicit_mask
from recbole_lite.text.llm_loading import (
    first_position,
    load_encoder,
    position_limit,
    random_encoder,
)
from recbole_lite.text.lora import add_lora, matrix_layers
from recbole_lite.utils.errors import ConfigError, one_line


class EmbeddingEncoder(nn.Module):
    """A Hugging Face model whose input embeddings are given (``inputs_embeds``).

    Parameters
    ----------
    encoder : transformers.PreTrainedModel
        Any that takes ``inputs_embeds``; its token embeddings and pooler are dropped.
    causal : bool
        Each position attends only to itself and earlier ones.
    reads_candidates : bool
        Whether the last vectors can be candidates without an order, see :meth:`forward`.
    label : str
        Name of the encoder in messages.

    Raises
    ------
    ConfigError
        The encoder cannot read vectors in this way.

    Attributes
    ----------
    input_size, hidden_size : int
        Dimensions of input and output vectors; they differ in ALBERT, ELECTRA and others.
    masking : {"kernel", "mask", "model"}
        What keeps a causal encoder from looking ahead: the attention's kernel, a mask of all pairs
        that it is given, or the model itself. Others are given a mask of the padding ("model").
    packs : bool
        Whether several histories can share a row.
    compiled : callable or None
        Runs the encoder in training (:mod:`recbole_lite.trainer.compilation`).
    """

    compiled: Callable[..., torch.Tensor] | None = None

    def __init__(
        self,
        encoder: nn.Module,
        causal: bool,
        reads_candidates: bool = False,
        label: str = "rec_llm",
    ):
        super().__init__()
        self.input_size: int = encoder.get_input_embeddings().weight.shape[1]
        self.encoder = use_explicit_mask(_drop_token_embeddings(encoder))
        replace_dropout(self.encoder)
        self.encoder.config.use_cache = False  # keys and values are for generation
        self.causal, self.masking = causal, "model"
        self.shared_position = SharedPosition(self.encoder) if reads_candidates else None
        self._takes_positions = "position_ids" in inspect.signature(encoder.forward).parameters
        self._first_position = first_position(encoder)
        training = self.training
        self.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            self.hidden_size: int = self._probe(label, reads_candidates)
            mask = torch.ones(3, 3, dtype=torch.bool).tril()  # lengths 1, 2, 3
            given = self._random_vectors(3), mask
            expected = self(*given)
            self.packs: bool = self._try_packing(*given, expected[mask])
            self._feed_forward: str | None = self._try_only_last(*given, expected)
        self.train(training)

    def _probe(self, label: str, reads_candidates: bool) -> int:
        """Read two vectors and padding, so that a failure shows now; size of the output."""
        vectors = self._random_vectors(2)
        # The second row differs where the first position (causal) or no item may look.
        vectors[1, : 1 if self.causal else 2] = vectors[0, : 1 if self.causal else 2]
        mask = torch.tensor([[True, True, False]]).expand(2, 3)
        usual = self.encoder.config._attn_implementation
        for masking in self._maskings(reads_candidates):
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
            if _close(*seen):
                return output.shape[-1]
            problem = "positions look ahead" if self.causal else "padding changes the others"
        raise ConfigError(
            f"{label} cannot read item vectors{' causally' * self.causal} ({problem}); take "
            "another architecture, such as T5, BERT or GPT-2"
        )

    def _random_vectors(self, n: int) -> torch.Tensor:
        """``[n, 3, input_size]``, the same at every call."""
        return torch.randn(n, 3, self.input_size, generator=torch.Generator().manual_seed(0))

    def _try_packing(self, vectors, mask, expected) -> bool:
        """Whether histories that share a row get the outputs that they get in rows of their own."""
        packing = pack_rows(mask, mask.device)
        try:
            found = self(packing.pack(vectors), packing.histories != 0, packing=packing)
        except Exception:  # of any kind: each architecture has its own
            return False
        return _close(packing.unpack(found)[mask], expected)

    def _try_only_last(self, vectors, mask, expected) -> str | None:
        """Name of the last feed-forward module, where :meth:`only_last` changes no last output."""
        layers = matrix_layers(self.encoder)
        if not layers:
            return None
        ends = torch.eye(3, dtype=torch.bool)
        self._feed_forward = layers[-1].rpartition(".")[0]
        try:
            with self.only_last(mask):
                found = self(vectors, mask)[ends]
        except Exception:  # of any kind: each architecture has its own
            return None
        return self._feed_forward if _close(found, expected[ends]) else None

    @contextmanager
    def only_last(self, mask: torch.Tensor) -> Iterator[None]:
        """Leave out what only outputs before the last item need; those are then meaningless.

        The last feed-forward module reads the last item of each row, ``[B, 1, d]``, and what it
        returns is added to the residual at every position.

        Parameters
        ----------
        mask : torch.Tensor
            ``[B, L]``, true where there is an item.
        """
        if self._feed_forward is None:
            yield
            return
        rows = torch.arange(len(mask), device=mask.device)
        last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(1)

        def pick(module, arguments):
            vectors, *others = arguments
            return vectors[rows, last][:, None], *others

        module = self.encoder.get_submodule(self._feed_forward)
        hook = module.register_forward_pre_hook(pick)
        try:
            yield
        finally:
            hook.remove()

    def _maskings(self, reads_candidates: bool) -> tuple[str, ...]:
        """Ways to try; what refuses masks of all pairs can be causal by itself (BLOOM, Mamba)."""
        if not self.causal:
            return ("model",)
        if reads_candidates:  # candidates attend to each other
            return ("mask",)
        by_kernel = self.encoder.config._attn_implementation == NAME
        return ("kernel", "mask", "model") if by_kernel else ("mask", "model")

    def forward(
        self,
        vectors: torch.Tensor,
        mask: torch.Tensor,
        n_candidates: int = 0,
        packing: RowPacking | None = None,
    ) -> torch.Tensor:
        """Contextual vectors.

        Parameters
        ----------
        vectors : torch.Tensor
            ``[B, L, input_size]``.
        mask : torch.Tensor
            ``[B, L]``, true where there is an item. A causal encoder needs the padding at the end,
            or in front where there are candidates.
        n_candidates : int
            The last `n_candidates` vectors are a set: they share one position and attend to each
            other, also in a causal encoder.
        packing : RowPacking, optional
            Several histories share a row; for encoders with :attr:`packs`.

        Returns
        -------
        torch.Tensor
            ``[B, L, hidden_size]``; values at masked positions are meaningless.
        """
        visible = None
        if packing is not None:
            visible = packing.attention_mask(self.causal, vectors.dtype)
        elif self.masking == "model":
            visible = mask.long()
        elif self.masking == "mask":
            visible = _causal_mask(vectors)
            if n_candidates:
                visible = _show_candidates(visible, mask, n_candidates)
        others = {}
        if self.shared_position:
            others = self.shared_position.encoder_arguments(mask, n_candidates)
        if packing is not None and self._takes_positions:
            others["position_ids"] = self._first_position + packing.positions
        inputs = {"inputs_embeds": vectors, "attention_mask": visible, **others}
        if self.training and self.compiled is not None:
            return self.compiled(**inputs)
        return self.encoder(**inputs).last_hidden_state


class RecommendationLLM(EmbeddingEncoder):
    """Encoder over item vectors (paper, Section 4.2, equation 4).

    Parameters
    ----------
    name : str or mapping
        Hub name, local folder, ``minilm``, or (with ``init="scratch"``) a file of
        ``properties/rec_llm`` or what such a file holds.
    init : {"pretrained", "scratch"}
        Trained weights, or random ones in the same architecture.
    changes : mapping, optional
        With ``scratch``: changes to the architecture, by the names of its configuration.
    dropout : float, optional
        Rate inside the encoder; None keeps its configuration's.
    max_length : int
        Longest sequence that will be read; all candidates together count as one position.
    local_files_only : bool
        Never ask the hub.
    causal : bool
        Each position attends only to itself and earlier ones.
    reads_candidates : bool
        Whether the last vectors can be candidates without an order, see :meth:`forward`.
    lora : mapping, optional
        ``rec_llm_lora``: adapters are trained, see :func:`~recbole_lite.text.lora.add_lora`.

    Raises
    ------
    ConfigError
        A value of these keys is wrong.
    ModelFilesError
        The weights or the configuration cannot be had.
    MissingDependencyError
        `lora` without peft.

    Attributes
    ----------
    folder : Path or None
        Of the trained weights.
    """

    def __init__(
        self,
        name: str | Mapping[str, Any],
        init: str,
        changes: Mapping[str, Any] | None,
        dropout: float | None,
        max_length: int,
        local_files_only: bool = False,
        causal: bool = False,
        reads_candidates: bool = False,
        lora: Mapping[str, Any] | None = None,
    ):
        folder, config = read_architecture(
            name, init, changes, dropout, "rec_llm", local_files_only
        )
        if folder:
            encoder = load_encoder(folder, config, torch.float32, "rec_llm")
        else:
            encoder = random_encoder(config)
        limit = position_limit(encoder)
        if limit and limit < max_length:
            shown = max_length - reads_candidates
            raise ConfigError(
                f"rec_llm {name!r} reads at most {limit} positions, MAX_ITEM_LIST_LENGTH is {shown}"
                + (", and the candidates need one more" if reads_candidates else "")
            )
        super().__init__(encoder, causal, reads_candidates, f"rec_llm {name!r}")
        self.folder = folder
        if reads_candidates:
            self.eval()
            check_permutation_equivariance(self, self.input_size, name)
            self.train()
        if lora is not None:
            add_lora(self.encoder, lora, "rec_llm_lora")


def _close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether outputs are equal but for rounding."""
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def _causal_mask(vectors: torch.Tensor) -> torch.Tensor:
    """``[1, 1, L, L]``, added to the attention scores and any position bias.

    Padding is at the end, where no item attends to: one mask serves the whole batch.
    """
    length = vectors.shape[1]
    lowest = torch.finfo(vectors.dtype).min
    mask = torch.full((length, length), lowest, dtype=vectors.dtype, device=vectors.device)
    return mask.triu(1)[None, None]


def _show_candidates(causal: torch.Tensor, mask: torch.Tensor, n_candidates: int) -> torch.Tensor:
    """``[B, 1, L, L]``: the last positions attend to each other, and none to the padding."""
    visible = causal.clone()
    visible[..., -n_candidates:, -n_candidates:] = 0
    lowest = torch.finfo(causal.dtype).min
    return torch.where(mask[:, None, None, :], visible, lowest)


def _drop_token_embeddings(model: nn.Module) -> nn.Module:
    """Drop token embeddings and pooler: neither is used with ``inputs_embeds``."""
    model.set_input_embeddings(nn.Identity())
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model
