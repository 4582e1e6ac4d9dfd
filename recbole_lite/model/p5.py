"""P5: recommendation as language processing (Geng et al., RecSys 2022)."""

from __future__ import annotations

from recbole_lite.model.generative.generative_recommender import GenerativeRecommender
from recbole_lite.model.generative.item_indexing import numeric_vocabulary


class P5(GenerativeRecommender):
    """T5 that reads a prompt with numbers of user and items and writes the next item's number.

    The paper's sequential task, or with ``task: topn`` its choice among candidates (one task per
    run). Each training example takes one of ``prompt_templates`` (``topn_templates``) at
    random; evaluation takes the first.
    """

    reads_candidates = True  # task: topn

    def item_vocabulary(self, config, dataset):
        """``user_12``, ``item_34`` in T5's own tokens."""
        return numeric_vocabulary(config, dataset)
