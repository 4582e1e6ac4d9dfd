"""The Item LLM: texts in, one vector per text out (paper Section 4.2, eqs. 1-3)."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import normalizers
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from recbole_lite.text.encoding_warnings import warn_of_cut_texts
from recbole_lite.text.llm_loading import (
    load_config,
    load_encoder,
    load_tokenizer,
    no_pooler,
    position_limit,
)
from recbole_lite.text.sentence_transformers_folder import Recipe
from recbole_lite.text.text_head import TextHead
from recbole_lite.utils.errors import ConfigError, ModelFilesError, shorten

_NO_LIMIT = 1_000_000  # tokenizers without a limit say 1e30
_DEFAULT_MAX_LENGTH = 512  # where neither model nor tokenizer states one


class TextEncoder:
    """A frozen Hugging Face encoder with its tokenizer.

    Parameters
    ----------
    folder : Path
        Config, tokenizer and weights, from `recbole_lite.text.llm_files.resolve_llm`. No code in
        it is ever executed.
    recipe : Recipe
        Pooling and layers after it, prompt. The paper's is ``mean`` over the tokens (eq. 3), for
        BERT the output of the model's trained pooler (Section 5.5.2).
    max_length : int or None
        Tokens per text, special ones and prompt included; the rest is cut. None: the recipe's, or
        the model's maximum.
    batch_size : int
        Texts per forward pass.
    dtype : {"auto", "float32", "bfloat16", "float16"}
        ``auto``: bfloat16 on a CUDA device that has it, else float32.
    device : torch.device or str
        Where the model runs.

    Raises
    ------
    ModelFilesError
        The files cannot be loaded, lack tensors, or need code of their own.
    ConfigError
        `max_length`, the pooling or the prompt does not fit the model.
    """

    def __init__(
        self,
        folder: Path,
        *,
        recipe: Recipe,
        max_length: int | None,
        batch_size: int,
        dtype: str,
        device: torch.device | str,
    ):
        self.folder = folder
        self.prompt = recipe.prompt
        self.batch_size = batch_size
        self.device = torch.device(device)
        self.dtype = resolve_dtype(dtype, self.device)
        pooling = recipe.pooling[0]
        model = load_encoder(folder, load_config(folder), self.dtype, pooling=pooling)
        self.tokenizer = load_tokenizer(folder, "item_llm")
        if recipe.lower_case:
            _lower_case(self.tokenizer, folder)
        self.model = model.to(self.device).eval()
        self.max_length = _max_length(max_length, recipe.max_length, model, self.tokenizer)
        self.pad_id = _pad_id(self.tokenizer)
        n_prompt = self._prompt_length()
        skipped = 0 if recipe.include_prompt else n_prompt
        head = TextHead(recipe, model.config.hidden_size, skipped)
        self.head = head.to(self.device).eval()
        _check_pooling(self.model, recipe.pooling, self.pad_id, folder)

    def encode(self, texts: list[str], show_progress: bool = False) -> torch.Tensor:
        """Encode texts, sorted by length, so that a batch holds texts of similar length.

        Parameters
        ----------
        texts : list of str, length n
            Any order; the result keeps it.
        show_progress : bool
            Show a progress bar where the output is a terminal.

        Returns
        -------
        Tensor [n, d], float32, on the CPU
            Zeros for a text without tokens.

        Raises
        ------
        ModelFilesError
            A vector is not finite.
        """
        tokens = self.tokenize(texts)
        order = sorted(range(len(texts)), key=lambda i: len(tokens[i]), reverse=True)
        order = [i for i in order if len(tokens[i]) > 0]
        vectors = None
        with tqdm(total=len(order), unit="text", disable=None if show_progress else True) as bar:
            for start in range(0, len(order), self.batch_size):
                batch = order[start : start + self.batch_size]
                encoded = self._encode_batch([tokens[i] for i in batch])
                finite = encoded.isfinite().all(dim=1)  # [B]
                if not finite.all():
                    self._refuse(texts[batch[int(finite.int().argmin())]])
                if vectors is None:
                    vectors = torch.zeros(len(texts), encoded.size(1))
                vectors[batch] = encoded
                bar.update(len(batch))
        return torch.zeros(len(texts), self.head.size) if vectors is None else vectors

    def tokenize(self, texts: list[str]) -> list[torch.Tensor]:
        """T_i = (w_1, ..., w_L) for every text (eq. 1): n texts -> n x [L_i].

        The prompt is part of them. A warning counts texts that are cut.
        """
        tokens, cut = self._tokens(texts)
        warn_of_cut_texts(cut, len(texts), self.max_length)
        return [torch.tensor(ids, dtype=torch.long) for ids in tokens]

    def count_tokens(self, texts: list[str]) -> tuple[list[int], list[int]]:
        """Numbers of tokens that are read of each text, and of all tokens of those that are cut."""
        tokens, cut = self._tokens(texts)
        return [len(ids) for ids in tokens], cut

    def _tokens(self, texts: list[str]) -> tuple[list[list[int]], list[int]]:
        """Token ids, and the lengths of the texts that are cut."""
        if not texts:
            return [], []
        texts = [self.prompt + text for text in texts]
        tokens = self._token_ids(texts, truncation=True, max_length=self.max_length)
        full = [
            text for text, ids in zip(texts, tokens, strict=True) if len(ids) == self.max_length
        ]
        lengths = [len(ids) for ids in self._token_ids(full)] if full else []
        return tokens, [length for length in lengths if length > self.max_length]

    def _token_ids(self, texts: list[str], **options) -> list[list[int]]:
        return self.tokenizer(
            texts,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,  # a single segment: the model's default
            verbose=False,
            **options,
        )["input_ids"]

    def _prompt_length(self) -> int:
        """Number of tokens of the prompt, without special ones after it."""
        if not self.prompt:
            return 0
        (ids,) = self._token_ids([self.prompt])
        n = len(ids) - (ids[-1] in self.tokenizer.all_special_ids) if ids else 0
        if n + 1 >= self.max_length:
            raise ConfigError(
                f"item_llm_prompt: {self.prompt!r} has {n} tokens and leaves no room for a text in "
                f"the {self.max_length} that the Item LLM reads; shorten it"
            )
        return n

    @torch.inference_mode()
    def _encode_batch(self, tokens: list[torch.Tensor]) -> torch.Tensor:
        """Vectors of texts on the CPU: B x [L_i] -> [B, d]."""
        ids, mask = (part.to(self.device) for part in pad_tokens(tokens, self.pad_id))
        return pooled_states(self.model, self.head, ids, mask).cpu()

    def _refuse(self, text: str) -> None:
        raise ModelFilesError(
            f"item_llm {str(self.folder)!r} gives NaN or infinity for the item text "
            f"{shorten(text, 80)!r} in {str(self.dtype).removeprefix('torch.')}; try "
            "item_llm_dtype: float32, or check the weights"
        )


def pad_tokens(tokens: list[torch.Tensor], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and their mask: B x [L_i] -> [B, L], [B, L].

    Always padded on the right, whatever the tokenizer prefers: with absolute positions, a text's
    vector would otherwise depend on the length of the batch.
    """
    ids = pad_sequence(tokens, batch_first=True, padding_value=pad_id)
    lengths = torch.tensor([len(token) for token in tokens])
    return ids, (torch.arange(ids.size(1)) < lengths.unsqueeze(1)).long()


def pooled_states(
    model: PreTrainedModel,
    head: TextHead,
    ids: torch.Tensor,
    mask: torch.Tensor,
    item_token: torch.Tensor | None = None,
) -> torch.Tensor:
    """(h_w1, ..., h_wL) of every text (eq. 2), pooled (eq. 3).

    Parameters
    ----------
    model : PreTrainedModel
        An encoder.
    head : TextHead
        Pooling and layers after it.
    ids : LongTensor [B, L]
        Token ids, padded on the right.
    mask : LongTensor [B, L]
        1 where there is a token, 0 for padding.
    item_token : Tensor [d], optional
        Embedding that replaces that of each text's last token.

    Returns
    -------
    Tensor [B, d], float32
    """
    if item_token is None:
        return head(model(input_ids=ids, attention_mask=mask), mask)
    steps = torch.arange(ids.size(1), device=ids.device)
    is_last = steps == mask.sum(dim=1, keepdim=True) - 1  # [B, L]
    embeddings = torch.where(is_last[..., None], item_token, model.get_input_embeddings()(ids))
    return head(model(inputs_embeds=embeddings, attention_mask=mask), mask)


@torch.inference_mode()
def _check_pooling(
    model: PreTrainedModel, pooling: tuple[str, ...], pad_id: int, folder: Path
) -> None:
    """Refuse a pooler that is not there, and the first token where it sees nothing but itself."""
    first = [mode for mode in pooling if mode in ("cls", "pooler")]
    if not first:
        return
    size = len(model.get_input_embeddings().weight)
    others = torch.linspace(0, size - 1, 8).long()  # [8] from the whole vocabulary
    ids = torch.stack([torch.full_like(others, int(others[1])), others], dim=1)
    ids = ids[others != pad_id].to(model.device)  # [8, 2]
    output = model(input_ids=ids, attention_mask=torch.ones_like(ids))
    if "pooler" in first and getattr(output, "pooler_output", None) is None:
        raise no_pooler(folder)
    states = output.last_hidden_state[:, 0].float()  # [8, d]
    if float((states - states[0]).abs().max()) <= 1e-6 * float(states.abs().max()):
        raise ConfigError(
            f"item_llm_pooling: {first[0]} takes the first token, which sees no other token in the "
            f"causal model of {folder}: all texts would have one vector; use lasttoken or mean"
        )


def _lower_case(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Lower-case texts before whatever the tokenizer does to them."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelFilesError(
            f"item_llm {str(folder)!r}: do_lower_case needs a tokenizer.json; lower-case the texts "
            "and set item_llm_pooling"
        )
    own = [backend.normalizer] if backend.normalizer is not None else []
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto``: bfloat16 where CUDA has it, else float32; other names as torch has them."""
    if name != "auto":
        return getattr(torch, name)
    on_cuda = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if on_cuda else torch.float32


def _max_length(
    wanted: int | None,
    of_recipe: int | None,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> int:
    limit = position_limit(model)
    if wanted is None:
        of_text = of_recipe or tokenizer.model_max_length
        stated = [n for n in (limit, of_text) if n and n < _NO_LIMIT]
        return int(min(stated, default=_DEFAULT_MAX_LENGTH))
    special = tokenizer.num_special_tokens_to_add()
    if wanted <= special or (limit is not None and wanted > limit):
        top = "" if limit is None else f" and at most {limit}, the positions of the model"
        raise ConfigError(
            f"item_llm_max_length: {wanted}; must be more than {special}, the number of special "
            f"tokens{top}"
        )
    return wanted


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Id of padding; the attention mask hides it, so any id of the vocabulary works."""
    candidates = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(i for i in candidates if i is not None)
