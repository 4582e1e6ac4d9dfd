"""The tutorial runs in its short form, on real data and real weights."""

import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.integration
def test_the_short_tutorial(workdir, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tutorial.py", "--short"])
    runpy.run_path(str(ROOT / "examples" / "tutorial.py"), run_name="__main__")
    printed = capsys.readouterr().out
    (report,) = re.findall(r"Open in a browser: (\S+)", printed)
    assert (workdir / report).is_file()
    recommended = re.findall(r"recommended:  (.*)", printed)
    assert [line.count(" | ") for line in recommended] == [4, 4]
    for had, line in zip(re.findall(r"had:          (.*)", printed), recommended, strict=True):
        assert not set(had.split(" | ")) & set(line.split(" | "))
    # MiniLM's vectors do not depend on the training, so these can be asked for by name.
    (like_toy_story,) = re.findall(r"like Toy Story: (.*)", printed)
    assert "Goofy Movie, A" in like_toy_story
    assert re.search(r"LiteLLM4Rec-ml-100k\S* .*95%|0 is (in|out)side", printed)
    assert (workdir / "results" / "compare" / "ml-100k" / "compare.svg").is_file()
