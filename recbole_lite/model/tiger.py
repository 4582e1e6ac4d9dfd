"""TIGER: generative retrieval by semantic ids (Rajput et al., NeurIPS 2023, arXiv 2305.05065)."""

from __future__ import annotations

from zlib import crc32

import torch

from recbole_lite.model.generative.generative_recommender import GenerativeRecommender
from recbole_lite.model.generative.item_indexing import ItemVocabulary
from recbole_lite.model.generative.prompts import Prompts, TokenTable
from recbole_lite.model.generative.semantic_ids import load_semantic_ids
from recbole_lite.model.generative.trie import ItemTrie
from recbole_lite.utils.errors import ConfigError

EOS, FIRST_CODE = 1, 2  # 0: padding


class TIGER(GenerativeRecommender):
    """T5 that reads the semantic ids of a history and writes that of the next item.

    A semantic id is a tuple of codes from the residual quantisation of the item's text vector, and
    a digit that tells items of equal codes apart. Each level has tokens of its own. With
    ``user_tokens`` the prompt begins with a token that the user is hashed to (Section 4).

    Attributes
    ----------
    semantic_ids : torch.Tensor
        ``[n_items, n_codebooks + 1]``; part of a checkpoint, from which a model is built again.
    """

    # The history is left out of the search; of others, out of what it finds, which saved runs were
    # measured with.
    searches_unseen = True

    def item_vocabulary(self, config, dataset):
        """Codes of items, by level; hashed users."""
        self.register_buffer("semantic_ids", load_semantic_ids(config, dataset))
        widths = self.semantic_ids.max(0).values + 1
        ends = FIRST_CODE + widths.cumsum(0)
        paths = (self.semantic_ids + ends - widths).tolist()
        paths[0] = []
        first_user, n_users = int(ends[-1]), config["user_tokens"]
        self.hashed = _hashed_users(dataset, n_users) if n_users else None
        users = TokenTable([[], *([first_user + n] for n in range(n_users))])
        prompts = Prompts([([], [], [EOS])], users, TokenTable(paths))
        return ItemVocabulary(prompts, ItemTrie(paths, EOS), first_user + n_users)

    def user_numbers(self, interaction):
        """Number of each user's token from 1, 0 without tokens; ``[B]``, on the CPU."""
        if self.hashed is None:
            return torch.zeros(len(interaction[self.ITEM_SEQ]), dtype=torch.int64)
        return self.hashed[super().user_numbers(interaction)]


def _hashed_users(dataset, n_tokens: int) -> torch.Tensor:
    """Number of each user's token, from 1, by internal id.

    By CRC-32: Python's own hash of a text differs from process to process.
    """
    if not hasattr(dataset, "field2id_token"):
        raise ConfigError(
            f"user_tokens: {n_tokens}: the model reads a token of the user, and a Recommender "
            "knows histories alone; train with user_tokens: 0"
        )
    raw_ids = map(str, dataset.field2id_token[dataset.uid_field][1:])
    hashes = (crc32(raw_id.encode("utf-8", "surrogatepass")) for raw_id in raw_ids)
    return torch.tensor([0, *(1 + number % n_tokens for number in hashes)])
