"""``recbole-lite serve``."""

from __future__ import annotations

import argparse
import ipaddress
import socket
import sys
from contextlib import suppress
from dataclasses import fields
from functools import partial

from recbole_lite.cli.common import add_command, add_model, add_runtime, load_recommender
from recbole_lite.serve.limits import Limits
from recbole_lite.utils.errors import MissingDependencyError, RequestError

EPILOG = """\
The page is at /, the API's description at /docs and /openapi.json. There is no authentication:
with another --host than the default, anyone who can reach the address can use the service.

examples:
  %(prog)s --model=saved/LiteLLM4Rec-ml-1m-...
  %(prog)s --model=packed --port=9000 --max_history=200
"""
INTERRUPTED = "interrupted before the service had started"
LIMITS = [limit.name for limit in fields(Limits)]


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    text = "serve a trained model over HTTP"
    parser = add_command(commands, "serve", text, run, INTERRUPTED, epilog=EPILOG)
    add_model(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address (default: %(default)s)")
    parser.add_argument(
        "--port", type=int, default=8000, help="port; 0: any free port (default: %(default)s)"
    )
    add_runtime(parser)
    for limit in fields(Limits):
        text = f"{limit.metadata['help']} ({limit.default:,})"
        parser.add_argument(f"--{limit.name}", type=int, default=limit.default, help=text)


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    try:
        import uvicorn

        from recbole_lite.serve.app import create_app
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "uvicorn", "starlette", "pydantic"):
            raise
        raise MissingDependencyError(
            f"serving needs {error.name}; type: pip install fastapi uvicorn"
        ) from None
    wrong = [name for name in LIMITS if getattr(args, name) < 1]
    if wrong:
        raise RequestError(f"--{wrong[0]} must be at least 1")
    listener = _listen(args.host, args.port)
    try:
        limits = Limits(**{name: getattr(args, name) for name in LIMITS})
        recommender = load_recommender(args)
        recommender.warm_up(limits.max_batch)
        recommender.catalogue.search("no such title", 1)  # builds the index
        app = create_app(recommender, limits)
        host, port = listener.getsockname()[:2]
        if not ipaddress.ip_address(host.split("%")[0]).is_loopback:
            print(
                f"warning: no authentication; anyone who can reach {host} can use the service",
                file=sys.stderr,
            )
        shown = f"[{host}]" if ":" in host else host
        print(f"http://{shown}:{port}/  (API: /docs)  Ctrl+C stops it", flush=True)
        with suppress(KeyboardInterrupt):  # uvicorn's, after it has answered what was open
            uvicorn.Server(server_config(app, limits)).run(sockets=[listener])
    finally:
        listener.close()
    return 0


def server_config(app, limits: Limits):
    """Configure uvicorn with the time limits of the service."""
    from uvicorn import Config

    from recbole_lite.serve.connections import Connection

    return Config(
        app,
        http=partial(Connection, header_timeout=limits.read_timeout),  # type: ignore[arg-type]
        log_level="warning",
        limit_concurrency=4 * limits.max_waiting,
        # The end of the interpreter takes some tenths of a second besides.
        timeout_graceful_shutdown=max(0.1, limits.grace - 1),  # type: ignore[arg-type]
    )


def _listen(host: str, port: int) -> socket.socket:
    """Bind before the model is loaded: a port that is taken should not cost the wait."""
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
    except OSError as error:
        raise RequestError(
            f"--host={host} --port={port}: cannot listen there: {error.strerror}"
        ) from None
    return listener
