"""Tiny language models with random weights, built as real ones are."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartModel,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
)

SPECIAL = ["<pad>", "<unk>", "<s>", "</s>"]
WORDS = ["toy", "story", "golden", "eye", "four", "rooms", "get", "shorty", "copycat"]
WORDS += ["animation", "comedy", "action", "thriller"]
VOCABULARY = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
SMALL = {"num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 24}


def _tokenizer(template: str | None, **special: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if template:
        ids = [(token, VOCABULARY[token]) for token in ("<s>", "</s>") if token in template]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=ids
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **special)


def _bert():
    config = BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=16, max_position_embeddings=32, **SMALL
    )
    tokenizer = _tokenizer("<s> $A </s>", pad_token="<pad>", cls_token="<s>", sep_token="</s>")
    return BertModel(config), tokenizer


def _roberta():
    config = RobertaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        max_position_embeddings=32,
        pad_token_id=0,
        type_vocab_size=1,
        **SMALL,
    )
    return RobertaModel(config), _tokenizer("<s> $A </s>", pad_token="<pad>", cls_token="<s>")


def _t5():
    tokenizer = _tokenizer("$A </s>", pad_token="<pad>", eos_token="</s>")
    return _t5_of(len(VOCABULARY)), tokenizer


def _t5_of(vocabulary: int) -> T5ForConditionalGeneration:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
    special = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    return T5ForConditionalGeneration(T5Config(vocab_size=vocabulary, **sizes, **special))


def _gpt2():
    config = GPT2Config(vocab_size=len(VOCABULARY), n_embd=16, n_layer=2, n_head=2, n_positions=32)
    return GPT2Model(config), _tokenizer(None, eos_token="</s>")  # no padding token


def _bart():
    config = BartConfig(
        vocab_size=len(VOCABULARY),
        d_model=16,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        max_position_embeddings=32,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        decoder_start_token_id=3,
    )
    return BartModel(config), _tokenizer("<s> $A </s>", pad_token="<pad>")


def _writer():
    """T5 whose tokenizer cuts ``item_123`` as T5's own does: ``▁item _ 12 3``."""
    pieces = ["▁", "▁user", "▁item", "_", *map(str, range(100))]
    pieces += [f"▁{n}" for n in range(100)] + ["▁next", "▁after", "▁what", "▁toy", "▁story"]
    pieces += list("abcdefghijklmnopqrstuvwxyz")
    # Longer pieces are likelier, as in a trained vocabulary.
    vocabulary = [(token, 0.0) for token in ("<pad>", "</s>", "<unk>")]
    vocabulary += [(piece, len(piece) - 10.0) for piece in pieces]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    return _t5_of(len(vocabulary)), fast


BUILDERS = {
    "bert": _bert, "roberta": _roberta, "t5": _t5, "gpt2": _gpt2, "bart": _bart, "writer": _writer,
}  # fmt: skip


def save_recipe(target: Path, llm: Path, layers=(), *, prompts=None, default=None, **options):
    """Write a sentence-transformers folder of a language model, by that library itself.

    ``layers`` are called with the size so far and give a module and its size; ``max_seq_length``
    and ``do_lower_case`` go to the Transformer, the rest to the Pooling.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    torch.manual_seed(5)
    names = ("max_seq_length", "do_lower_case")
    ours = {name: options.pop(name) for name in names if name in options}
    modules = [Transformer(str(llm), **ours), Pooling(16, **options)]
    modules[0].tokenizer.pad_token = modules[0].tokenizer.pad_token or "</s>"
    size = modules[1].pooling_output_dimension
    for build in layers:
        module, size = build(size)
        modules.append(module)
    prompts = {"prompts": prompts, "default_prompt_name": default} if prompts else {}
    SentenceTransformer(modules=modules, device="cpu", **prompts).save(str(target))
    if ours:  # in this file alone, as older versions wrote it
        (target / "sentence_bert_config.json").write_text(json.dumps(ours))
        config = target / "tokenizer_config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "model_max_length": 512}))
    return target
