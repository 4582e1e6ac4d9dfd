"""Objectives of the stages: what a language model learns from titles, item texts and histories.

The stages of causal language models are those of LLM2Rec (arXiv 2506.21579): Collaborative
Supervised Fine-tuning, then Item-level Embedding Modeling, which is masked next-token prediction
and contrastive learning as in LLM2Vec (arXiv 2404.05961). Encoders, which are bidirectional
already, have stages of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import DataCollatorForLanguageModeling, PreTrainedModel

from recbole_lite.data.windows import Windows
from recbole_lite.model.layers.contrastive_loss import info_nce
from recbole_lite.text.llm_loading import load_language_model, load_tokenizer, position_limit
from recbole_lite.text.sentence_transformers_folder import Recipe
from recbole_lite.text.text_encoder import TextEncoder, pad_tokens, pooled_states, resolve_dtype
from recbole_lite.utils.errors import ConfigError, ModelFilesError

CAUSAL = ("next_title", "mntp", "simcse")  # stages in order; methods of Objectives
MASKED = ("mlm", "next_item")
BIDIRECTIONAL = {"mntp", "simcse"}
IGNORED = -100  # label of a token that is not predicted
DRAWS = 1000  # of windows for one batch


class Objectives(nn.Module):
    """A language model with its heads, and one method per stage that gives the losses of a batch.

    Parameters
    ----------
    config : LiteConfig
        Keys of ``properties/adapt_llm.yaml``.
    folder : Path
        Files of the language model.
    recipe : Recipe
        Pooling and what follows it; its layers are not trained.
    windows : Windows
        Histories, each with the item that follows it: the training part.
    titles, texts : sequence of str, length n_items
        By internal item id; items with an empty text are left out.

    Attributes
    ----------
    lm : PreTrainedModel
        With the head that predicts tokens.
    stages : tuple of str
        Names of the stages of this kind of model.

    Raises
    ------
    ConfigError, ModelFilesError
    """

    def __init__(
        self,
        config,
        folder: Path,
        recipe: Recipe,
        windows: Windows,
        titles: Sequence[str],
        texts: Sequence[str],
    ):
        super().__init__()
        self.config, self.windows, self.titles = config, windows, titles
        self.lm, causal = load_language_model(folder)
        self.stages = CAUSAL if causal else MASKED
        self.lm.config.use_cache = False
        self.device = torch.device(config["device"])
        self.source = TextEncoder(
            folder,
            recipe=recipe,
            max_length=config["item_llm_max_length"],
            batch_size=config["item_llm_batch_size"],
            dtype="float32",
            device="cpu",
        )
        self.source.model = None  # its weights are those of lm
        self.head = self.source.head.requires_grad_(False).to(self.device)
        self.lm.to(self.device)
        if config["gradient_checkpointing"]:
            self.lm.gradient_checkpointing_enable({"use_reentrant": False})
        distinct = list(dict.fromkeys(text for text in texts if text))
        if len(distinct) < 2:
            raise ConfigError("item_text_fields: all items have the same text; name other fields")
        number = {text: i for i, text in enumerate(distinct)}
        self.text_of = torch.tensor([number.get(text, -1) for text in texts])  # [n_items]
        self.tokens = self.source.tokenize(distinct)  # of each distinct text
        limit = position_limit(self.lm) or config["title_sequence_tokens"]
        self.limit = min(config["title_sequence_tokens"], limit)
        self.tokenizer = load_tokenizer(folder, "item_llm")
        self.tokenizer.truncation_side = "left"  # keeps the newest titles
        if self.tokenizer.mask_token is None:  # as LLM2Vec's code with mask_token_type: blank
            blank = self.tokenizer.convert_tokens_to_ids("_") not in (
                None,
                self.tokenizer.unk_token_id,
            )
            self.tokenizer.mask_token = "_" if blank else self.tokenizer.unk_token

    def other_parameter(self) -> dict:
        """Nothing besides the state_dict (RecBole's name; the checkpoint asks for it)."""
        return {}

    def begin(self, stage: str) -> None:
        """Put the model into the state in which a stage trains it.

        Raises
        ------
        ConfigError
            SimCSE, and the model has no dropout.
        ModelFilesError
            The attention stays causal.
        """
        if stage in BIDIRECTIONAL:
            make_bidirectional(self.lm)
        if stage == "simcse":
            set_dropout(self.lm, self.config["simcse_dropout"])
        self.lm.train()

    def losses(self, stage: str) -> Iterator[torch.Tensor]:
        """Losses of one batch, whose sum is the batch's; each is to be backpropagated at once."""
        half = resolve_dtype("auto", self.device)
        with torch.autocast(self.device.type, half, enabled=half != torch.float32):
            yield from getattr(self, stage)(self.config[f"{stage}_batch_size"])

    # -- language modelling -------------------------------------------------------------------

    def next_title(self, n: int) -> Iterator[torch.Tensor]:
        """-sum log p(tokens of the next title | titles before it) (LLM2Rec, step 1).

        Titles are joined by commas; the last one ends with a newline and the end token, as in
        the authors' code.
        """
        first, last = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        begin = [i for i in self._ids("", special=True) if i == first]
        end = [] if last is None else [last]
        rows, labels = [], []
        for *history, target in self._histories(n):
            before = self._ids(", ".join(self.titles[item] for item in history) + ",")
            after = [*self._ids(f" {self.titles[target]}\n"), *end]
            kept = self.limit - len(begin)
            rows.append(torch.tensor([*begin, *(before + after)[-kept:]]))
            hidden = max(len(rows[-1]) - len(after), 0)
            labels.append(rows[-1].clone())
            labels[-1][:hidden] = IGNORED
        ids, mask = pad_tokens(rows, self.source.pad_id)
        padded = pad_sequence(labels, batch_first=True, padding_value=IGNORED)
        return self._token_losses(ids, mask, padded)

    def mntp(self, n: int) -> Iterator[torch.Tensor]:
        """Masked next-token prediction on item texts (LLM2Rec, step 2; LLM2Vec, step 2).

        The attention is bidirectional; the output at position i - 1 predicts the masked token i,
        which is the shift of a causal language model's own loss.
        """
        return self._masked([self.tokens[i] for i in torch.randint(len(self.tokens), (n,))], "mntp")

    def mlm(self, n: int) -> Iterator[torch.Tensor]:
        """Masked words of histories, their titles joined by commas."""
        histories = [", ".join(self.titles[i] for i in row) for row in self._histories(n)]
        rows = self.tokenizer(histories, truncation=True, max_length=self.limit)["input_ids"]
        return self._masked([torch.tensor(row) for row in rows], "mlm")

    def _masked(self, rows: list[torch.Tensor], stage: str) -> Iterator[torch.Tensor]:
        ids, mask = pad_tokens(rows, self.source.pad_id)
        collator = DataCollatorForLanguageModeling(
            self.tokenizer, mlm_probability=self.config[f"{stage}_probability"]
        )
        special = torch.isin(ids, torch.tensor(self.tokenizer.all_special_ids)) | (mask == 0)
        ids, labels = collator.torch_mask_tokens(ids, special_tokens_mask=special)
        return self._token_losses(ids, mask, labels)

    def _token_losses(self, ids, mask, labels) -> Iterator[torch.Tensor]:
        """Cross entropy of the labelled tokens, as shares of the batch's mean: ``[B, L]`` each."""
        if self.stages is CAUSAL:
            labels[:, 0] = IGNORED  # nothing is before it
        size = self.config["rows_at_once"] or len(ids)
        total = int((labels != IGNORED).sum())
        for part in zip(ids.split(size), mask.split(size), labels.split(size), strict=True):
            share = int((part[2] != IGNORED).sum()) / max(total, 1)
            if share:
                names = ("input_ids", "attention_mask", "labels")
                moved = (tensor.to(self.device) for tensor in part)
                yield share * self.lm(**dict(zip(names, moved, strict=True))).loss

    # -- contrastive --------------------------------------------------------------------------

    def simcse(self, n: int) -> Iterator[torch.Tensor]:
        """Two draws of dropout of each text are a positive pair (LLM2Rec, step 2; LLM2Vec, step 3).

        The other texts of the batch are the negatives: unsupervised SimCSE (arXiv 2104.08821).
        """
        drawn = torch.randperm(len(self.tokens))[:n]
        none = torch.zeros(len(drawn), len(drawn), dtype=torch.bool)
        yield self._contrast("simcse", self._encode(drawn), self._encode(drawn), none)

    def next_item(self, n: int) -> Iterator[torch.Tensor]:
        """An item and the one that follows it are a positive pair.

        The items that follow in the other pairs are the negatives, unless their text is that of
        one of the pair.
        """
        pairs = torch.tensor([row[-2:] for row in self._histories(n)])  # [B, 2]
        pairs = self.text_of[pairs]
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        if len(pairs) < 2:
            return
        distinct, (query, key) = torch.unique(pairs.T, return_inverse=True)
        vectors = self._encode(distinct)
        equal = (key == key[:, None]) | (key == query[:, None])  # [B, B]
        yield self._contrast("next_item", vectors[query], vectors[key], equal)

    def _contrast(self, stage: str, queries, keys, equal) -> torch.Tensor:
        """InfoNCE of each query's own key; keys marked in `equal` [B, B] are no negatives of it."""
        targets = torch.arange(len(keys), device=self.device)
        scale = 1 / self.config[f"{stage}_temperature"]
        return info_nce(queries, keys, targets, scale, equal.to(self.device))

    def _encode(self, texts: torch.Tensor) -> torch.Tensor:
        """Vectors of distinct texts: [n] numbers -> [n, d]."""
        padded = pad_tokens([self.tokens[i] for i in texts.tolist()], self.source.pad_id)
        ids, mask = (part.to(self.device) for part in padded)
        return pooled_states(self.lm.base_model, self.head, ids, mask)

    # -- data ---------------------------------------------------------------------------------

    def _histories(self, n: int) -> list[list[int]]:
        """Random windows, each a history and the item after it; items without text left out."""
        windows, rows = self.windows, []
        item, lists = windows.store.item_field, windows.store.item_field + windows.list_suffix
        for _ in range(DRAWS):
            batch = windows.collate(torch.randint(len(windows), (n - len(rows),)))
            ids = torch.cat([batch[lists], batch[item][:, None]], dim=1).tolist()
            texts = ([i for i in row if self.text_of[i] >= 0] for row in ids)  # padding has none
            rows += [row for row in texts if len(row) > 1]
            if len(rows) == n:
                return rows
        raise ConfigError("item_text_fields: hardly any user has two items with text; name others")

    def _ids(self, text: str, special: bool = False) -> list[int]:
        return self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]


@torch.no_grad()
def make_bidirectional(lm: PreTrainedModel) -> None:
    """Let every position of a causal language model see all others (LLM2Vec, step 1).

    transformers (5.2 and later) builds the masks by ``is_causal`` of the configuration, which is
    saved with the model.

    Raises
    ------
    ModelFilesError
        The first position still does not see the second.
    """
    lm.config.is_causal = False
    lm.eval()
    ids = torch.tensor([[1, 2], [1, 3]], device=lm.device)
    states = lm.base_model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    if float((states[0, 0] - states[1, 0]).abs().max()) <= 1e-6 * float(states.abs().max()):
        raise ModelFilesError(
            f"item_llm: the attention of a {lm.config.model_type} model cannot be made "
            "bidirectional; use a model such as Qwen, Llama or GPT-2, or set mntp_steps and "
            "simcse_steps to 0"
        )


def set_dropout(lm: PreTrainedModel, rate: float) -> None:
    """Set all rates of dropout inside a model; its configuration keeps its own.

    Raises
    ------
    ConfigError
        There are none.
    """
    found = False
    for module in lm.modules():
        for name in ("p",) if isinstance(module, nn.Dropout) else ("attention_dropout",):
            if isinstance(getattr(module, name, None), (int, float)):
                setattr(module, name, rate)
                found = True
    if not found:
        raise ConfigError(
            f"simcse_dropout: a {lm.config.model_type} model has no dropout; set simcse_steps: 0"
        )
