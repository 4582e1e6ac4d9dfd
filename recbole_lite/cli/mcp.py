"""``recbole-lite mcp``."""

from __future__ import annotations

import argparse
from contextlib import suppress

from recbole_lite.cli.common import add_command, add_model, add_runtime, load_recommender
from recbole_lite.cli.serve import listen, read_token, server_config, shown_address
from recbole_lite.serve.limits import Limits
from recbole_lite.utils.errors import MissingDependencyError

EPILOG = """\
Tools: search_items, recommend, similar_items, explain. With stdio (default) a client starts this
command itself and talks to it over standard input and output; with http the address ends in /mcp.

examples:
  %(prog)s --model=saved/LiteLLM4Rec-ml-1m-...
  %(prog)s --model=packed --transport=http --port=8001
"""
PACKAGES = ("mcp", "fastapi", "uvicorn", "prometheus_client")


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    text = "give language models a trained model as tools (MCP)"
    parser = add_command(commands, "mcp", text, run, epilog=EPILOG)
    add_model(parser)
    parser.add_argument(
        "--transport", choices=("stdio", "http"), default="stdio", help="default: %(default)s"
    )
    parser.add_argument("--host", default="127.0.0.1", help="with http (default: %(default)s)")
    parser.add_argument(
        "--port", type=int, default=8001, help="with http; 0: any free port (default: %(default)s)"
    )
    parser.add_argument("--token_file", metavar="FILE", help="with http: bearer token to demand")
    add_runtime(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until the client ends, or until interrupted."""
    try:
        from recbole_lite.serve.mcp_server import create_server
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    if args.transport == "http":
        return _serve_http(args, create_server)
    create_server(load_recommender(args)).run("stdio")
    return 0


def _serve_http(args: argparse.Namespace, create_server) -> int:
    try:
        import uvicorn

        from recbole_lite.serve.middleware import BearerToken
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    token = read_token(args.token_file)
    listener = listen(args.host, args.port)
    try:
        app = create_server(load_recommender(args)).streamable_http_app(host=args.host)
        if token is not None:
            app.add_middleware(BearerToken, token=token)
        print(f"{shown_address(listener, token)}mcp  Ctrl+C stops it", flush=True)
        with suppress(KeyboardInterrupt):
            uvicorn.Server(server_config(app, Limits())).run(sockets=[listener])
    finally:
        listener.close()
    return 0


def _missing(error: ModuleNotFoundError) -> Exception:
    package = (error.name or "").partition(".")[0]
    if package not in PACKAGES:
        return error
    return MissingDependencyError(
        f"this command needs {package}; type: pip install 'recbole-lite[mcp]'"
    )
