"""The notebook runs in its short form, on real data and real weights."""

import json
import re
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "quickstart.ipynb"


def cells():
    """Source of each code cell, without the lines for Jupyter alone, and its stored output."""
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            lines = "".join(cell["source"]).splitlines()
            source = "\n".join(re.sub(r"^(\s*)%.*", r"\1pass", line) for line in lines)
            yield source, cell["outputs"]


@pytest.mark.integration
def test_the_notebook_runs(workdir, capsys, monkeypatch):
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    monkeypatch.setenv("RECBOLE_LITE_SHORT", "1")
    names = {}
    for source, _ in cells():
        exec(compile(source, NOTEBOOK.name, "exec"), names)
    printed = capsys.readouterr().out
    assert (names["folder"] / "report.html").is_file()
    assert len(names["axes"].lines) == 2
    lists = [line for line in printed.splitlines() if line.count(" | ") == 4]
    assert len(lists) == 2
    assert not any(title in lists[0] for title in ("Toy Story (", "Lion King, The (", "Aladdin ("))
    # MiniLM's vectors do not depend on the training, so these can be asked for by name.
    (like_toy_story,) = re.findall(r"^Toy Story: \| (.*)", printed, re.MULTILINE)
    assert "Goofy Movie, A" in like_toy_story
    assert len(re.findall(r"Finding Nemo is number \d+ of 1,680", printed)) == 2
    assert (workdir / "results" / "compare" / "ml-100k").is_dir()


def test_the_notebook_shows_what_its_cells_gave():
    stored = [outputs for source, outputs in cells() if "print(" in source]
    assert len(stored) == 4
    assert all(outputs for outputs in stored)
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert "image/png" in text
    assert not re.search(r"/home/|/root/|/tmp/", text)
