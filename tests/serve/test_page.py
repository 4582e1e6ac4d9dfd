"""The page in a real browser: search, pick, see recommendations."""

import threading
import time

import pytest
import uvicorn
from chromium import BROWSER, INSTALL, Chromium

from recbole_lite import Recommender
from recbole_lite.cli.serve import listen
from recbole_lite.serve.app import create_app

# What a screen reader needs a name for.
NAMED = {"button", "checkbox", "combobox", "listbox", "option", "spinbutton", "textbox", "region"}

pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no chromium; type: {INSTALL}")
TITLES = "[...document.querySelectorAll('#recommended .title')].map(e => e.textContent)"


@pytest.fixture
def served(trained):
    """Recommender and the address that it is served at."""
    recommender = Recommender.load(trained("LiteLLM4Rec", item_vector_norm="standardize"))
    # A title that would run as a script, were it taken for HTML.
    recommender.catalogue.titles[5] = "<img src=x onerror=document.title='taken'>"
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(create_app(recommender), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield recommender, f"http://127.0.0.1:{listener.getsockname()[1]}/"
    server.should_exit = True
    thread.join(30)


def test_search_pick_and_recommendations(served, tmp_path):
    recommender, address = served
    title = dict(zip(recommender.catalogue.ids, recommender.catalogue.titles, strict=True))
    with Chromium(tmp_path / "profile") as page:
        page.open(address)
        page.wait_for("document.querySelector('#about')?.textContent.includes('24 items')")
        page.js("document.querySelector('#search').focus()")
        page.type(title["i3"])
        option = "document.querySelector('#found [role=option]')?.textContent"
        page.wait_for(f"{option} == {title['i3']!r}")
        page.click("#found [role=option]")
        page.wait_for(f"{TITLES}.length == 10")
        (expected,) = recommender.recommend([["i3"]])
        assert page.js(TITLES) == [r.title for r in expected]

        page.type(title["i4"])
        page.press("Enter")  # the first that is found, though the list is still the old one
        page.wait_for("document.querySelectorAll('#chosen li').length == 2")
        (expected,) = recommender.recommend([["i3", "i4"]])
        wanted = [r.title for r in expected]
        page.wait_for(f"JSON.stringify({TITLES}) == JSON.stringify({wanted!r})")
        assert page.js("location.hash") == "#i3,i4"

        page.click("#chosen .drop")  # takes i3 away
        (expected,) = recommender.recommend([["i4"]])
        wanted = [r.title for r in expected]
        page.wait_for(f"JSON.stringify({TITLES}) == JSON.stringify({wanted!r})")


def test_the_address_and_the_focus(served, tmp_path):
    recommender, address = served
    ids = recommender.catalogue.ids[1:]
    shown = "[...document.querySelectorAll('#chosen li span')].map(e => e.textContent)"
    with Chromium(tmp_path / "profile") as page:
        page.open(f"{address}#50%,{','.join(ids * 5)}")
        page.wait_for(f"{shown}.length == 120")
        note = "document.querySelector('#note').textContent"
        assert page.wait_for(note) == "Not in the catalogue: 50%"
        page.js("location.hash = '#i3,i4,i5'")  # another bookmark in the same tab
        page.wait_for(f"{shown}.length == 3")
        assert page.js(note) == ""
        for left, label in ((2, "Remove "), (1, "Remove "), (0, None)):
            page.js("[...document.querySelectorAll('.drop')].at(-1).focus()")
            page.press("Enter")
            page.wait_for(f"{shown}.length == {left}")
            focus = page.js("document.activeElement.getAttribute('aria-label')")
            assert focus is None if label is None else focus.startswith(label)
        assert page.js("document.activeElement.id") == "search"


def test_keyboard_filters_reasons_and_similar_items(served, tmp_path):
    recommender, address = served
    where = {"genre": ["comedy"], "year": {"gte": 1992}}
    history = ["i3", "i4"]
    (expected,) = recommender.recommend([history], where=where, explain=True)
    with Chromium(tmp_path / "profile") as page:
        page.open(f"{address}#i3")
        page.wait_for(f"{TITLES}.length == 10")
        version = page.js("fetch('health').then(r => r.json()).then(h => h.version)")
        assert f"24 items, version {version}" in page.js("document.body.innerText")

        page.js("document.querySelector('#search').focus()")
        page.type("toy")  # then the arrow keys
        page.wait_for("document.querySelectorAll('#found [role=option]').length > 2")
        page.press("ArrowDown")
        page.press("ArrowDown")
        marked = (
            "document.getElementById(document.activeElement.getAttribute('aria-activedescendant'))"
        )
        assert page.js(f"{marked} === document.querySelectorAll('#found [role=option]')[1]")
        second = page.js(f"{marked}.textContent")
        page.press("Enter")
        page.wait_for("document.querySelectorAll('#chosen li').length == 2")
        assert second in page.js("document.querySelector('#chosen').innerText")

        page.js("location.hash = '#i3,i4'")
        page.js("document.querySelector('#filters').open = true")
        page.click("#fields input[value=comedy]")
        page.js("document.querySelector('#fields input[data-compare=gte]').focus()")
        page.type("1992")
        wanted = [one.title for one in expected]
        page.wait_for(f"JSON.stringify({TITLES}) == JSON.stringify({wanted!r})")
        assert page.js("document.querySelector('summary').textContent") == "Filters (2)"
        small = page.js("document.querySelector('#recommended small').textContent")
        positive = [one.because for one in expected if one.because[0].effect > 0]
        named = ", ".join(reason.title for reason in positive[0] if reason.effect > 0)
        assert small == f"because of {named}"

        page.click("#recommended button[aria-label^='Items similar']")
        page.wait_for("document.querySelectorAll('#alike .title').length == 10")
        assert page.js("document.activeElement.textContent") == f"Similar to {wanted[0]}"
        found = page.js("[...document.querySelectorAll('#alike .title')].map(e => e.textContent)")
        assert found == [one.title for one in recommender.similar(expected[0].id)]
        unnamed = [
            node["role"]["value"]
            for node in page.call("Accessibility.getFullAXTree")["nodes"]
            if not node.get("ignored")
            and node.get("role", {}).get("value") in NAMED
            and not node.get("name", {}).get("value")
        ]
        assert unnamed == []
        page.screenshot(tmp_path / "desktop.png")
        page.click("#close")
        page.wait_for("document.querySelector('#similar').hidden")
        page.js("document.querySelector('#fields input[data-compare=gte]').focus()")
        page.type("9")  # 19929
        problem = "document.querySelector('#problem').textContent"
        page.wait_for(f"{problem} == 'No other item meets the filters.'")


def test_a_bookmark_a_phone_and_a_hostile_title(served, tmp_path):
    recommender, address = served
    hostile = recommender.catalogue.ids[5]
    with Chromium(tmp_path / "profile") as page:
        page.open(f"{address}#i3,{hostile},absent", width=390, height=844, dark=True)
        page.wait_for(f"{TITLES}.length == 10")
        assert page.js("document.querySelectorAll('#chosen li').length") == 2
        assert page.js("document.title") == "Recommendations"
        assert page.js("document.querySelectorAll('img').length") == 0
        assert page.js("document.documentElement.scrollWidth") <= 390
        assert page.js("getComputedStyle(document.body).backgroundColor") == "rgb(23, 23, 26)"
        buttons = "[...document.querySelectorAll('section:not([hidden]) button')]"
        small = f"Math.min(...{buttons}.map(b => b.offsetHeight))"
        assert page.js(small) >= 44  # fingers
        page.screenshot(tmp_path / "phone.png")
        assert (tmp_path / "phone.png").stat().st_size > 10_000
