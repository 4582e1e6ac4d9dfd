"""Warnings about item texts of which the Item LLM sees too little to tell the items apart."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from recbole_lite.utils.errors import shorten

# Relative to the largest number; a text's vector is rounded otherwise in a batch of other length.
_TOLERANCE = 1e-5


def warn_of_cut_texts(lengths: Sequence[int], n_texts: int, max_length: int) -> None:
    """Warn of texts that have more tokens than the `max_length` that the Item LLM reads.

    `lengths` are the numbers of tokens of the texts that are cut, of all `n_texts`.
    """
    if lengths:
        logging.getLogger().warning(
            f"{len(lengths):,} of {n_texts:,} item texts ({len(lengths) / n_texts:.1%}) have more "
            f"than {max_length:,} tokens (the longest {max(lengths):,}); the rest of each is not "
            "read (item_llm_max_length, item_text_fields)"
        )


def warn_of_equal_vectors(texts: Sequence[str], vectors: torch.Tensor) -> None:
    """Warn of distinct texts that have the same vector.

    Parameters
    ----------
    texts : sequence of str, length n
        ``""`` for items without text, which are passed over.
    vectors : Tensor [n, d], float32
        Row i belongs to text i.
    """
    rows = torch.tensor(list({text: i for i, text in enumerate(texts) if text}.values()))
    tolerance = _TOLERANCE * float(torch.linalg.vector_norm(vectors, torch.inf))
    # Equal vectors are neighbours in the order of any projection; only such pairs are compared.
    axis = torch.rand(vectors.size(1), generator=torch.Generator().manual_seed(0)) - 0.5
    values, order = (vectors @ axis)[rows].sort()
    order = rows[order]  # [n_distinct]
    near = (values.diff() <= tolerance * vectors.size(1) ** 0.5).nonzero().flatten()
    gaps = (vectors[order[near]] - vectors[order[near + 1]]).abs()  # [n_near, d]
    near = near[(gaps <= tolerance).all(dim=1)]
    if len(near):
        equal = torch.cat([near, near + 1]).unique()
        first, second = (shorten(texts[order[near[0] + i]], 80) for i in (0, 1))
        logging.getLogger().warning(
            f"{len(equal):,} of {len(rows):,} distinct item texts have the same vector as "
            f"another, e.g. {first!r} and {second!r}; the model cannot tell these items apart by "
            "their texts"
        )
