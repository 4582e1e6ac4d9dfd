"""Users and items as numbers in a language model's own tokens (P5, POD)."""

from __future__ import annotations

import torch

from recbole_lite.model.generative.candidate_decoding import (
    KEY,
    CandidatePrompts,
    split_candidate_template,
)
from recbole_lite.model.generative.generative_recommender import ItemVocabulary
from recbole_lite.model.generative.numeric_ids import NumericItemTrie
from recbole_lite.model.generative.prompts import Prompts, TokenTable, split_template
from recbole_lite.model.generative.trie import ItemTrie
from recbole_lite.text.item_llm_settings import TextFields
from recbole_lite.text.item_vectors import read_texts
from recbole_lite.text.llm_files import resolve_tokenizer
from recbole_lite.text.llm_loading import load_tokenizer
from recbole_lite.utils.errors import ConfigError


def numbered_words(config, dataset) -> ItemVocabulary:
    """Write users as ``user_12`` and items as ``item_34`` in prompts, items as ``34`` behind.

    Parameters
    ----------
    config : LiteConfig
        Keys ``tokenizer``, ``prompt_templates``, ``item_in_prompt``, ``item_numbers``.
    dataset : LiteSequentialDataset

    Raises
    ------
    ConfigError, ModelFilesError, DataError
        A key is wrong; the tokenizer cannot be had; two items have the same tokens.
    """
    folder = resolve_tokenizer(
        config["tokenizer"] or config["llm"], local_files_only=bool(config["local_files_only"])
    )
    tokenizer = load_tokenizer(folder, "tokenizer")

    def spell(texts):
        return tokenizer(texts, add_special_tokens=False).input_ids if texts else []

    def name_of(item):
        return repr(str(dataset.id2token(dataset.iid_field, item)))

    eos = tokenizer.eos_token_id
    numbers = item_numbers(config, dataset.item_num)
    users = TokenTable([[], *spell([f"user_{n}" for n in range(1, dataset.user_num)])])
    items = TokenTable([[], *spell(_names(config, dataset, numbers))])
    spelled = [[], *spell([str(n) for n in numbers])]
    paths = NumericItemTrie(spelled, eos, _pieces(tokenizer), name_of)
    if paths.numbers(paths.labels[1:]).tolist() != numbers:  # not SentencePiece: read tokens alone
        paths = ItemTrie(spelled, eos, name_of)
    templates = []
    for template in _templates(config["prompt_templates"]):
        before, between, behind = spell(list(split_template(template, "prompt_templates")))
        templates.append((before, between, [*behind, eos]))
    return ItemVocabulary(
        Prompts(templates, users, items), paths, candidates=_for_topn(config, spell, eos)
    )


def _pieces(tokenizer) -> list[str]:
    """Text of each token; "" for those that decoding skips."""
    skipped = set(tokenizer.all_special_ids)
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return ["" if n in skipped else piece for n, piece in enumerate(pieces)]


def _for_topn(config, spell, eos: int) -> CandidatePrompts | None:
    if config["task"] != "topn":
        return None
    templates = []
    for template in _templates(config[KEY], KEY):
        texts = split_candidate_template(template)
        parts = [None if text is None else spell([text])[0] for text in texts]
        templates.append((*parts[:-1], [*parts[-1], eos]))
    prompts = CandidatePrompts(templates)
    if config["topn_history"] and not prompts.shows_history.all():
        raise ConfigError(
            f"topn_history: a prompt shows the history where its template has {{items}}, and not "
            f"all of {KEY} have it"
        )
    return prompts


def item_numbers(config, n_items: int) -> list[int]:
    """Number of each item, by internal id from 1.

    RecBole numbers items as they come up in the file. Where that is user by user, neighbours in
    a history have neighbouring numbers, and so has the target: "sequential indexing" leaks it
    (Hua et al. 2023, arXiv 2305.06569). ``random``, the default, shuffles by the seed.

    Raises
    ------
    ConfigError
        Another word than ``random`` or ``internal``.
    """
    how = config["item_numbers"]
    if how == "internal":
        return list(range(1, n_items))
    if how != "random":
        raise ConfigError(f"item_numbers must be random or internal, found {how!r}")
    generator = torch.Generator().manual_seed(config["seed"])
    return (torch.randperm(n_items - 1, generator=generator) + 1).tolist()


def _names(config, dataset, numbers: list[int]) -> list[str]:
    """How prompts write the items 1, 2, ...."""
    how = config["item_in_prompt"]
    if how == "id":
        return [f"item_{n}" for n in numbers]
    if how != "title":
        raise ConfigError(f"item_in_prompt must be id or title, found {how!r}")
    texts, _ = read_texts(TextFields.from_config(config), dataset)
    return texts[1:]


def _templates(value, key: str = "prompt_templates") -> list[str]:
    templates = [value] if isinstance(value, str) else value
    if not isinstance(templates, list) or not templates:
        raise ConfigError(f"{key} must be a list of texts, found {value!r}")
    return templates
