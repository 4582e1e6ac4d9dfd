"""Pydantic models of requests and responses; the OpenAPI description is made from them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

ItemId = Annotated[StrictStr, Field(max_length=256, description="Raw id of an item.")]


class Query(BaseModel):
    """Who asks, and for what."""

    model_config = ConfigDict(extra="forbid")

    history: list[ItemId] = Field(
        min_length=1, description="Items of the user's history, oldest first."
    )
    k: StrictInt = Field(10, ge=1, description="Number of items, at most the catalogue's size.")
    exclude_seen: StrictBool | None = Field(
        None, description="Exclude the items of the history; null: as the run was measured."
    )
    candidates: list[ItemId] | None = Field(
        None, min_length=1, description="Items to choose from; null: the whole catalogue."
    )
    unknown: Literal["warn", "error"] = Field(
        "warn", description="Unknown ids of the history: ignore and list them, or refuse."
    )


class Item(BaseModel):
    """An item of the catalogue."""

    id: str
    title: str


class Scored(Item):
    """An item that is recommended."""

    score: float


class Recommendations(BaseModel):
    """Recommended items, best first."""

    recommendations: list[Scored]
    unknown: list[str] = Field(description="Ids of the history that are not in the catalogue.")
    version: str = Field(description="Version of the model that answered.")


class Items(BaseModel):
    """Items that a search has found, or a part of the list of all."""

    items: list[Item]
    total: int = Field(description="Number of items in the catalogue.")


class Health(BaseModel):
    """What is being served."""

    status: Literal["ok"]
    model: str
    dataset: str
    items: int
    waiting: int = Field(description="Requests that wait for the model.")
    version: str = Field(description="Version of the model.")


class Ready(BaseModel):
    """The service answers."""

    status: Literal["ok"]


class Problem(BaseModel):
    """Why there is no answer."""

    detail: str
