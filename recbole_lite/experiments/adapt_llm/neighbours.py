"""What an adaptation changes: which items are near, and how often the next one is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from recbole_lite.data.windows import Windows
from recbole_lite.text.item_vectors import ItemVectors
from recbole_lite.utils.errors import shorten

NEAR = 10  # nearest items among which the next one is looked for
SHOWN, POPULAR = 3, 10  # nearest items in the table, and its rows
CHUNK = 1024


def nearest(vectors: ItemVectors, items: torch.Tensor, k: int) -> torch.Tensor:
    """Items of the largest cosine to each of `items` (internal ids ``[n]``), itself left out.

    Returns
    -------
    LongTensor [n, k]
        Fewer columns where there are fewer items with text.
    """
    unit = F.normalize(vectors.vectors, dim=1)
    k = min(k, int(vectors.has_text.sum()) - 1)
    found = []
    for chunk in items.split(CHUNK):
        scores = unit[chunk] @ unit.T  # [n, n_items]
        scores[:, ~vectors.has_text] = -torch.inf
        scores[torch.arange(len(chunk)), chunk] = -torch.inf
        found.append(scores.topk(k, dim=1).indices)
    return torch.cat(found)


def share_of_next(vectors: ItemVectors, windows: Windows) -> float:
    """Share of windows whose target is among the `NEAR` nearest items of the item before it."""
    store = windows.store
    last, target = (store.take(store.item_field, windows.rows + step) for step in (-1, 0))
    # [n, k] == [n, 1]
    return float((nearest(vectors, last, NEAR) == target[:, None]).any(dim=1).float().mean())


def render(
    what: str,
    vectors: Mapping[str, ItemVectors],
    parts: Mapping[str, Windows],
    losses: Mapping[str, Sequence[float]],
    titles: Sequence[str],
) -> str:
    """Report in Markdown.

    Vectors are those ``before`` and ``after``; of the parts, ``train`` decides which items are
    popular, and ``valid`` has the users of the shares. Losses are those of each step, by stage.
    """
    lines = [f"# {what}", ""]
    if len(parts["valid"]):
        shares = [f"{name} {share_of_next(v, parts['valid']):.4f}" for name, v in vectors.items()]
        lines += [
            f"Share of users whose validation item is among the {NEAR} nearest items (cosine) of "
            f"their last training item: {', '.join(shares)} ({len(parts['valid']):,} users).",
            "",
        ]
    lines += ["| stage | steps | mean loss, first tenth | last tenth |", "|---|---|---|---|"]
    for stage, values in losses.items():
        n = -(-len(values) // 10)
        ends = [f"{np.mean(end):.4f}" for end in (values[:n], values[len(values) - n :]) if end]
        lines.append(f"| {stage} | {len(values):,} | {' | '.join(ends)} |")
    counts = np.bincount(parts["train"].interactions()[1], minlength=len(titles))
    counts[~vectors["before"].has_text.numpy()] = 0
    popular = torch.from_numpy(np.argsort(-counts, kind="stable")[:POPULAR].copy())
    lines += ["", f"The {SHOWN} nearest items of the most popular ones in training:", ""]
    lines += [f"| item | {' | '.join(vectors)} |", "|---|---|---|"]
    near = [nearest(one, popular, SHOWN).tolist() for one in vectors.values()]
    for item, *found in zip(popular.tolist(), *near, strict=True):
        cells = ["; ".join(_name(titles[i]) for i in row) for row in ([item], *found)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _name(title: str) -> str:
    return shorten(title, 50).replace("|", "\\|")
