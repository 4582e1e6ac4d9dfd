"""FastAPI application: recommendations, items, health, metrics, one page, OpenAPI."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi import Query as Parameter
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, JSONResponse, Response

from recbole_lite import __version__
from recbole_lite.inference.catalogue import Catalogue
from recbole_lite.inference.history_inputs import describe_unknown
from recbole_lite.inference.recommender import Recommendation, Recommender
from recbole_lite.serve import schemas
from recbole_lite.serve.batching import OverloadedError, RankRequest
from recbole_lite.serve.limits import Limits, Options
from recbole_lite.serve.live_model import LiveModel, ServedModel
from recbole_lite.serve.metrics import Metrics
from recbole_lite.serve.middleware import BearerToken, BodyLimit, HeadAndOptions, Observed
from recbole_lite.utils.errors import MissingDependencyError, RecboleLiteError, RequestError

PAGE = Path(__file__).with_name("page.html")
# The page is one file: it neither loads from nor sends to other servers.
_PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'"
)
_REFUSED: dict[int | str, dict] = {
    422: {"model": schemas.Problem, "description": "The request cannot be answered."}
}
_ABSENT: dict[int | str, dict] = {404: {"model": schemas.Problem, "description": "No such item."}}
_NO_TORCH = {"model": schemas.Problem, "description": "Vectors need torch."}
_LIMITED: dict[int | str, dict] = {
    400: {"model": schemas.Problem, "description": "The body is not JSON in UTF-8."},
    408: {"model": schemas.Problem, "description": "The body took too long."},
    413: {"model": schemas.Problem, "description": "The body is too large."},
    415: {"model": schemas.Problem, "description": "The content type is not JSON."},
    501: _NO_TORCH,
    503: {"model": schemas.Problem, "description": "Too many requests are waiting."},
}


async def _used_model(request: Request) -> AsyncIterator[ServedModel]:
    with request.app.state.live.use() as model:
        request.state.version = model.version
        yield model


UsedModel = Annotated[ServedModel, Depends(_used_model)]


def create_app(
    recommender: Recommender, limits: Limits | None = None, options: Options | None = None
) -> FastAPI:
    """Create the HTTP service of a model; its ``state.live`` is the :class:`.LiveModel`."""
    limits, options = limits or Limits(), options or Options()
    metrics = Metrics()
    live = LiveModel(
        recommender,
        limits,
        options,
        on_batch=metrics.batches.observe,
        on_reload=lambda outcome: metrics.reloads.labels(outcome).inc(),
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI):
        tasks = [asyncio.create_task(_report(live, metrics))]
        if live.load:
            tasks.append(asyncio.create_task(live.follow()))
        yield
        for task in tasks:
            task.cancel()
        live.current.batcher.close()

    app = FastAPI(
        title=f"recbole-lite: {recommender.name}",
        version=__version__,
        description="Recommendations from a user's items, in order.",
        lifespan=lifespan,
        root_path=options.root_path,
    )
    app.state.live = live
    app.add_middleware(BodyLimit, max_bytes=limits.max_body, seconds=limits.read_timeout)
    app.add_middleware(HeadAndOptions, router=app.router)
    if options.token is not None:
        app.add_middleware(BearerToken, token=options.token)
    if options.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=options.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "x-request-id"],
            expose_headers=["x-model-version", "x-request-id"],
        )
    app.add_middleware(Observed, metrics=metrics, version=lambda: live.current.version)
    _add_error_handlers(app)
    _add_recommendations(app, limits)
    _add_items(app, limits)
    _add_operations(app, live, metrics)
    return app


def _add_recommendations(app: FastAPI, limits: Limits) -> None:
    @app.post("/recommend", responses={**_REFUSED, **_LIMITED}, response_model_exclude_none=True)
    async def recommend(query: schemas.Query, model: UsedModel) -> schemas.Recommendations:
        """Recommend items to a user, given the history."""
        _check_lengths(query, [query.history], model.recommender, limits)
        known, unknown = _resolved(model.recommender, query.history, query)
        if not known:
            raise RequestError(f"history: {describe_unknown(unknown)}")
        if query.diversity or query.explain or query.probabilities:
            found = (await _rows(model, query, [known]))[0]
        else:
            found = await _batched(model, query, known)
        return schemas.Recommendations(
            recommendations=found, unknown=unknown, version=model.version
        )

    @app.post(
        "/recommend/users", responses={**_REFUSED, **_LIMITED}, response_model_exclude_none=True
    )
    async def recommend_users(
        query: schemas.UsersQuery, model: UsedModel
    ) -> schemas.AllRecommendations:
        """Recommend items to several users; one without a known item gets none."""
        if len(query.histories) > limits.max_users:
            raise RequestError(
                f"histories: {len(query.histories):,}, at most {limits.max_users:,} are accepted"
            )
        _check_lengths(query, query.histories, model.recommender, limits)
        users = [_resolved(model.recommender, row, query) for row in query.histories]
        rows = await _rows(model, query, [known for known, _ in users])
        answers = [
            schemas.UserRecommendations(recommendations=row, unknown=unknown)
            for row, (_, unknown) in zip(rows, users, strict=True)
        ]
        return schemas.AllRecommendations(users=answers, version=model.version)


def _add_items(app: FastAPI, limits: Limits) -> None:
    searching = CapacityLimiter(1)  # one core for searches; the others wait

    @app.get("/items", responses={**_REFUSED, 503: _LIMITED[503]})
    async def items(
        model: UsedModel,
        query: Annotated[
            str,
            Parameter(max_length=200, description="Part of a title; empty: list the catalogue."),
        ] = "",
        id: Annotated[
            list[schemas.ItemId],
            Parameter(max_length=100, description="Look these up; unknown ids are left out."),
        ] = [],  # noqa: B006
        limit: Annotated[int, Parameter(ge=1, le=100)] = 20,
        offset: Annotated[
            int, Parameter(ge=0, le=2**31, description="First item, without a query.")
        ] = 0,
    ) -> schemas.Items:
        """Search titles, look up ids, or list the catalogue."""
        catalogue = model.recommender.catalogue
        if id:
            places, _ = catalogue.resolve(id)
        elif query.strip():
            if searching.statistics().tasks_waiting >= limits.max_waiting:
                raise OverloadedError
            places = await run_sync(catalogue.search, query, limit, limiter=searching)
        else:
            places = list(range(1 + offset, min(1 + offset + limit, len(catalogue) + 1)))
        return schemas.Items(items=[_item(catalogue, i) for i in places], total=len(catalogue))

    @app.get("/fields")
    async def fields(model: UsedModel) -> schemas.Fields:
        """Fields of the items, for `where`."""
        found = await run_sync(lambda: model.recommender.catalogue.filters.summary())
        return schemas.Fields(fields=[schemas.ItemField(**one._asdict()) for one in found])

    @app.get(
        "/items/{id:path}/similar",
        responses={**_ABSENT, **_REFUSED, 501: _NO_TORCH, 503: _LIMITED[503]},
        response_model_exclude_none=True,
    )
    async def similar(
        id: str,
        model: UsedModel,
        limit: Annotated[int, Parameter(ge=1, le=100)] = 10,
        by: Annotated[
            Literal["trained", "text"],
            Parameter(description="Vectors that the model ranks with, or those of the texts."),
        ] = "trained",
    ) -> schemas.Similar:
        """Items with the most similar vectors."""
        catalogue = model.recommender.catalogue
        _place(catalogue, id)
        k = min(limit, len(catalogue))
        found = await model.batcher.run(partial(model.recommender.similar, id, k, by))
        return schemas.Similar(items=_scored(found), version=model.version)

    @app.get("/items/{id:path}", responses=_ABSENT)
    async def item(id: str, model: UsedModel) -> schemas.Item:
        """One item by its raw id."""
        return _item(model.recommender.catalogue, _place(model.recommender.catalogue, id))


def _add_operations(app: FastAPI, live: LiveModel, metrics: Metrics) -> None:
    page = PAGE.read_text(encoding="utf-8")

    @app.get("/health")
    async def health() -> schemas.Health:
        """Model, data set and number of waiting requests."""
        model = live.current
        explains = not model.recommender.searches
        return schemas.Health(status="ok", explains=explains, **_facts(model))

    @app.get("/health/live")
    async def alive() -> schemas.Ready:
        """Whether the process answers."""
        return schemas.Ready(status="ok")

    @app.get("/health/ready", responses={503: _LIMITED[503]})
    async def ready() -> schemas.Ready:
        """Whether further requests are accepted: the queue is not full."""
        if live.current.batcher.waiting >= live.limits.max_waiting:
            raise OverloadedError
        return schemas.Ready(status="ok")

    @app.get("/metrics", include_in_schema=False)
    async def figures() -> Response:
        _update(live, metrics)
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/", include_in_schema=False)
    async def home() -> HTMLResponse:
        return HTMLResponse(page, headers={"content-security-policy": _PAGE_POLICY})


async def _report(live: LiveModel, metrics: Metrics) -> None:
    """Keep the figures of this process up to date for the one that is asked."""
    while True:
        _update(live, metrics)
        await asyncio.sleep(0.5)


def _update(live: LiveModel, metrics: Metrics) -> None:
    facts = _facts(live.current)
    waiting = facts.pop("waiting")
    metrics.update(waiting, {name: str(value) for name, value in facts.items()})


def _facts(model: ServedModel) -> dict[str, Any]:
    name, _, dataset = model.recommender.name.partition("-")
    return {
        "model": name,
        "dataset": dataset,
        "items": len(model.recommender.catalogue),
        "waiting": model.batcher.waiting,
        "version": model.version,
    }


def _item(catalogue: Catalogue, place: int) -> schemas.Item:
    return schemas.Item(id=catalogue.ids[place], title=catalogue.titles[place])


def _place(catalogue: Catalogue, id: str) -> int:
    if id not in catalogue.index:
        raise HTTPException(404, f"no item has the id {id[:256]!r}")
    return catalogue.index[id]


def _check_lengths(
    query: schemas.Choice, histories: list[list[str]], recommender: Recommender, limits: Limits
) -> None:
    items = len(recommender.catalogue)
    longest = max(map(len, histories))
    for name, count, most in (
        ("history", longest, limits.max_history),
        ("candidates", len(query.candidates or []), items),
        ("exclude", len(query.exclude), items),
    ):
        if count > most:
            raise RequestError(f"{name}: {count:,} ids, at most {most:,} are accepted")
    recommender.check_k(query.k)


def _resolved(
    recommender: Recommender, history: list[str], query: schemas.Choice
) -> tuple[list[int], list[str]]:
    """Internal ids of the known items, and the distinct unknown ids."""
    known, unknown = recommender.catalogue.resolve(history)
    unknown = list(dict.fromkeys(unknown))
    if unknown and query.unknown == "error":
        raise RequestError(f"history: {describe_unknown(unknown)}")
    return known, unknown


async def _batched(
    model: ServedModel, query: schemas.Query, known: list[int]
) -> list[schemas.Scored]:
    """Recommendations from a batch with other requests."""
    recommender = model.recommender
    choose = partial(recommender.choices, query.candidates, query.where, 1)
    # A filter reads all columns at its first use.
    candidates: Any = choose() if query.where is None else await run_sync(choose)
    if candidates is not None and not len(candidates):
        return []
    exclude = recommender.excludes_seen if query.exclude_seen is None else query.exclude_seen
    left_out, _ = recommender.catalogue.resolve(query.exclude)
    request = RankRequest(known, query.k, exclude, candidates, left_out)
    return _scored(recommender.describe(*await model.batcher(request)))


async def _rows(
    model: ServedModel, query: schemas.Choice, histories: list[list[int]]
) -> list[list[schemas.Scored]]:
    """Recommendations by :meth:`Recommender.recommend`."""
    recommender = model.recommender
    ids = recommender.catalogue.ids
    names = set(schemas.Choice.model_fields) - {"unknown"}
    work = partial(
        recommender.recommend,
        [[ids[item] for item in history] for history in histories],
        **{name: getattr(query, name) for name in names},
        batch_size=model.batcher.max_batch,
    )
    return [_scored(row) for row in await model.batcher.run(work)]


def _scored(found: Iterable[Recommendation]) -> list[schemas.Scored]:
    return [schemas.Scored.model_validate(one) for one in found]


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(RequestError)
    @app.exception_handler(MissingDependencyError)
    async def refused(_: Request, error: RecboleLiteError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422 if isinstance(error, RequestError) else 501)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if request.method == "POST" and kind != "application/json":
            detail = f"the content type is {kind[:80]!r}; send application/json"
            return JSONResponse({"detail": detail}, 415)
        found = [schemas.described(problem) for problem in error.errors()[:3]]
        return JSONResponse({"detail": "; ".join(found)}, 422)

    @app.exception_handler(OverloadedError)
    async def overloaded(_: Request, error: OverloadedError) -> JSONResponse:
        detail = "too many requests are waiting; try again"
        return JSONResponse({"detail": detail}, 503, headers={"retry-after": "1"})
