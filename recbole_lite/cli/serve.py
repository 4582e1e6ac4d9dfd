"""``recbole-lite serve``."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import os
import re
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import fields
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from recbole_lite.cli.common import add_command, add_model, add_runtime, load_recommender
from recbole_lite.serve.limits import Limits, Options
from recbole_lite.utils.errors import (
    MissingDependencyError,
    RecboleLiteError,
    RequestError,
    one_line,
)

if TYPE_CHECKING:
    from recbole_lite import Recommender

EPILOG = """\
The page is at /, the API's description at /docs and /openapi.json, metrics for Prometheus at
/metrics. Without --token_file there is no authentication: with another --host than the default,
anyone who can reach the address can use the service. SIGHUP loads the model's folder again.

examples:
  %(prog)s --model=saved/LiteLLM4Rec-ml-1m-...
  %(prog)s --model=packed --port=9000 --max_history=200
"""
INTERRUPTED = "interrupted before the service had started"
PACKAGES = ("fastapi", "uvicorn", "starlette", "pydantic", "prometheus_client")
LIMITS = [limit.name for limit in fields(Limits)]
WORKER_ANSWERS = 30  # seconds; a worker that is silent for longer is replaced


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    text = "serve a trained model over HTTP"
    parser = add_command(commands, "serve", text, run, INTERRUPTED, epilog=EPILOG)
    add_model(parser)
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address (default: %(default)s)")
    add("--port", type=int, default=8000, help="port; 0: any free port (default: %(default)s)")
    add_runtime(parser)
    for limit in fields(Limits):
        text = f"{limit.metadata['help']} ({limit.default:,})"
        add(f"--{limit.name}", type=int, default=limit.default, help=text)
    add("--workers", type=int, default=1, help="processes that serve (default: %(default)s)")
    add("--watch", action="store_true", help="load the model again when its files change")
    add("--root_path", metavar="PATH", help="path of the service behind a proxy")
    add("--token_file", metavar="FILE", help="file with the bearer token to demand")
    add(
        "--cors_origin",
        action="append",
        default=[],
        metavar="URL",
        help="origin of a page that may use the service; repeat it for several",
    )
    add("--access_log", action="store_true", help="write a line of JSON per request to stderr")


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    try:
        import uvicorn

        import recbole_lite.serve.app  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name not in PACKAGES:
            raise
        raise MissingDependencyError(
            f"serving needs {error.name}; type: pip install fastapi uvicorn prometheus-client"
        ) from None
    wrong = [name for name in (*LIMITS, "workers") if getattr(args, name) < 1]
    if wrong:
        raise RequestError(f"--{wrong[0]} must be at least 1")
    limits = Limits(**{name: getattr(args, name) for name in LIMITS})
    options = _options(args, limits)
    listener = listen(args.host, args.port)
    if args.workers > 1:
        with listener:
            return _run_workers(args, limits, listener, options)
    hang_up = getattr(signal, "SIGHUP", None)  # Windows has none
    before = hang_up and signal.getsignal(hang_up)
    try:
        app = _create_app(args, limits, options)
        _tell(listener, options)
        with suppress(KeyboardInterrupt):  # uvicorn's, after it has answered what was open
            uvicorn.Server(server_config(app, limits)).run(sockets=[listener])
    finally:
        listener.close()
        if hang_up:
            signal.signal(hang_up, before or signal.SIG_DFL)
    return 0


def _create_app(args: argparse.Namespace, limits: Limits, options: Options):
    from recbole_lite.serve.app import create_app

    assert options.load is not None
    app = create_app(options.load(), limits, options)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, app.state.live.request_reload)
    if args.access_log:
        _write_access_log()
    return app


def _tell(listener: socket.socket, options: Options) -> None:
    print(f"{shown_address(listener, options.token)}  (API: /docs)  Ctrl+C stops it", flush=True)


def _run_workers(
    args: argparse.Namespace, limits: Limits, listener: socket.socket, options: Options
) -> int:
    with TemporaryDirectory(prefix="recbole-lite-") as folder:
        metrics = Path(folder, "metrics")
        metrics.mkdir()
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)  # of the workers
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // args.workers)))
        from recbole_lite.serve.workers import Workers

        app = partial(_worker_app, args, limits, Path(folder))
        config = server_config(
            app,
            limits,
            factory=True,
            workers=args.workers,
            timeout_worker_healthcheck=WORKER_ANSWERS,
            timeout_graceful_shutdown=max(0.1, limits.grace - 1.5),  # signals wait for 0.5
        )
        on_ready = partial(_tell, listener, options)
        workers = Workers(config, listener, Path(args.model), metrics, on_ready)
        workers.run()
    return 2 if workers.failed else 0


def _worker_app(args: argparse.Namespace, limits: Limits, folder: Path):
    """Application of one worker; an error of loading ends it with one message."""
    try:
        return _create_app(args, limits, _options(args, limits, folder))
    except RecboleLiteError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _load(args: argparse.Namespace, limits: Limits, mapped: Path | None = None) -> Recommender:
    recommender = load_recommender(args)
    if mapped is not None:
        recommender.map_weights(mapped)
    recommender.warm_up(limits.max_batch)
    recommender.catalogue.search("no such title", 1)  # builds the index
    return recommender


def _options(args: argparse.Namespace, limits: Limits, mapped: Path | None = None) -> Options:
    if args.root_path is not None and not re.fullmatch(r"(/[^/?#\s]+)+", args.root_path):
        raise RequestError(
            f"--root_path={args.root_path}: begin with / and end without, as in /api"
        )
    return Options(
        load=partial(_load, args, limits, mapped),
        watch=args.watch,
        root_path=args.root_path or "",
        token=read_token(args.token_file),
        cors_origins=args.cors_origin,
    )


def read_token(path: str | None) -> str | None:
    """Bearer token of ``--token_file``; None for None.

    Raises
    ------
    RequestError
    """
    if path is None:
        return None
    try:
        token = Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"--token_file={path}: {one_line(error)}") from None
    if not re.fullmatch(r"[!-~]+", token):
        raise RequestError(f"--token_file={path}: holds no token of one word")
    return token


def shown_address(listener: socket.socket, token: str | None) -> str:
    """Address to print; warns if it is open to others."""
    host, port = listener.getsockname()[:2]
    if not ipaddress.ip_address(host.split("%")[0]).is_loopback and token is None:
        print(
            f"warning: no authentication; anyone who can reach {host} can use the service",
            file=sys.stderr,
        )
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/"


def _write_access_log() -> None:
    from recbole_lite.serve.middleware import ACCESS_LOG

    logger = logging.getLogger(ACCESS_LOG)
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.StreamHandler())


def server_config(app, limits: Limits, **settings: Any):
    """Configure uvicorn with the time limits of the service."""
    from uvicorn import Config

    from recbole_lite.serve.connections import Connection

    # The end of the interpreter takes some tenths of a second besides.
    settings = {"timeout_graceful_shutdown": max(0.1, limits.grace - 1), **settings}
    return Config(
        app,
        http=partial(Connection, header_timeout=limits.read_timeout),  # type: ignore[arg-type]
        log_level="warning",
        limit_concurrency=4 * limits.max_waiting,
        **settings,
    )


def listen(host: str, port: int) -> socket.socket:
    """Bind before the model is loaded: a port that is taken should not cost the wait.

    Raises
    ------
    RequestError
    """
    if not 0 <= port < 65536:
        raise RequestError(f"--port={port}: a port is a number from 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except (OSError, UnicodeError) as error:  # of a name such as a..b
        why = getattr(error, "strerror", None) or one_line(error)
        raise RequestError(f"--host={host} --port={port}: cannot listen there: {why}") from None
    return listener
