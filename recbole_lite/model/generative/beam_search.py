"""Beam search over item tokens, on Hugging Face's ``generate``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from recbole_lite.model.generative.candidate_decoding import allowed_states
from recbole_lite.model.generative.shared_cross_attention import NAME, keys_of_users
from recbole_lite.model.generative.trie import ItemTrie


class TrieConstraint(LogitsProcessor):
    """Forbid every token that leaves the items' paths, for all beams at once.

    Parameters
    ----------
    paths : ItemTrie
    candidates : torch.Tensor, optional
        ``[B, C]`` ids; no other item may be written for a user.
    """

    def __init__(self, paths: ItemTrie, candidates: torch.Tensor | None = None):
        self.paths = paths
        self.allowed = None if candidates is None else allowed_states(paths, candidates)

    def __call__(self, input_ids, scores):
        """Scores ``[beams, vocabulary]`` with -inf at what leads to no item."""
        states = self.paths.walk(input_ids[:, 1:])
        rows, tokens = self.paths.continuations(states)
        if self.allowed is not None:
            width = len(input_ids) // len(self.allowed)  # beams of a user
            reached = self.paths.step(states[rows], tokens)
            kept = self.allowed[rows // width, reached]
            rows, tokens = rows[kept], tokens[kept]
        allowed = torch.full_like(scores, -torch.inf)
        allowed[rows, tokens] = scores[rows, tokens]
        return allowed


@dataclass
class BeamCounts:
    """What became of the beams: how many in all, spelling no item, spelling one again.

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
            self.no_candidate += int(strangers(items, candidates).sum())
        self.beams += items.numel()
        self.no_item += int((items == 0).sum())
        self.repeated += int(repeats(items).sum())

    def clear(self) -> None:
        """Begin to count anew."""
        self.beams = self.no_item = self.repeated = self.users = self.no_candidate = 0

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


def repeats(items: torch.Tensor) -> torch.Tensor:
    """Whether a beam's item stands in a better beam of the same user, ``[B, W]`` -> same shape."""
    same = items[:, :, None] == items[:, None, :]  # [B, W, W]
    return same.tril(-1).any(2) & (items > 0)


def strangers(items: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Whether a beam's item ``[B, W]`` is none of the user's candidates ``[B, C]``; ``[B, W]``."""
    return (items > 0) & ~(items[:, :, None] == candidates[:, None, :]).any(2)


def beam_search(
    model: PreTrainedModel,
    states: torch.Tensor,
    mask: torch.Tensor,
    paths: ItemTrie,
    width: int,
    constrained: bool,
    candidates: torch.Tensor | None = None,
) -> torch.Tensor:
    """Most probable items by a beam search.

    Parameters
    ----------
    model : transformers model
        Encoder-decoder, e.g. ``T5ForConditionalGeneration``.
    states : torch.Tensor
        Output of the encoder, ``[B, T, d]``.
    mask : torch.Tensor
        ``[B, T]``, 1 where there is a token.
    paths : ItemTrie
        What items look like.
    width : int
        Beams per user; as many items come out.
    constrained : bool
        Whether only tokens on the items' paths may be written.
    candidates : torch.Tensor, optional
        ``[B, C]`` ids; with `constrained` no other items are written.

    Returns
    -------
    torch.Tensor
        ``[B, width]`` internal ids, best first; 0 where a beam spells no item.
    """
    sequences = write(model, states, mask, paths, width, constrained, candidates)
    return paths.items(sequences).view(len(states), width)


def write(model, states, mask, paths, width, constrained, candidates=None) -> torch.Tensor:
    """Sequences of the beams, ``[B * width, T]``; parameters as :func:`beam_search`.

    The encoder has run once per user, and so have the decoder's keys and values of its output
    where ``shared_cross_attention.share_keys`` has prepared the model.
    """
    more = {}
    if model.config._attn_implementation == NAME:
        more["past_key_values"] = keys_of_users(model, states, mask)
    settings = GenerationConfig(
        num_beams=width,
        num_return_sequences=width,
        max_new_tokens=paths.longest,
        early_stopping=width > 1,  # as POD's code: done as soon as `width` sequences have ended
        do_sample=False,
        use_cache=True,
        eos_token_id=paths.eos,
        pad_token_id=model.config.pad_token_id,
        decoder_start_token_id=model.config.decoder_start_token_id,
    )
    processors = LogitsProcessorList([TrieConstraint(paths, candidates)] if constrained else [])
    return model.generate(
        encoder_outputs=BaseModelOutput(last_hidden_state=states),
        attention_mask=mask,
        generation_config=settings,
        logits_processor=processors,
        **more,
    )[:, 1:]  # without the start token
