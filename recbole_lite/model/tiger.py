"""TIGER: generative retrieval by semantic ids (Rajput et al., NeurIPS 2023, arXiv 2305.05065)."""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

from recbole_lite.model.generative.generative_recommender import GenerativeRecommender
from recbole_lite.model.generative.item_indexing import ItemVocabulary
from recbole_lite.model.generative.prompts import Prompts, TokenTable
from recbole_lite.model.generative.semantic_ids import load_semantic_ids
from recbole_lite.model.generative.trie import ItemTrie

EOS, FIRST_CODE = 1, 2  # 0: padding


class TIGER(GenerativeRecommender):
    """T5 that reads the semantic ids of a history and writes that of the next item.

    A semantic id is a tuple of codes from the residual quantisation of the item's text vector, and
    a digit that tells items of equal codes apart. Each level has tokens of its own. In front
    stands a token of the user, who is hashed to one of ``user_tokens``; without a user
    (``Recommender``) it is left out.

    Attributes
    ----------
    semantic_ids : torch.Tensor
        ``[n_items, n_codebooks + 1]``; part of a checkpoint, from which a model is built again.
    """

    def item_vocabulary(self, config, dataset):
        """Codes of items, by level; hashed users."""
        self.register_buffer("semantic_ids", load_semantic_ids(config, dataset))
        widths = self.semantic_ids.max(0).values + 1
        ends = FIRST_CODE + widths.cumsum(0)
        paths = (self.semantic_ids + ends - widths).tolist()
        paths[0] = []
        first_user, n_users = int(ends[-1]), config["user_tokens"]
        numbers = hashed_users(dataset.field2id_token[dataset.uid_field][1:], n_users)
        users = [[first_user + n] if n_users else [] for n in numbers]
        # Not in checkpoints: they follow from the raw ids, which a Recommender does not have.
        users = TokenTable([[], *users], persistent=False)
        prompts = Prompts([([], [], [EOS])], users, TokenTable(paths))
        return ItemVocabulary(prompts, ItemTrie(paths, EOS), first_user + n_users)


def hashed_users(raw_ids: Iterable, n_tokens: int) -> list[int]:
    """Number below `n_tokens` (0 without tokens) of each user.

    By CRC-32: Python's own hash of a text differs from process to process.
    """
    hashes = (crc32(str(raw_id).encode("utf-8", "surrogatepass")) for raw_id in raw_ids)
    return [number % max(n_tokens, 1) for number in hashes]
