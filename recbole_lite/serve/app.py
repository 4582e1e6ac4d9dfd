"""FastAPI application: recommendations, items, health, metrics, one page, OpenAPI."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi import Query as Parameter
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, JSONResponse, Response

from recbole_lite import __version__
from recbole_lite.inference.catalogue import Catalogue
from recbole_lite.inference.history_inputs import describe_unknown, resolve_candidates
from recbole_lite.inference.recommender import Recommender
from recbole_lite.serve import schemas
from recbole_lite.serve.batching import OverloadedError, RankRequest
from recbole_lite.serve.limits import Limits, Options
from recbole_lite.serve.live_model import LiveModel, ServedModel
from recbole_lite.serve.metrics import Metrics
from recbole_lite.serve.middleware import BearerToken, BodyLimit, HeadAndOptions, Observed
from recbole_lite.utils.errors import RequestError

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
_LIMITED: dict[int | str, dict] = {
    400: {"model": schemas.Problem, "description": "The body is not JSON in UTF-8."},
    408: {"model": schemas.Problem, "description": "The body took too long."},
    413: {"model": schemas.Problem, "description": "The body is too large."},
    415: {"model": schemas.Problem, "description": "The content type is not JSON."},
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
    """Create the HTTP service of a model.

    Parameters
    ----------
    recommender : Recommender
    limits : Limits, optional
    options : Options, optional

    Returns
    -------
    fastapi.FastAPI
        An ASGI application; its ``state.live`` is the :class:`.live_model.LiveModel`.
    """
    limits, options = limits or Limits(), options or Options()
    metrics = Metrics()
    live = LiveModel(
        recommender,
        limits,
        options.load,
        options.watch,
        on_batch=metrics.batches.observe,
        on_reload=lambda outcome: metrics.reloads.labels(outcome).inc(),
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI):
        follower = asyncio.create_task(live.follow()) if live.load else None
        yield
        if follower:
            follower.cancel()
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
    _add_routes(app, live)
    _add_operations(app, live, metrics)
    return app


def _add_routes(app: FastAPI, live: LiveModel) -> None:
    limits = live.limits
    searching = CapacityLimiter(1)  # one core for searches; the others wait

    @app.post("/recommend", responses={**_REFUSED, **_LIMITED})
    async def recommend(query: schemas.Query, model: UsedModel) -> schemas.Recommendations:
        """Recommend items to a user, given the history."""
        request, unknown = _rank_request(model.recommender, query, limits)
        items, scores = await model.batcher(request)
        found = [schemas.Scored(**r._asdict()) for r in model.recommender.describe(items, scores)]
        return schemas.Recommendations(
            recommendations=found, unknown=unknown, version=model.version
        )

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

    @app.get("/items/{id:path}", responses=_ABSENT)
    async def item(id: str, model: UsedModel) -> schemas.Item:
        """One item by its raw id."""
        return _item(model.recommender.catalogue, _place(model.recommender.catalogue, id))


def _add_operations(app: FastAPI, live: LiveModel, metrics: Metrics) -> None:
    page = PAGE.read_text(encoding="utf-8")

    @app.get("/health")
    async def health() -> schemas.Health:
        """Model, data set and number of waiting requests."""
        return schemas.Health(status="ok", **_facts(live.current))

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
        facts = _facts(live.current)
        waiting = facts.pop("waiting")
        text = metrics.text(waiting, {name: str(value) for name, value in facts.items()})
        return Response(text, media_type="text/plain; version=0.0.4")

    @app.get("/", include_in_schema=False)
    async def home() -> HTMLResponse:
        return HTMLResponse(page, headers={"content-security-policy": _PAGE_POLICY})


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


def _rank_request(
    recommender: Recommender, query: schemas.Query, limits: Limits
) -> tuple[RankRequest, list[str]]:
    """The request in internal ids, and the ids of the history that are not in the catalogue."""
    items = len(recommender.catalogue)
    for name, ids, most in (
        ("history", query.history, limits.max_history),
        ("candidates", query.candidates or [], items),
    ):
        if len(ids) > most:
            raise RequestError(f"{name}: {len(ids):,} ids, at most {most:,} are accepted")
    recommender.check_k(query.k)
    known, unknown = recommender.catalogue.resolve(query.history)
    unknown = list(dict.fromkeys(unknown))
    if unknown and (query.unknown == "error" or not known):
        raise RequestError(f"history: {describe_unknown(unknown)}")
    candidates = resolve_candidates(recommender.catalogue, query.candidates)
    exclude = recommender.excludes_seen if query.exclude_seen is None else query.exclude_seen
    return RankRequest(known, query.k, exclude, candidates), unknown


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(RequestError)
    async def refused(_: Request, error: RequestError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if request.method == "POST" and kind != "application/json":
            detail = f"the content type is {kind[:80]!r}; send application/json"
            return JSONResponse({"detail": detail}, 415)
        found = [_described(problem) for problem in error.errors()[:3]]
        return JSONResponse({"detail": "; ".join(found)}, 422)

    @app.exception_handler(OverloadedError)
    async def overloaded(_: Request, error: OverloadedError) -> JSONResponse:
        detail = "too many requests are waiting; try again"
        return JSONResponse({"detail": detail}, 503, headers={"retry-after": "1"})


def _described(problem: dict) -> str:
    place = ".".join(str(part) for part in problem["loc"] if part not in ("body", "query"))
    return f"{place or 'body'}: {problem['msg']}"
