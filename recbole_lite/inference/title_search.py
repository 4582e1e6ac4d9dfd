"""An index of titles: search by beginning, by words and by similar spelling."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from difflib import SequenceMatcher
from functools import cached_property
from heapq import nlargest
from itertools import groupby

import numpy as np

_LAST = "\U0010ffff"  # sorts behind every character of a word
_AFTER_SPACE = "!"  # titles have no other character between the space and letters and digits
_CUTOFF = 0.6  # of difflib.get_close_matches
_MOST_RATIOS = 2000  # that difflib computes for one search, some 50 ms
_BITS = 64


class TitleIndex:
    """Distinct normalised titles, numbered by length (:func:`.catalogue.normalize_title`).

    A search takes milliseconds for a million titles. NumPy does nearly all of the work and
    releases the interpreter lock, so a search in a thread does not delay other threads.

    Parameters
    ----------
    titles : iterable of str
        Titles of equal length keep their order.
    """

    def __init__(self, titles: Iterable[str]):
        self._titles = sorted(titles, key=len)
        order = sorted(range(len(self._titles)), key=self._titles.__getitem__)
        self._sorted = [self._titles[i] for i in order]
        self._numbers = np.array(order, np.int32)
        found: dict[str, int] = {}
        split = (word for title in self._titles for word in title.split())
        words = np.fromiter((found.setdefault(word, len(found)) for word in split), np.int32)
        counts = np.fromiter((title.count(" ") + 1 for title in self._titles), np.int64)
        self._words = sorted(found)
        rank = np.empty(len(found), np.int32)
        rank[[found[word] for word in self._words]] = np.arange(len(found))
        words = rank[words]
        titles_of = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        self._titles_of = titles_of[np.argsort(words, kind="stable")]  # of each word, in order
        self._starts = np.concatenate([[0], np.bincount(words, minlength=len(found)).cumsum()])

    def search(self, wanted: str, limit: int) -> list[str]:
        """Titles that begin with `wanted`, whole words first; then those that have its words.

        The last word may be incomplete. Shorter titles come first.
        """
        low, middle, high = (
            bisect_left(self._sorted, wanted + end) for end in ("", _AFTER_SPACE, _LAST)
        )
        begin, cut = (
            np.sort(self._numbers[part])[:limit]
            for part in (slice(low, middle), slice(middle, high))
        )
        within = self._with_words(wanted.split())[: limit + len(begin) + len(cut)]
        numbers = dict.fromkeys(np.concatenate([begin, cut, within]).tolist())
        return [self._titles[i] for i in list(numbers)[:limit]]

    def _with_words(self, words: list[str]) -> np.ndarray:
        ends = [_LAST if place == len(words) else "\0" for place in range(1, len(words) + 1)]
        found = np.ones(len(self._titles), bool)
        for word, end in zip(words, ends, strict=True):
            low, high = bisect_left(self._words, word), bisect_left(self._words, word + end)
            has = np.zeros_like(found)
            has[self._titles_of[self._starts[low] : self._starts[high]]] = True
            found &= has
        return np.flatnonzero(found)

    # -- similar spelling -------------------------------------------------------------------

    def similar(self, wanted: str, limit: int) -> list[str]:
        """The result of ``difflib.get_close_matches``, for the titles that may be similar.

        difflib's ratio counts characters of a common subsequence, so the longest one bounds it.
        Ratios are computed in the order of this bound, at most 2,000 of them.
        """
        numbers, bounds = self._bounds(wanted)
        matcher = SequenceMatcher(b=wanted)
        best: list[tuple[float, str]] = []
        for place in np.argsort(-bounds, kind="stable")[:_MOST_RATIOS]:
            if len(best) == limit and bounds[place] < best[-1][0]:
                break
            title = self._titles[numbers[place]]
            matcher.set_seq1(title)
            if matcher.quick_ratio() >= _CUTOFF and (ratio := matcher.ratio()) >= _CUTOFF:
                best = nlargest(limit, [*best, (ratio, title)])
        return [title for _, title in best]

    def _bounds(self, wanted: str) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of titles whose bound reaches the cutoff, and their bounds."""
        parts = [wanted[i : i + _BITS] for i in range(0, len(wanted), _BITS)]
        tables = [self._positions(part) for part in parts]
        numbers, bounds = [np.empty(0, np.int64)], [np.empty(0)]
        for first, letters in self._by_length:
            total = len(letters) + len(wanted)
            if 2 * min(len(letters), len(wanted)) / total < _CUTOFF:
                continue
            common = np.zeros(letters.shape[1])
            for table, part in zip(tables, parts, strict=True):
                common += _common_subsequence(letters, table, len(part))
            bound = 2 * common / total
            kept = np.flatnonzero(bound >= _CUTOFF)
            numbers.append(kept + first)
            bounds.append(bound[kept])
        return np.concatenate(numbers), np.concatenate(bounds)

    def _positions(self, part: str) -> np.ndarray:
        """Bit mask of the places at which each letter of the alphabet occurs."""
        bits = next(bits for bits in (8, 16, 32, 64) if len(part) <= bits)
        table = np.zeros(len(self._alphabet), f"u{bits // 8}")
        for place, char in enumerate(part):
            if char in self._alphabet:
                table[self._alphabet[char]] |= table.dtype.type(1 << place)
        return table

    @cached_property
    def _alphabet(self) -> dict[str, int]:
        return {char: i for i, char in enumerate(sorted(set().union(*self._titles)))}

    @cached_property
    def _by_length(self) -> list[tuple[int, np.ndarray]]:
        """Of each length, the first number and the letters ``[length, count]``."""
        kind = np.min_scalar_type(len(self._alphabet))
        lookup = np.zeros(max(map(ord, self._alphabet), default=0) + 1, kind)
        lookup[list(map(ord, self._alphabet))] = np.arange(len(self._alphabet))
        groups, first = [], 0
        for length, group in groupby(self._titles, len):
            titles = list(group)
            text = "".join(titles).encode("utf-32-le", "surrogatepass")
            letters = lookup[np.frombuffer(text, np.uint32)].reshape(len(titles), length).T
            groups.append((first, np.ascontiguousarray(letters)))
            first += len(titles)
        return groups


def _common_subsequence(letters: np.ndarray, table: np.ndarray, size: int) -> np.ndarray:
    """Length of the longest common subsequence of each title and a text of `size` characters.

    Bit-parallel (Hyyrö 2004): zeros in a title's bits count the characters in common.
    """
    rest = np.full(letters.shape[1], (1 << size) - 1, table.dtype)
    for letter in letters:
        hit = rest & table[letter]
        rest = (rest + hit) | (rest - hit)
    rest &= table.dtype.type((1 << size) - 1)
    return size - np.bitwise_count(rest).astype(np.int64)
