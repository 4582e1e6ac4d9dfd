"""FastAPI application: ``/recommend``, ``/items``, ``/health``, one page, OpenAPI."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import FastAPI, HTTPException, Request
from fastapi import Query as Parameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse

from recbole_lite import __version__
from recbole_lite.inference.history_inputs import describe_unknown, resolve_candidates
from recbole_lite.inference.recommender import Recommender
from recbole_lite.serve import schemas
from recbole_lite.serve.batching import Batcher, OverloadedError, RankRequest
from recbole_lite.serve.limits import Limits
from recbole_lite.serve.middleware import BodyLimit, HeadAndOptions
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
_LIMITED: dict[int | str, dict] = {
    400: {"model": schemas.Problem, "description": "The body is not JSON in UTF-8."},
    408: {"model": schemas.Problem, "description": "The body took too long."},
    413: {"model": schemas.Problem, "description": "The body is too large."},
    415: {"model": schemas.Problem, "description": "The content type is not JSON."},
    503: {"model": schemas.Problem, "description": "Too many requests are waiting."},
}


def create_app(recommender: Recommender, limits: Limits | None = None) -> FastAPI:
    """Create the HTTP service of a model.

    Parameters
    ----------
    recommender : Recommender
    limits : Limits, optional

    Returns
    -------
    fastapi.FastAPI
        An ASGI application.
    """
    limits = limits or Limits()
    batcher = Batcher(recommender, limits.max_batch, limits.max_waiting)

    @asynccontextmanager
    async def lifespan(_: FastAPI):
        yield
        batcher.close()

    app = FastAPI(
        title=f"recbole-lite: {recommender.name}",
        version=__version__,
        description="Recommendations from a user's items, in order.",
        lifespan=lifespan,
    )
    app.add_middleware(BodyLimit, max_bytes=limits.max_body, seconds=limits.read_timeout)
    app.add_middleware(HeadAndOptions, router=app.router)
    _add_error_handlers(app)
    _add_routes(app, recommender, batcher, limits)
    return app


def _add_routes(app: FastAPI, recommender: Recommender, batcher: Batcher, limits: Limits) -> None:
    catalogue = recommender.catalogue
    page = PAGE.read_text(encoding="utf-8")

    @app.post("/recommend", responses={**_REFUSED, **_LIMITED})
    async def recommend(query: schemas.Query) -> schemas.Recommendations:
        """Recommend items to a user, given the history."""
        request, unknown = _rank_request(recommender, query, limits)
        items, scores = await batcher(request)
        found = [schemas.Scored(**r._asdict()) for r in recommender.describe(items, scores)]
        return schemas.Recommendations(recommendations=found, unknown=unknown)

    searching = CapacityLimiter(1)  # one core for searches; the others wait

    @app.get("/items", responses={**_REFUSED, 503: _LIMITED[503]})
    async def items(
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
        if id:
            places, _ = catalogue.resolve(id)
        elif query.strip():
            if searching.statistics().tasks_waiting >= limits.max_waiting:
                raise OverloadedError
            places = await run_sync(catalogue.search, query, limit, limiter=searching)
        else:
            places = list(range(1 + offset, min(1 + offset + limit, len(catalogue) + 1)))
        found = [schemas.Item(id=catalogue.ids[i], title=catalogue.titles[i]) for i in places]
        return schemas.Items(items=found, total=len(catalogue))

    @app.get(
        "/items/{id:path}", responses={404: {"model": schemas.Problem, "description": "No such."}}
    )
    async def item(id: str) -> schemas.Item:
        """One item by its raw id."""
        place = catalogue.index.get(id)
        if place is None:
            raise HTTPException(404, f"no item has the id {id[:256]!r}")
        return schemas.Item(id=catalogue.ids[place], title=catalogue.titles[place])

    @app.get("/health")
    async def health() -> schemas.Health:
        """Model, data set and number of waiting requests."""
        model, _, dataset = recommender.name.partition("-")
        return schemas.Health(
            status="ok",
            model=model,
            dataset=dataset,
            items=len(catalogue),
            waiting=batcher.waiting,
        )

    @app.get("/", include_in_schema=False)
    async def home() -> HTMLResponse:
        return HTMLResponse(page, headers={"content-security-policy": _PAGE_POLICY})


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
