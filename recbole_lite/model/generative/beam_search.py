"""Beam search over item tokens, on Hugging Face's ``generate``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from recbole_lite.model.generative.shared_cross_attention import NAME, precompute_cross_attention
from recbole_lite.model.generative.trie import ItemTrie


class TrieConstraint(LogitsProcessor):
    """Forbid every token that leaves the items' paths, for all beams at once.

    (transformers' ``PrefixConstrainedLogitsProcessor`` asks a Python function for each beam.)

    Parameters
    ----------
    trie : ItemTrie
    allowed : torch.Tensor, optional
        ``[B, n_states]`` states that a user's beams may reach; default: all.
    """

    def __init__(self, trie: ItemTrie, allowed: torch.Tensor | None = None):
        self.trie, self.allowed = trie, allowed

    def __call__(self, input_ids, scores):
        """Scores ``[beams, vocabulary]`` with -inf at tokens that lead to no item."""
        states = self.trie.walk(input_ids[:, 1:])
        rows, tokens = self.trie.continuations(states)
        if self.allowed is not None:
            width = len(input_ids) // len(self.allowed)  # beams of a user
            reached = self.trie.step(states[rows], tokens)
            kept = self.allowed[rows // width, reached]
            rows, tokens = rows[kept], tokens[kept]
        allowed = torch.full_like(scores, -torch.inf)
        allowed[rows, tokens] = scores[rows, tokens]
        return allowed


@dataclass
class BeamCounts:
    """How many beams there were, and how many of them spell no item or one a second time.

    With ``task: topn`` also how many spell an item that is no candidate.
    """

    beams: int = 0
    no_item: int = 0
    repeated: int = 0
    users: int = 0
    no_candidate: int = 0

    def add(self, items: torch.Tensor, candidates: torch.Tensor | None = None) -> None:
        """Count beams ``[B, W]`` of internal ids, best first, 0 where there is no item."""
        self.users += len(items)
        if candidates is not None:
            self.no_candidate += int(unknown_items(items, candidates).sum())
        self.beams += items.numel()
        self.no_item += int((items == 0).sum())
        self.repeated += int(duplicates(items).sum())

    def clear(self) -> None:
        """Reset all counts to 0."""
        self.__init__()

    def __str__(self):
        if not self.beams:
            return "no beams"
        text = (
            f"{self.beams:,} beams of {self.users:,} users: {self.no_item / self.beams:.2%} spell "
            f"no item, {self.repeated / self.beams:.2%} an item that a better beam spells"
        )
        if self.no_candidate:
            text += f", {self.no_candidate / self.beams:.2%} an item that is no candidate"
        return text


def duplicates(items: torch.Tensor) -> torch.Tensor:
    """Whether a better beam of the same user has the same item, ``[B, W]`` -> same shape."""
    same = items[:, :, None] == items[:, None, :]  # [B, W, W]
    return same.tril(-1).any(2) & (items > 0)


def unknown_items(items: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Whether a beam's item ``[B, W]`` is none of the user's candidates ``[B, C]``; ``[B, W]``."""
    return (items > 0) & ~(items[:, :, None] == candidates[:, None, :]).any(2)


def beam_search(
    model: PreTrainedModel,
    states: torch.Tensor,
    mask: torch.Tensor,
    trie: ItemTrie,
    num_beams: int,
    constrained: bool,
    candidates: torch.Tensor | None = None,
    seen: torch.Tensor | None = None,
) -> torch.Tensor:
    """Most probable items by a beam search.

    Parameters
    ----------
    model : transformers model
        Encoder-decoder, e.g. ``T5ForConditionalGeneration``.
    states : torch.Tensor
        Output of the encoder, ``[B, T, d]``.
    mask : torch.Tensor
        ``[B, T]``, 1 at tokens, 0 at padding.
    trie : ItemTrie
        Token sequences of the items.
    num_beams : int
        Beams per user, and items in the result.
    constrained : bool
        Whether beams can only write items.
    candidates, seen : torch.Tensor, optional
        ``[B, C]`` and ``[B, H]`` ids, 0 for padding; with `constrained` a user's beams can write
        the candidates alone, and no item that the user has had.

    Returns
    -------
    torch.Tensor
        ``[B, num_beams]`` internal ids, best first; 0 where a beam spells no item, or there are
        fewer items than beams.
    """
    allowed = None
    if constrained and not (candidates is None and seen is None):
        allowed = trie.states_towards(candidates, seen)
    sequences = generate(model, states, mask, trie, num_beams, constrained, allowed)
    items = trie.items(sequences).view(len(states), num_beams)
    if allowed is not None:  # where fewer items than beams are allowed, the others write any
        ends = trie.walk(sequences).view_as(items).clamp_min(0)
        items = items * allowed.gather(1, ends)
    return items


def generate(model, states, mask, trie, num_beams, constrained, allowed=None) -> torch.Tensor:
    """Sequences of the beams, ``[B * num_beams, T]``; parameters as :func:`beam_search`.

    `allowed` are the states that a user's beams may reach, as :class:`TrieConstraint` takes them.

    The encoder has run once per user, and so have the decoder's keys and values of its output
    where ``shared_cross_attention.share_cross_attention`` has prepared the model.
    """
    more = {}
    if model.config._attn_implementation == NAME:
        more["past_key_values"] = precompute_cross_attention(model, states, mask)
    settings = GenerationConfig(
        num_beams=num_beams,
        num_return_sequences=num_beams,
        max_new_tokens=trie.max_length,
        early_stopping=num_beams > 1,  # as POD's code: until `num_beams` sequences have ended
        do_sample=False,
        use_cache=True,
        eos_token_id=trie.eos,
        pad_token_id=model.config.pad_token_id,
        decoder_start_token_id=model.config.decoder_start_token_id,
    )
    processors = LogitsProcessorList([TrieConstraint(trie, allowed)] if constrained else [])
    return model.generate(
        encoder_outputs=BaseModelOutput(last_hidden_state=states),
        attention_mask=mask,
        generation_config=settings,
        logits_processor=processors,
        **more,
    )[:, 1:]  # without the start token
