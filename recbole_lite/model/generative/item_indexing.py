"""How users and items are written in tokens; numeric ids in a language model's tokens (P5, POD)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from recbole_lite.model.generative.numeric_ids import NumericItemTrie
from recbole_lite.model.generative.prompts import (
    CANDIDATE_KEY,
    CandidatePrompts,
    Prompts,
    TokenTable,
    split_candidate_template,
    split_template,
)
from recbole_lite.model.generative.trie import ItemTrie
from recbole_lite.text.item_llm_settings import TextFields
from recbole_lite.text.item_vectors import read_texts
from recbole_lite.text.llm_files import resolve_tokenizer
from recbole_lite.text.llm_loading import load_tokenizer
from recbole_lite.utils.errors import ConfigError


@dataclass(frozen=True)
class ItemVocabulary:
    """How a generative model writes users and items.

    Attributes
    ----------
    prompts : Prompts
        Users and histories -> token ids of the encoder's input.
    trie : ItemTrie
        Token ids that the decoder writes for each item.
    vocab_size : int or None
        Number of tokens; None: the language model's own.
    candidate_prompts : CandidatePrompts or None
        Prompts with candidates (``task: topn``).
    """

    prompts: Prompts
    trie: ItemTrie
    vocab_size: int | None = None
    candidate_prompts: CandidatePrompts | None = None


def numeric_vocabulary(config, dataset) -> ItemVocabulary:
    """Prompts with ``user_12`` and ``item_34``, and targets ``34``, in a tokenizer's tokens.

    Parameters
    ----------
    config : LiteConfig
        Keys ``tokenizer``, ``prompt_templates``, ``item_in_prompt``, ``item_numbers``.
    dataset : LiteSequentialDataset

    Raises
    ------
    ConfigError, ModelFilesError, DataError
        A key is wrong; the tokenizer is not available; two items have the same tokens.
    """
    folder = resolve_tokenizer(
        config["tokenizer"] or config["llm"], local_files_only=bool(config["local_files_only"])
    )
    tokenizer = load_tokenizer(folder, "tokenizer")

    def tokenize(texts):
        return tokenizer(texts, add_special_tokens=False).input_ids if texts else []

    def item_name(item):
        return repr(str(dataset.id2token(dataset.iid_field, item)))

    eos = tokenizer.eos_token_id
    numbers = item_numbers(config, dataset.item_num)
    users = TokenTable([[], *tokenize([f"user_{n}" for n in range(1, dataset.user_num)])])
    items = TokenTable([[], *tokenize(_item_texts(config, dataset, numbers))])
    paths = [[], *tokenize([str(n) for n in numbers])]
    trie = NumericItemTrie(paths, eos, _pieces(tokenizer), item_name)
    if trie.numbers(trie.labels[1:]).tolist() != numbers:  # not SentencePiece: compare tokens
        trie = ItemTrie(paths, eos, item_name)
    templates = []
    for template in _templates(config, "prompt_templates"):
        before, between, after = tokenize(list(split_template(template, "prompt_templates")))
        templates.append((before, between, [*after, eos]))
    prompts = Prompts(templates, users, items)
    return ItemVocabulary(prompts, trie, None, _candidate_prompts(config, tokenize, eos))


def _pieces(tokenizer) -> list[str]:
    """Text of each token; "" for those that decoding skips."""
    skipped = set(tokenizer.all_special_ids)
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return ["" if n in skipped else piece for n, piece in enumerate(pieces)]


def _candidate_prompts(config, tokenize, eos: int) -> CandidatePrompts | None:
    if config["task"] != "topn":
        return None
    templates = []
    for template in _templates(config, CANDIDATE_KEY):
        texts = split_candidate_template(template)
        parts = [None if text is None else tokenize([text])[0] for text in texts]
        templates.append((*parts[:-1], [*parts[-1], eos]))
    prompts = CandidatePrompts(templates)
    if config["topn_history"] and not prompts.shows_history.all():
        raise ConfigError(
            "topn_history: a prompt shows the history where its template has {items}, and not "
            f"all of {CANDIDATE_KEY} have it"
        )
    return prompts


def item_numbers(config, n_items: int) -> list[int]:
    """Number of each item, by internal id from 1.

    RecBole numbers items in the order of the file. Where that is user by user, neighbours in a
    history have neighbouring numbers, and so has the target: "sequential indexing" leaks it (Hua
    et al. 2023, arXiv 2305.06569). ``random``, the default, shuffles by the seed.
    """
    if config["item_numbers"] == "internal":
        return list(range(1, n_items))
    generator = torch.Generator().manual_seed(config["seed"])
    return (torch.randperm(n_items - 1, generator=generator) + 1).tolist()


def _item_texts(config, dataset, numbers: list[int]) -> list[str]:
    """Texts of items 1, 2, ... in prompts."""
    if config["item_in_prompt"] == "id":
        return [f"item_{n}" for n in numbers]
    texts, _ = read_texts(TextFields.from_config(config), dataset)
    return texts[1:]


def _templates(config, key: str) -> list[str]:
    templates = [config[key]] if isinstance(config[key], str) else config[key]
    if not isinstance(templates, list) or not templates:
        raise ConfigError(f"{key} must be a list of texts, found {templates!r}")
    return templates
