"""Hooks of the documentation site: pages that are made when it is built, links out of docs/."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
# Pages that stand elsewhere in the repository: their path there -> their path on the site.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "results/README.md": "results.md",
}
_ROLE = re.compile(r":(?:class|meth|func|mod|attr):<code>(?:~[\w.]*?(?=\w+</code>))?")
_LINK = re.compile(r"(\]\()([^)\s#:]+)(#[^)\s]*)?(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the repository's own pages, and the files that any page links to."""
    for source, target in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, target, content=_relinked(text, source, target)))
    files.append(File.generated(config, "command-line.md", content=command_line()))
    linked: set[str] = set()
    for source in [*PAGES, *(f"docs/{page.src_uri}" for page in files.documentation_pages())]:
        path = ROOT / source
        if path.is_file():
            linked |= set(_places(path.read_text(encoding="utf-8"), source))
    for place in sorted(linked):
        target = _on_site(place)
        if target.startswith("files/") and files.get_file_from_path(target) is None:
            content = _content(ROOT / place)
            files.append(File.generated(config, target, content=content))
    return files


def on_page_markdown(markdown: str, page, **_) -> str:
    """Let links out of docs/ lead to the copies on the site."""
    if page.file.generated_by:
        return markdown
    return _relinked(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)


def on_page_content(html: str, **_) -> str:
    """Show docstrings' cross references, which are Sphinx's, as code."""
    return _ROLE.sub("<code>", html)


def _places(text: str, source: str) -> list[str]:
    """Files of the repository that a page links to, relative to its root."""
    found = []
    for match in _LINK.finditer(text):
        place = (ROOT / source).parent.joinpath(match[2]).resolve()
        if place.exists() and place.is_relative_to(ROOT):
            found.append(place.relative_to(ROOT).as_posix())
    return found


def _content(path: Path) -> bytes:
    """Content of a file, or the names of a folder's files."""
    if path.is_file():
        return path.read_bytes()
    names = sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())
    return "\n".join(names).encode()


def _on_site(place: str) -> str:
    if place in PAGES:
        return PAGES[place]
    return place.removeprefix("docs/") if place.startswith("docs/") else f"files/{place}.txt"


def _relinked(text: str, source: str, target: str) -> str:
    up = "../" * target.count("/")

    def relink(match: re.Match) -> str:
        place = (ROOT / source).parent.joinpath(match[2]).resolve()
        if not place.is_relative_to(ROOT) or not place.exists():
            return match[0]
        place = place.relative_to(ROOT).as_posix()
        return f"{match[1]}{up}{_on_site(place)}{match[3] or ''}"

    return _LINK.sub(relink, text)


def command_line() -> str:
    """Page with the help of every subcommand, from the parsers."""
    from recbole_lite.cli.main import build_parser

    parser, _ = build_parser()
    return "# Command line\n" + "\n".join(_help(parser, "")) + "\n"


def _help(parser: argparse.ArgumentParser, name: str) -> list[str]:
    """Help of a command and of its subcommands, each under a heading."""
    depth = "#" * (len(name.split()) + 1)
    lines = ["", f"{depth} {name}"] if name else []
    lines += ["", "```text", parser.format_help().rstrip(), "```"]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, command in action.choices.items():
                lines += _help(command, f"{name} {word}".strip())
    return lines
