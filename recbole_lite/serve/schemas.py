"""Pydantic models of requests and responses; the OpenAPI description is made from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

ItemId = Annotated[StrictStr, Field(max_length=256, description="Raw id of an item.")]


class Choice(BaseModel):
    """What is recommended."""

    model_config = ConfigDict(extra="forbid")

    k: StrictInt = Field(10, ge=1, description="Number of items, at most the catalogue's size.")
    exclude_seen: StrictBool | None = Field(
        None, description="Exclude the items of the history; null: as the run was measured."
    )
    candidates: list[ItemId] | None = Field(
        None, min_length=1, description="Items to choose from; null: the whole catalogue."
    )
    exclude: list[ItemId] = Field([], description="Items that are not recommended.")
    where: dict[str, Any] | None = Field(
        None,
        min_length=1,
        description="Conditions on the items' fields, all of which must hold: field -> a value, a "
        "list of values, or comparisons (gte, gt, lte, lt).",
        examples=[{"genre": ["Comedy"], "year": {"gte": 1990}}],
    )
    diversity: float = Field(
        0, ge=0, le=1, strict=True, description="Weight of dissimilarity to the items before."
    )
    explain: StrictBool = Field(
        False, description="Add the items of the history that add most to each score."
    )
    probabilities: StrictBool = Field(
        False, description="Scores are calibrated probabilities, if the model has a temperature."
    )
    unknown: Literal["warn", "error"] = Field(
        "warn", description="Unknown ids of the history: ignore and list them, or refuse."
    )


class Query(Choice):
    """Who asks, and for what."""

    history: list[ItemId] = Field(
        min_length=1, description="Items of the user's history, oldest first."
    )


class UsersQuery(Choice):
    """Several users."""

    histories: list[list[ItemId]] = Field(
        min_length=1, description="History of each user, oldest first."
    )


class Item(BaseModel):
    """An item of the catalogue."""

    model_config = ConfigDict(from_attributes=True, coerce_numbers_to_str=True)

    id: str
    title: str


class Reason(Item):
    """An item of the history, and how much it adds to a score."""

    effect: float | None = Field(
        None,
        description="Fall of the logarithm of the probability without the item; missing if it is "
        "the only one.",
    )


class Scored(Item):
    """An item that is recommended."""

    score: float
    because: list[Reason] | None = Field(None, description="With `explain`.")


class UserRecommendations(BaseModel):
    """Recommended items of one user, best first."""

    recommendations: list[Scored]
    unknown: list[str] = Field(description="Ids of the history that are not in the catalogue.")


class Recommendations(UserRecommendations):
    """Recommended items, best first."""

    version: str = Field(description="Version of the model that answered.")


class AllRecommendations(BaseModel):
    """Recommended items of several users, in the order of the histories."""

    users: list[UserRecommendations]
    version: str = Field(description="Version of the model that answered.")


class Similar(BaseModel):
    """Items similar to one; scores are cosines."""

    items: list[Scored]
    version: str = Field(description="Version of the model that answered.")


class Items(BaseModel):
    """Items that a search has found, or a part of the list of all."""

    items: list[Item]
    total: int = Field(description="Number of items in the catalogue.")


class ItemField(BaseModel):
    """A field of the items, for `where`."""

    name: str
    values: list[str] = Field(description="At most 100, the most frequent first.")
    n_values: int = Field(description="Number of different values.")
    least: float | None = Field(description="null unless all values are numbers.")
    most: float | None


class Fields(BaseModel):
    """Fields of the items."""

    fields: list[ItemField]


class Health(BaseModel):
    """What is being served."""

    status: Literal["ok"]
    model: str
    dataset: str
    items: int
    waiting: int = Field(description="Requests that wait for the model.")
    version: str = Field(description="Version of the model.")
    explains: bool = Field(description="Whether it has explanations and similar items.")


class Ready(BaseModel):
    """The service answers."""

    status: Literal["ok"]


class Problem(BaseModel):
    """Why there is no answer."""

    detail: str


def described(problem: Mapping) -> str:
    """Place and message of one of pydantic's errors."""
    if problem["type"] == "json_invalid":
        reason, place = problem["ctx"]["error"], problem["loc"][-1]
        return f"body: not JSON at character {place}: {reason}"
    place = ".".join(str(part) for part in problem["loc"] if part not in ("body", "query"))
    return f"{place or 'body'}: {problem['msg']}"
