"""The catalogue of a model: ids, titles and texts of its items, and search by title."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_lite.inference.title_search import TitleIndex
from recbole_lite.utils.errors import CheckpointError, RequestError, shorten
from recbole_lite.utils.files import write_atomically

if TYPE_CHECKING:
    from recbole_lite.inference.item_filters import ItemFilters

PADDING = "[PAD]"  # RecBole's token for internal id 0
_ARTICLE = re.compile(r"^(.*), (the|an|a|les|le|la|il|el|das|der|die|los|un|une)( \(.*\))?$")
_YEAR = re.compile(r"\s*\(\d{4}\)$")
_FIELDS = ("id", "title", "text")


class Catalogue:
    """Items by internal id; id 0 is padding.

    Parameters
    ----------
    ids : sequence of str
        Raw ids of items 1, 2, ...
    titles, texts : sequence of str
        Of the same items; an empty title is replaced by the id.
    counts : sequence of int, optional
        Number of interactions of the same items in the training data.
    fields : sequence of mapping, optional
        Fields of the same items, for filters: texts, numbers, lists of texts.

    Attributes
    ----------
    ids, titles, texts, counts, fields : list
        By internal id, ``[n_items]`` including padding; `counts` is None if unknown.
    index : dict of str to int
        Raw id -> internal id.

    Raises
    ------
    RequestError
        Two items have the same id.
    """

    def __init__(
        self,
        ids: Sequence[str],
        titles: Sequence[str],
        texts: Sequence[str],
        counts: Sequence[int] | None = None,
        fields: Sequence[Mapping[str, Any]] = (),
    ):
        self.counts = None if counts is None else [0, *counts]
        self.fields: list[Mapping[str, Any]] = [{}, *fields]
        self.ids, self.titles, self.texts = [PADDING], [PADDING], [""]
        self.index: dict[str, int] = {}
        self.extend(ids, titles, texts)

    def __len__(self) -> int:
        """Number of items without padding."""
        return len(self.ids) - 1

    def extend(self, ids: Sequence[str], titles: Sequence[str], texts: Sequence[str]) -> None:
        """Append items; if one is refused, the catalogue stays unchanged.

        Raises
        ------
        RequestError
            Two items have the same id.
        """
        counts = Counter(ids)
        twice = [i for i in ids if i in self.index or counts[i] > 1]
        if twice:
            raise RequestError(f"item id {twice[0]!r} occurs twice in the catalogue")
        for raw, title, text in zip(ids, titles, texts, strict=True):
            self.index[raw] = len(self.ids)
            self.ids.append(raw)
            self.titles.append(title or raw)
            self.texts.append(text)
        if self.counts is not None:  # new items have none yet
            self.counts += [0] * (len(self.ids) - len(self.counts))
        self.fields += [{}] * (len(self.ids) - len(self.fields))
        for name in ("_by_title", "_title_index", "filters"):
            self.__dict__.pop(name, None)

    # -- finding ----------------------------------------------------------------------------

    def resolve(self, history: Iterable) -> tuple[list[int], list[str]]:
        """Internal ids of the known raw ids, in order, and the unknown raw ids."""
        known, unknown = [], []
        for raw in history:
            place = self.index.get(raw if isinstance(raw, str) else str(raw))
            if place is None:
                unknown.append(str(raw))
            else:
                known.append(place)
        return known, unknown

    def find(self, name: str) -> int:
        """Internal id of the item with this raw id or title.

        Raw ids have priority. Titles are compared without case, accents and punctuation; "The
        Matrix" finds "Matrix, The", and a year in parentheses may follow.

        Raises
        ------
        RequestError
            No item matches (the message names similar titles), or several (it names their ids).
        """
        name = name.strip()
        if name in self.index:
            return self.index[name]
        places = self._by_title.get(normalize_title(name)) or self._by_title.get(
            normalize_title(_YEAR.sub("", name)), []
        )
        if not places:
            near = [f"{self.titles[i]} (id {self.ids[i]})" for i in self.search(name, 5)]
            hint = f"did you mean {' or '.join(near)}?" if near else "no title is similar"
            raise RequestError(f"no item has the id or title {name!r}; {hint}")
        if len(places) > 1:
            named = ", ".join(f"{self.ids[i]} ({shorten(self.texts[i], 60)})" for i in places[:5])
            more = f" and {len(places) - 5} more" if len(places) > 5 else ""
            raise RequestError(
                f"{len(places)} items are called {name!r}; give the id: {named}{more}"
            )
        return places[0]

    def search(self, text: str, limit: int = 10) -> list[int]:
        """Internal ids of items with titles similar to `text`, the most similar first.

        First titles that begin with it, then titles that contain all of its words (the last may be
        incomplete), then titles of similar spelling.
        """
        wanted = normalize_title(text)
        if not wanted or limit < 1:
            return []
        titles = self._title_index.search(wanted, limit)
        if sum(len(self._by_title[title]) for title in titles) < limit:
            titles += self._title_index.similar(wanted, limit)
        found = (place for title in titles for place in self._by_title[title])
        return list(dict.fromkeys(found))[:limit]

    @cached_property
    def filters(self) -> ItemFilters:
        """Filters over :attr:`fields`."""
        from recbole_lite.inference.item_filters import ItemFilters

        return ItemFilters(self.fields)

    @cached_property
    def _title_index(self) -> TitleIndex:
        return TitleIndex(self._by_title)

    @cached_property
    def _by_title(self) -> dict[str, list[int]]:
        places: dict[str, list[int]] = {}
        for i, title in enumerate(self.titles[1:], 1):
            places.setdefault(normalize_title(title), []).append(i)
        places.pop("", None)
        return places

    # -- file -------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write one JSON object per line, in the order of internal ids from 1."""

        def write(temporary: Path) -> None:
            with temporary.open("w", encoding="utf-8") as file:
                for place in range(1, len(self.ids)):
                    row = self.ids[place], self.titles[place], self.texts[place]
                    item: dict[str, Any] = dict(zip(_FIELDS, row, strict=True))
                    if self.counts is not None:
                        item["count"] = self.counts[place]
                    if self.fields[place]:
                        item["fields"] = self.fields[place]
                    file.write(json.dumps(item, ensure_ascii=False) + "\n")

        write_atomically(path, write)

    @classmethod
    def load(cls, path: Path) -> Catalogue:
        """Read a file written by :meth:`save`.

        Raises
        ------
        CheckpointError
            The file is missing or damaged; the message names the line.
        """
        columns: list[list[str]] = [[], [], []]
        counts: list[Any] = []
        fields: list[dict] = []
        try:
            with path.open(encoding="utf-8") as file:
                for number, line in enumerate(file, 1):
                    item = _item_of(line, f"{path}, line {number}")
                    for column, field in zip(columns, _FIELDS, strict=True):
                        column.append(item[field])
                    counts.append(item.get("count"))
                    fields.append(item.get("fields", {}))
            known = all(type(count) is int for count in counts)
            ids, titles, texts = columns
            return cls(ids, titles, texts, counts if known else None, fields)
        except RequestError as error:
            raise CheckpointError(f"{path}: {error}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path}: cannot be read: {error}") from None


def normalize_title(title: str) -> str:
    """Title in lower case, without accents and punctuation, with its article in front."""
    text = unicodedata.normalize("NFKD", title.casefold())
    text = "".join(char for char in text if not unicodedata.combining(char)).strip()
    text = _ARTICLE.sub(r"\2 \1\3", text)
    text = text.replace("'", "").replace("\N{RIGHT SINGLE QUOTATION MARK}", "")
    words = re.findall(r"\w+", text.replace("&", " and "))
    return " ".join(words)


def _item_of(line: str, place: str) -> dict[str, Any]:
    try:
        item = json.loads(line)
        whole = all(isinstance(item[field], str) for field in _FIELDS)
        whole = whole and isinstance(item.get("fields", {}), dict)
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise CheckpointError(f"{place}: not an object with id, title and text; is it damaged?")
    return item
