"""A model as tools of a language model, over the Model Context Protocol (MCP)."""

from __future__ import annotations

from collections.abc import Iterable
from threading import Lock
from typing import Annotated, Any, Literal

import numpy as np
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import BaseModel, Field, ValidationError

from recbole_lite import __version__
from recbole_lite.inference.item_filters import FieldSummary
from recbole_lite.inference.recommender import Recommendation, Recommender
from recbole_lite.serve.schemas import Item, Reason, described
from recbole_lite.utils.errors import RecboleLiteError, RequestError
from recbole_lite.utils.suggestions import suggest

_SHOWN = 20  # values of a field in a description
_READS = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)

Name = Annotated[str, Field(coerce_numbers_to_str=True, max_length=256)]
Names = Annotated[list[Name], Field(max_length=1000)]
History = Annotated[
    Names,
    Field(
        min_length=1,
        description="Items that the user has chosen, OLDEST FIRST: ids of search_items, or exact "
        "titles.",
    ),
]
Where = Annotated[
    dict[str, Any] | None,
    Field(
        description="Conditions on fields of the items, all of which must hold: field -> a value, "
        'a list of allowed values, or comparisons. Example: {"genre": ["Comedy"], "year": '
        '{"gte": 1990, "lt": 2000}}. Fields and values: see the description of the tool.'
    ),
]
Count = Annotated[int, Field(ge=1, le=100, description="Number of items to return.")]


class FoundItem(Item):
    """An item of the catalogue with its fields."""

    fields: dict[str, Any]


class RankedItem(Item):
    """An item and its score; scores of different users cannot be compared."""

    score: float


class ExplainedItem(RankedItem):
    """An item, its place among all items for this user, and where its score comes from."""

    rank: int = Field(description="1: the item with the highest score of the catalogue.")
    because: list[Reason] = Field(
        description="The three items of the history that add most to the score; the one with the "
        "greatest effect first. A negative effect counts against the item."
    )


class Found(BaseModel):
    """Items that a search has found."""

    items: list[FoundItem]


class Ranked(BaseModel):
    """Items, best first."""

    items: list[RankedItem]


class Explanations(BaseModel):
    """The given items, best first."""

    items: list[ExplainedItem]


class ToolServer(MCPServer):
    """An MCP server whose tools report errors in one line."""

    async def call_tool(self, name: str, arguments: dict[str, Any], context=None):
        """Call a tool; an unknown argument is an error, too."""
        tools = {tool.name: tool.input_schema["properties"] for tool in await self.list_tools()}
        known = tools.get(name, arguments)
        unknown = [key for key in arguments if key not in known]
        if unknown:
            raise ToolError(
                f"{name} has no argument {unknown[0]!r}{suggest(unknown[0], known)}; arguments: "
                f"{', '.join(known)}"
            )
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as error:
            cause = error.__cause__
            if isinstance(cause, ValidationError):
                problems = "; ".join(described(one) for one in cause.errors()[:3])
                raise ToolError(problems) from None
            if isinstance(cause, RecboleLiteError):
                raise ToolError(str(cause)) from None
            raise


class Tools:
    """Tools of a model; the names of their arguments are those of `Recommender`."""

    def __init__(self, recommender: Recommender):
        self.recommender, self.catalogue = recommender, recommender.catalogue
        self._lock = Lock()  # tools are called from several threads

    def search_items(
        self,
        query: Annotated[
            str, Field(max_length=200, description="Title or part of it; empty: popular items.")
        ] = "",
        where: Where = None,
        k: Count = 10,
    ) -> Found:
        """Find items of the catalogue by title, by fields, or by both.

        Use it first, to turn titles that a user mentions into ids, and to check that an item
        exists. Without a query, the most popular items that meet the conditions are returned.
        """
        with self._lock:
            allowed = None if where is None else self.catalogue.filters.matching(where)
        if query.strip():
            places = self.catalogue.search(query, k if allowed is None else len(self.catalogue))
        else:
            counts = np.array(self.catalogue.counts or np.zeros(len(self.catalogue) + 1))
            places = (1 + np.argsort(-counts[1:], kind="stable")).tolist()
        kept = [place for place in places if allowed is None or allowed[place]][:k]
        ids, titles, fields = self.catalogue.ids, self.catalogue.titles, self.catalogue.fields
        return Found(
            items=[FoundItem(id=ids[i], title=titles[i], fields=dict(fields[i])) for i in kept]
        )

    def recommend(
        self,
        history: History,
        k: Count = 10,
        where: Where = None,
        candidates: Annotated[
            Names | None, Field(description="Rank only these items; ids or exact titles.")
        ] = None,
        exclude: Annotated[
            Names, Field(description="Items that must not be returned; ids or exact titles.")
        ] = [],  # noqa: B006
        exclude_seen: Annotated[
            bool | None,
            Field(description="Leave out the items of the history; null: the usual choice."),
        ] = None,
        diversity: Annotated[
            float,
            Field(ge=0, le=1, description="0: by score alone; towards 1: less similar items."),
        ] = 0.0,
    ) -> Ranked:
        """Recommend the items that a user is most likely to choose next.

        The trained model reads the history in order, so recent items weigh more. An empty list
        means that no item meets the conditions: relax `where`. To say why an item is
        recommended, call explain with the same history.
        """
        with self._lock:
            (found,) = self.recommender.recommend(
                [self._ids("history", history)],
                min(k, len(self.catalogue)),
                exclude_seen,
                None if candidates is None else self._ids("candidates", candidates),
                where=where,
                exclude=self._ids("exclude", exclude),
                diversity=diversity,
            )
        return Ranked(items=_ranked(found))

    def similar_items(
        self,
        item: Annotated[Name, Field(description="Id of search_items, or exact title.")],
        k: Count = 10,
        by: Annotated[
            Literal["trained", "text"],
            Field(
                description="trained: chosen by the same users (default); text: described alike."
            ),
        ] = "trained",
    ) -> Ranked:
        """Find items like one item, for a user without a history; scores are cosines (1: equal)."""
        with self._lock:
            (id,) = self._ids("item", [item])
            return Ranked(
                items=_ranked(self.recommender.similar(id, min(k, len(self.catalogue)), by))
            )

    def explain(
        self,
        history: History,
        items: Annotated[
            Names,
            Field(
                min_length=1,
                max_length=20,
                description="Items to explain, recommended or not; ids or exact titles.",
            ),
        ],
    ) -> Explanations:
        """Explain how items of the catalogue rank for a user, and which items of the history count.

        Effects are computed by leaving each item of the history out; name the items with the
        greatest effects as reasons, and no others.
        """
        recommender = self.recommender
        with self._lock:
            read, asked = self._ids("history", history), self._ids("items", items)
            (found,) = recommender.recommend([read], len(set(asked)), False, asked, explain=True)
            (scores,) = recommender.score([self.catalogue.resolve(read)[0]])
        ranks = [
            1 + int((scores > scores[self.catalogue.index[str(one.id)]]).sum()) for one in found
        ]
        pairs = zip(found, ranks, strict=True)
        return Explanations(
            items=[ExplainedItem(**one._asdict(), rank=rank) for one, rank in pairs]
        )

    def _ids(self, argument: str, names: list[str]) -> list[str]:
        try:
            return [self.catalogue.ids[self.catalogue.find(name)] for name in names]
        except RequestError as error:
            raise RequestError(f"{argument}: {error}") from None


def create_server(recommender: Recommender) -> MCPServer:
    """Create the MCP server of a model.

    ``run("stdio")`` serves one client; ``streamable_http_app()`` is an ASGI application.
    """
    tools, size = Tools(recommender), len(recommender.catalogue)
    fields = "; ".join(map(_field, recommender.catalogue.filters.summary(_SHOWN)))
    fields = f"Fields for `where`: {fields}." if fields else "The items have no fields for `where`."
    server = ToolServer(
        "recbole-lite",
        instructions=f"Recommendations of {recommender.name}, a model trained on the choices of "
        f"users, from a catalogue of {size:,} items. Recommend only items that these tools return. "
        "Usual order: search_items to find the ids of what the user likes, recommend with these "
        f"ids as history (oldest first), explain for reasons. {fields}",
        version=__version__,
        log_level="WARNING",
    )
    for tool in (tools.search_items, tools.recommend, tools.similar_items, tools.explain):
        text = " ".join((tool.__doc__ or "").split())
        if tool in (tools.search_items, tools.recommend):
            text += f" {fields}"
        server.add_tool(tool, description=text, annotations=_READS)
    return server


def _field(field: FieldSummary) -> str:
    if field.least is not None:
        return f"{field.name} (number, {field.least:g} to {field.most:g})"
    more = ", ..." if field.n_values > _SHOWN else ""
    return f"{field.name} ({', '.join(field.values)}{more})"


def _ranked(found: Iterable[Recommendation]) -> list[RankedItem]:
    return [RankedItem.model_validate(one) for one in found]
