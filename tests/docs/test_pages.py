"""Documentation that cannot go stale unseen: generated pages, links, command lines."""

import argparse
import importlib.util
import re
import shlex
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from shell_blocks import commands

from recbole_lite import LiteConfig
from recbole_lite.cli import main
from recbole_lite.config.yaml_files import Loader, read_yaml
from recbole_lite.experiments.adapt_llm.adapt import AdaptLLM

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md")),
    *sorted((ROOT / "results").glob("**/README.md")),
]  # fmt: skip
by_name = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


# -- generated --------------------------------------------------------------------------------


def test_the_reference_of_settings_is_up_to_date(monkeypatch):
    script = ROOT / "docs" / "make_configuration.py"
    spec = importlib.util.spec_from_file_location("make_configuration", script)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "make_configuration", module)
    spec.loader.exec_module(module)
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert text == module.page(), "stale: python docs/make_configuration.py"


def test_the_reference_has_every_key_of_the_models():
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    for path in [ROOT / "properties" / "overall.yaml", *ROOT.glob("properties/model/*.yaml")]:
        for key in read_yaml(path):
            assert f"| `{key}` |" in text


# -- links ------------------------------------------------------------------------------------


def without_code(text):
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S)


def anchors(path):
    """GitHub's anchors of a page's headings."""
    found = []
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", without_code(path.read_text()), re.M):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        n = sum(f == slug or re.fullmatch(re.escape(slug) + r"-\d+", f) is not None for f in found)
        found.append(f"{slug}-{n}" if n else slug)
    return found


def broken_links(page):
    text = re.sub(r"`[^`\n]*`", "", without_code(page.read_text(encoding="utf-8")))
    broken = []
    for target in re.findall(r"\]\(\s*<?([^)\s>]+)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = unquote(target).partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)
    return broken


@by_name
def test_links_lead_somewhere(page):
    assert broken_links(page) == []


def test_the_link_checker_finds_broken_links(tmp_path):
    (tmp_path / "b.md").write_text(
        "# A `code`: title, (x)\n## Two\n## Two\n```\n# no heading\n```\n"
    )
    (tmp_path / "a.md").write_text(
        "[x](b.md) [x](b.md#a-code-title-x) [x](b.md#two-1) [x](https://a.org/none) [x](#here)"
        "\n# Here\n```\n[x](not-a-link.md)\n```\n`[x](nor-this.md)`\n"
        "[x](none.md) [x](b.md#three) ![x](none.svg) [x](b.md#no-heading)\n"
    )
    assert broken_links(tmp_path / "a.md") == [
        "none.md",
        "b.md#three",
        "none.svg",
        "b.md#no-heading",
    ]


def test_no_page_of_the_documentation_is_an_orphan():
    linked = set()
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            linked.add((page.parent / target).resolve())
    assert [p.name for p in (ROOT / "docs").glob("*.md") if p not in linked] == []


# -- command lines ----------------------------------------------------------------------------


class Parsed(Exception):  # noqa: N818 - stops a command line after its parsing
    pass


@pytest.fixture
def parse(monkeypatch):
    """Real arguments of a real command line, without what it would do."""
    real, depth = argparse.ArgumentParser.parse_known_args, []

    def parse_known_args(self, *args, **kwargs):
        depth.append(self)
        try:
            found = real(self, *args, **kwargs)
        finally:
            depth.pop()
        if depth:
            return found
        raise Parsed(*found)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_known_args)

    def run(main, words):
        try:
            main(words)
        except Parsed as caught:
            return caught.args
        raise AssertionError("the command line was not parsed")

    return run


# Programs that no test can check; what is given to them is theirs.
FOREIGN = {
    "cd", "curl", "docker", "export", "git", "jq", "ray", "schemathesis", "source", "tar",
    "torchrun",
}  # fmt: skip


def check(words, parse):
    while re.fullmatch(r"\w+=.*", words[0]):  # VARIABLE=value before a command
        words = words[1:]
    program, rest = words[0], [w for w in words[1:] if w != "&"]
    if program == "recbole-lite":
        check_arguments(*parse(main.main, rest))
    elif program in ("python", "python3"):
        check_python(rest, parse)
    elif program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
        assert set(rest) <= set(targets)
    elif program == "pip":
        extras = {e for w in rest for e in re.findall(r"(?:\.|recbole-lite)\[([\w,]+)\]", w)}
        known = re.search(r"EXTRAS = \{(.*?)^\}", (ROOT / "setup.py").read_text(), re.M | re.S)[1]
        assert {name for e in extras for name in e.split(",")} <= set(
            re.findall(r'"(\w+)":', known)
        )
    else:
        assert program in FOREIGN, f"unknown program {program}"


def check_python(rest, parse):
    if rest[0] == "run_recbole_lite.py":
        check_arguments(*parse(main.run_main, rest[1:]))
    elif rest[:2] == ["-m", "recbole_lite"]:
        check_arguments(*parse(main.main, rest[2:]))
    elif rest[0] == "-m":
        assert importlib.util.find_spec(rest[1])
    elif rest[0] != "-c":
        script = ROOT / rest[0]
        assert script.is_file(), f"no {rest[0]}"
        flags = {re.match(r"--[\w-]+", word)[0] for word in rest[1:] if word.startswith("--")}
        source = script.read_text(encoding="utf-8")
        if "parse_known_args" not in source:
            assert [flag for flag in flags if flag not in source] == []


def check_arguments(args, rest):
    """What argparse leaves must be keys that the configuration knows."""
    if not hasattr(args, "config_files"):
        assert rest == [], f"cannot read {rest}"
        return
    rest = [w for w in rest if not is_of_a_sweep(w, rest)]
    files = [file for given in args.config_files for file in given.split()]
    files = [str(ROOT / file) for file in files if not file.startswith("saved/")]
    model = getattr(args, "model", AdaptLLM) or ("LiteLLM4Rec" if args.config_files else None)
    if getattr(args, "command", None) == "data":
        model, dataset = model or "LiteLLM4Rec", args.name
    else:
        dataset = args.dataset or ("ml-100k" if args.config_files else None)
    if model or not any(w.startswith("--resume=") for w in rest):
        LiteConfig(model, dataset, config_file_list=files, overrides=rest)


def is_of_a_sweep(word, words):
    if not any(w.startswith("--tune=") for w in words):
        return False
    path = ROOT / "properties" / "tune.yaml"
    keys = {"tune", *(read_yaml(path) if path.is_file() else {})}
    return word.removeprefix("--").partition("=")[0].replace("-", "_") in keys


@by_name
def test_command_lines_are_understood(page, parse, monkeypatch):
    monkeypatch.chdir(ROOT)
    problems = []
    for words in commands(page):
        try:
            check(words, parse)
        except (Exception, SystemExit) as error:
            problems.append(f"{shlex.join(words)}: {error!r}")
    assert problems == []


@pytest.mark.parametrize(
    "line",
    [
        "recbole-lite nothing", "recbole-lite run --model=SASRec --dataset=ml-100k --epocs=3",
        "recbole-lite compare", "recbole-lite report a --b=c", "make nothing", "foo --bar",
        'pip install ".[none]"', "python none.py",
        "python run_recbole_lite.py --model=SASRecc -d x",
        "python benchmarks/training.py --nothing=1", "recbole-lite data prepar ml-1m",
        "python run_recbole_lite.py -m Pop -d ml-1m --config_files=properties/none.yaml",
    ],
)  # fmt: skip
def test_wrong_command_lines_are_found(line, parse, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    with pytest.raises((Exception, SystemExit)):
        check(shlex.split(line), parse)


def test_every_subcommand_is_documented(capsys):
    with pytest.raises(SystemExit):
        main.main(["--help"])
    names = re.findall(r"^    (\w+) {2,}", capsys.readouterr().out, re.M)
    assert {"run", "reproduce", "report"} <= set(names)
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in names if f"recbole-lite {name}" not in text] == []


def test_there_are_command_lines_to_check():
    assert sum(len(commands(page)) for page in PAGES) > 20
    assert ["make", "demo"] in commands(ROOT / "README.md")


@by_name
def test_yaml_of_the_pages_can_be_read(page):
    import yaml

    for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.M | re.S):
        assert yaml.load(block, Loader=Loader)
