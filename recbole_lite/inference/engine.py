"""Top items for histories, as fast as the processor allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from recbole_lite.errors import ConfigError, RequestError
from recbole_lite.inference.dense import Head, head_rows
from recbole_lite.inference.encoder import FastEncoder, build_encoder
from recbole_lite.inference.ids import Ids, read_candidates, read_histories, read_seen
from recbole_lite.model.lite_llm4rec import LiteLLM4Rec

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
USERS_AT_ONCE = 128  # more do not make it faster, but take more memory


class Engine:
    """Scores of a trained model without what only training needs.

    Item vectors, the adapter, the position bias and the scales of norms are worked out once;
    padding costs nothing; head, mask and top-k stay on the device. The numbers are those of the
    model's ``full_sort_predict`` but for rounding.

    Parameters
    ----------
    model : LiteLLM4Rec
        Trained. Train it further, and make a new engine.
    dtype : {"float32", "bfloat16", "float16"}
        Of the encoder's matrix products; scores are float32 in any case.
    kind : type, optional
        Of the layers: Dense or PackedDense; default: the faster one, found by timing both.

    Attributes
    ----------
    n_items : int
        Ids go from 1 to ``n_items - 1``.
    max_length : int
        Items of a history that the model reads: the last ones.
    encoder : FastEncoder or PlainEncoder
        Recommendation LLMs other than T5's encoder and GPT-2 run as Hugging Face has them.

    Raises
    ------
    ConfigError
        Not a LiteLLM4Rec, an unknown `dtype`, or one that the encoder cannot have.
    """

    @torch.no_grad()
    def __init__(self, model: LiteLLM4Rec, dtype: str = "float32", kind: type | None = None):
        self.check(model)
        if dtype not in DTYPES:
            raise ConfigError(f"dtype must be one of {', '.join(DTYPES)}, found {dtype!r}")
        self.encoder = build_encoder(model.eval(), DTYPES[dtype], kind).eval()
        if dtype != "float32" and not isinstance(self.encoder, FastEncoder):
            kind = type(model.rec_llm.encoder).__name__
            raise ConfigError(f"dtype: {dtype} needs T5's encoder or GPT-2, found {kind}")
        weight = model.head_weight()
        self.head = Head(weight, self.encoder.kind)
        self.n_items, self.max_length = self.head.shape[0], int(model.max_seq_length)
        self.device = weight.device

    @staticmethod
    def check(model: torch.nn.Module) -> None:
        """Refuse a model that has no fast path.

        Raises
        ------
        ConfigError
        """
        if not isinstance(model, LiteLLM4Rec):
            raise ConfigError(
                f"the fast path is for LiteLLM4Rec, found {type(model).__name__}; "
                "use its full_sort_predict"
            )

    @torch.inference_mode()
    def users(self, histories: Ids) -> torch.Tensor:
        """User vectors.

        Parameters
        ----------
        histories : sequence of sequences of int, or torch.Tensor
            Internal item ids, oldest first; of long ones the end is read. A tensor ``[B, L]``
            has 0 behind the items of shorter rows.

        Returns
        -------
        torch.Tensor
            ``[B, d]``.

        Raises
        ------
        RequestError
            No history, an empty one, or an id outside the catalogue.
        """
        items, counts = read_histories(histories, self.n_items, self.max_length)
        found = [self._encode(*part) for _, *part in _parts(items, counts)]
        return found[0] if len(found) == 1 else torch.cat(found)

    @torch.inference_mode()
    def scores(self, histories: Ids) -> torch.Tensor:
        """Scores of all items, ``[B, n_items]``, -inf for padding (id 0): ``full_sort_predict``.

        Parameters, errors: see :meth:`users`.
        """
        return self.head(self.users(histories))

    @torch.inference_mode()
    def topk(
        self,
        histories: Ids,
        k: int,
        seen: Ids | None = None,
        candidates: Sequence[int] | torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Best items of each user, best first.

        Parameters
        ----------
        histories
            See :meth:`users`.
        k : int
            Number of items.
        seen : like `histories`, optional
            What not to recommend, for each user; usually the whole histories.
        candidates : sequence of int, optional
            The only items to recommend, for all users.

        Returns
        -------
        (torch.Tensor, torch.Tensor)
            Scores and internal ids, ``[B, k]``. Where `seen` leaves a user fewer than k items,
            the rest has score -inf and id 0.

        Raises
        ------
        RequestError
            As :meth:`users`; `k` below 1 or above the number of items (candidates) to choose
            from; ids in `seen` or `candidates` outside the catalogue.
        """
        if candidates is not None:
            candidates = read_candidates(candidates, self.n_items).to(self.device)
        available = self.n_items - 1 if candidates is None else len(candidates)
        if not 1 <= k <= available:
            raise RequestError(f"k is {k}; there are {available:,} items: ask for 1 to {available}")
        items, counts = read_histories(histories, self.n_items, self.max_length)
        if seen is not None:
            seen = read_seen(seen, self.n_items, len(items)).to(self.device)
        found = []
        for rows, *part in _parts(items, counts):
            scores = self.head(self._encode(*part))
            if seen is not None:
                scores.scatter_(1, seen[rows], -torch.inf)  # 0, for none, has -inf already
            if candidates is not None:
                scores = scores[:, candidates]
            found.append(scores.topk(k))
        scores, places = found[0]
        if len(found) > 1:
            scores, places = (torch.cat(parts) for parts in zip(*found, strict=True))
        ids = places if candidates is None else candidates[places]
        return scores, ids.masked_fill(scores.isneginf(), 0)

    @torch.inference_mode()
    def warm_up(self, users: int = 32) -> None:
        """Meet all shapes of batches of up to `users`, so that no request waits for a kernel.

        oneDNN prepares code for each shape that it meets first, some milliseconds long.
        """
        if isinstance(self.encoder, FastEncoder):
            users = min(users, USERS_AT_ONCE)
            self.encoder.warm_up(users * self.max_length)
            for rows in sorted({head_rows(count) for count in range(1, users + 1)}):
                self.head(torch.zeros(rows, self.head.shape[1], device=self.device))

    def _encode(self, items: torch.Tensor, padded: bool) -> torch.Tensor:
        return self.encoder(items.to(self.device), padded)


def _parts(items, counts) -> Iterator[tuple[slice, torch.Tensor, bool]]:
    """Pieces of a large batch, no wider than their longest history, and whether they have gaps."""
    if len(items) == 1:  # as long as it is
        yield slice(None), items, False
        return
    for begin in range(0, len(items), USERS_AT_ONCE):
        rows = slice(begin, begin + USERS_AT_ONCE)
        longest = int(counts[rows].max())
        yield rows, items[rows, :longest], int(counts[rows].min()) < longest
