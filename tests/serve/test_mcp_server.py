"""The model as tools of a language model, asked by the package's own client."""

import asyncio
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import uvicorn
from mcp import Client, StdioServerParameters

from recbole_lite import Recommender
from recbole_lite.cli.main import main
from recbole_lite.serve.mcp_server import create_server

WHERE = {"year": {"gte": 1991}, "genre": ["comedy"]}


@pytest.fixture
def folder(trained):
    return trained("LiteLLM4Rec", item_vector_norm="standardize")


@pytest.fixture
def recommender(folder):
    return Recommender.load(folder)


def asked(server, *calls):
    """Results of calls of tools: (is it an error, text or structured content) of each."""

    async def ask():
        async with Client(server) as client:
            found = [await client.call_tool(name, arguments) for name, arguments in calls]
            return [
                (True, one.content[0].text) if one.is_error else (False, one.structured_content)
                for one in found
            ]

    return asyncio.run(ask())


def test_tools_give_what_the_recommender_gives(recommender):
    history = ["i3", "toy toy 0"]
    (search, some, popular, best, others, why) = asked(
        create_server(recommender),
        ("search_items", {"query": "toy", "k": 3}),
        ("search_items", {"query": "toy", "where": WHERE}),
        ("search_items", {"k": 24}),
        ("recommend", {"history": history, "k": 4, "where": WHERE, "exclude": ["i9"]}),
        ("similar_items", {"item": "toy toy 0", "k": 99, "by": "text"}),
        ("explain", {"history": history, "items": ["i5", "i3"]}),
    )
    catalogue = recommender.catalogue
    places = catalogue.search("toy", 24)
    wanted = [
        {"id": catalogue.ids[i], "title": catalogue.titles[i], "fields": catalogue.fields[i]}
        for i in places
    ]
    assert search == (False, {"items": wanted[:3]})
    meet = catalogue.filters.matching(WHERE)
    kept = [one for one, place in zip(wanted, places, strict=True) if meet[place]]
    assert some == (False, {"items": kept})
    counts = [catalogue.counts[catalogue.index[one["id"]]] for one in popular[1]["items"]]
    assert counts == sorted(catalogue.counts[1:], reverse=True)

    (expected,) = recommender.recommend([["i3", "i0"]], 4, where=WHERE, exclude=["i9"])
    assert [one["id"] for one in best[1]["items"]] == [one.id for one in expected]
    assert [one["score"] for one in best[1]["items"]] == pytest.approx([e.score for e in expected])
    similar = recommender.similar("i0", 24, by="text")
    assert [one["id"] for one in others[1]["items"]] == [one.id for one in similar]
    whole = recommender.recommend([["i3", "i0"]], 24, exclude_seen=False, explain=True)[0]
    ranks = {one.id: rank for rank, one in enumerate(whole, 1)}
    reasons = {one.id: [reason.id for reason in one.because] for one in whole}
    found = why[1]["items"]
    assert {one["id"] for one in found} == {"i3", "i5"}
    for one in found:
        assert one["rank"] == ranks[one["id"]]
        assert [reason["id"] for reason in one["because"]] == reasons[one["id"]]


@pytest.mark.parametrize(
    "tool, arguments, message",
    [
        ("recommend", {"history": ["toy toy 99"]}, "history: no item has the id or title 'toy to"),
        ("recommend", {"history": []}, "history: List should have at least 1 item"),
        ("recommend", {}, "history: Field required"),
        ("recommend", {"history": ["i3"], "limit": 3}, "recommend has no argument 'limit'; argum"),
        ("recommend", {"history": ["i3"], "k": 0}, "k: Input should be greater than or equal to 1"),
        ("recommend", {"history": ["i3"], "where": {"yaer": 1}}, "no item has the field 'yaer'"),
        ("similar_items", {"item": "Nil"}, "item: no item has the id or title 'Nil'"),
        ("explain", {"history": ["i3"], "items": ["Nil"]}, "items: no item has the id or title"),
        ("forget", {}, "Unknown tool: forget"),
    ],
)
def test_errors_are_one_line(tool, arguments, message, recommender):
    ((failed, text),) = asked(create_server(recommender), (tool, arguments))
    assert failed
    assert message in text
    assert "\n" not in text


def test_what_a_language_model_reads(recommender):
    async def listed():
        async with Client(create_server(recommender)) as client:
            return client.instructions, (await client.list_tools()).tools

    instructions, tools = asyncio.run(listed())
    fields = "genre (animation, comedy, action, thriller); year (number, 1990 to 1994)."
    assert "LiteLLM4Rec-tiny" in instructions
    assert "24 items" in instructions
    assert {tool.name for tool in tools} == {
        "search_items",
        "recommend",
        "similar_items",
        "explain",
    }
    for tool in tools:
        assert tool.annotations.read_only_hint
        properties = tool.input_schema["properties"]
        assert all(one.get("description") for one in properties.values()), tool.name
        assert tool.output_schema["properties"]["items"]
        if "where" in properties:
            genres, years = fields.split("; ")
            assert years in tool.description
            assert all(genre in tool.description for genre in genres[7:-1].split(", "))


def test_numbers_as_ids(trained):
    recommender = Recommender.load(trained("SASRec"))
    catalogue = recommender.catalogue
    catalogue.index["77"] = catalogue.index.pop("i7")
    catalogue.ids[catalogue.index["77"]] = "77"
    ((failed, found),) = asked(create_server(recommender), ("recommend", {"history": [77]}))
    assert not failed
    assert [one["id"] for one in found["items"]] == [
        one.id for one in recommender.recommend([["77"]])[0]
    ]


def test_over_standard_input_and_output(folder, recommender):
    arguments = ["-m", "recbole_lite", "mcp", f"--model={folder}"]
    environment = {"PYTHONPATH": str(Path(__file__).parents[2])}
    server = StdioServerParameters(command=sys.executable, args=arguments, env=environment)
    found, (failed, text) = asked(
        server, ("recommend", {"history": ["i3"], "k": 2}), ("recommend", {"history": ["Nil"]})
    )
    (expected,) = recommender.recommend([["i3"]], 2)
    assert [one["id"] for one in found[1]["items"]] == [one.id for one in expected]
    assert failed
    assert text.startswith("history: no item has the id or title 'Nil'")


def test_over_http_with_a_token(folder, recommender, workdir, monkeypatch, capsys):
    tried = []

    class Server(uvicorn.Server):
        def run(self, sockets):  # not in the main thread: no signals
            host, port = sockets[0].getsockname()
            thread = threading.Thread(target=super().run, args=[sockets], daemon=True)
            thread.start()
            while not self.started:
                time.sleep(0.01)
            request = urllib.request.Request(
                f"http://{host}:{port}/mcp", b"{}", {"content-type": "application/json"}
            )
            try:
                if Path("token").exists():
                    with pytest.raises(urllib.error.HTTPError, match="401"):
                        urllib.request.urlopen(request, timeout=30)
                else:
                    call = ("recommend", {"history": ["i3"], "k": 2})
                    ((failed, found),) = asked(f"http://{host}:{port}/mcp", call)
                    assert not failed
                    (expected,) = recommender.recommend([["i3"]], 2)
                    assert [one["id"] for one in found["items"]] == [one.id for one in expected]
            finally:
                tried.append(self.should_exit)
                self.should_exit = True
                thread.join(30)

    monkeypatch.setattr(uvicorn, "Server", Server)
    words = ["mcp", f"--model={folder}", "--transport=http", "--port=0"]
    assert main(words) == 0
    assert "/mcp  Ctrl+C stops it" in capsys.readouterr().out
    Path("token").write_text("secret\n")
    assert main([*words, "--token_file=token"]) == 0
    assert tried == [False, False]


def test_without_the_package(folder, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "recbole_lite.serve.mcp_server", raising=False)
    monkeypatch.setitem(sys.modules, "mcp.server.mcpserver", None)
    assert main(["mcp", f"--model={folder}"]) == 2
    assert capsys.readouterr().err == (
        "error: this command needs mcp; type: pip install 'recbole-lite[mcp]'\n"
    )
