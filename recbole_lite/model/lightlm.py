"""LightLM: a deep and narrow language model for generative recommendation (arXiv 2310.17488)."""

from __future__ import annotations

from itertools import chain

from recbole_lite.model.generative.generative_recommender import GenerativeRecommender
from recbole_lite.model.generative.item_indexing import ItemVocabulary
from recbole_lite.model.generative.prompts import Prompts, TokenTable
from recbole_lite.model.generative.spectral_indexing import cooccurrence, spectral_paths
from recbole_lite.model.generative.trie import ItemTrie

EOS, FIRST_DIGIT, FIRST_CLUSTER = 1, 2, 12  # 0: padding


class LightLM(GenerativeRecommender):
    """T5 with feed-forward layers of width 16, over tokens that stand for clusters of items.

    Items of the same users get paths with a common prefix ("spectral collaborative indexing"), and
    the beams cannot leave the items' paths. Tokens: one for each digit of a user's number, and one
    for each cluster number of a level. The authors' code writes the same paths in T5's 32,100
    tokens; the output layer over the small vocabulary here is a hundred times smaller.
    """

    def item_vocabulary(self, config, dataset):
        """Digits for users, cluster tokens for items."""
        # The dataset of the training loader has no held-out interactions.
        affinity = cooccurrence(*dataset.inter_feat.interactions(), dataset.item_num)
        levels = spectral_paths(
            affinity,
            config["lightlm_clusters"],
            config["lightlm_cluster_size"],
            config["seed"],
        )
        width = max(chain.from_iterable(levels)) + 1
        # The same number is another cluster on each level, so each level has tokens of its own.
        paths = [
            [FIRST_CLUSTER + level * width + number for level, number in enumerate(path)]
            for path in levels
        ]
        digits = [[FIRST_DIGIT + int(d) for d in str(n)] for n in range(1, dataset.user_num)]
        prompts = Prompts([([], [], [EOS])], TokenTable([[], *digits]), TokenTable(paths))
        vocabulary = FIRST_CLUSTER + width * max(map(len, paths))
        return ItemVocabulary(prompts, ItemTrie(paths, EOS), vocabulary)
