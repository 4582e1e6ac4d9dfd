"""Write docs/configuration.md from properties/: every key, its default, and what it means.

python docs/make_configuration.py
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from recbole_lite.config.yaml_files import Loader

ROOT = Path(__file__).resolve().parents[1]
PROPERTIES = ROOT / "properties"
PAGE = ROOT / "docs" / "configuration.md"
LONGEST = 100  # characters of a default in a table
HEAD = """\
# Configuration

Written by `python docs/make_configuration.py` from [`properties/`](../properties); change the
files there, not this page.

What counts, from the strongest: the command line (`--key=value`), `config_dict`, `--config_files`
(the last file first), the data set's, the model's and the overall file of `properties/`, RecBole's
own defaults. [RecBole's keys](https://recbole.io/docs/user_guide/config_settings.html) that are not
listed here have its meaning and its defaults. An unknown key is an error that names the nearest
known ones. `~` is "not set". A run's complete settings are in its folder, `config.yaml`
([runs.md](runs.md)).
"""


@dataclass
class Key:
    """A key, its default as YAML on one line, its type and its comment."""

    name: str
    default: str
    type: str
    comment: str


def read(path: Path) -> tuple[str, list[str | Key]]:
    """Introduction of a file, then its headings (str) and keys in order."""
    text = path.read_text(encoding="utf-8")
    values = yaml.load(text, Loader=Loader) or {}
    lines = text.splitlines()
    intro, body = [], 0
    while body < len(lines) and lines[body].startswith("#"):
        intro.append(lines[body].lstrip("# "))
        body += 1
    entries: list[str | Key] = []
    for line in lines[body:]:
        key = re.match(r"(\w+):(?:[^#\"']|\"[^\"]*\"|'[^']*')*(?:#\s*(.*))?$", line)
        if key:
            comment = re.match(r"\(([^)]*)\)\s*(.*)", key[2] or "")
            kind, said = comment.groups() if comment else ("", key[2] or "")
            entries.append(Key(key[1], one_line(values[key[1]]), kind, said))
        elif line.startswith("#"):
            entries.append(line.lstrip("# "))
    missing = set(values) - {entry.name for entry in entries if isinstance(entry, Key)}
    if missing:
        raise SystemExit(f"{path}: cannot read the lines of {', '.join(sorted(missing))}")
    return " ".join(intro), entries


def one_line(value) -> str:
    """YAML of a value on one line, as these files write it."""
    if value is None:
        return "~"
    if isinstance(value, float):
        return f"{value:g}"
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("...\n").strip()


def is_reference(entries: list[str | Key]) -> bool:
    """Whether a file explains keys; a preset only sets them."""
    keys = [entry for entry in entries if isinstance(entry, Key)]
    return 2 * sum(bool(key.type) for key in keys) >= len(keys) > 0


def table(entries: list[str | Key]) -> str:
    """Markdown: a table below each heading."""
    lines: list[str] = []
    head = ["| key | default | type | |", "|---|---|---|---|"]
    opened = False
    for entry in entries:
        if isinstance(entry, str):
            lines += ["", f"**{entry}**", ""]
            opened = False
            continue
        if not opened:
            lines += ["", *head] if lines and lines[-1] else head
            opened = True
        default = f"`{entry.default}`" if len(entry.default) <= LONGEST else "see the file"
        cells = (f"`{entry.name}`", default, entry.type, entry.comment)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines).strip()


def preset_row(path: Path, intro: str, entries: list[str | Key]) -> str:
    """Row of the table of presets."""
    sets = ", ".join(f"`{entry.name}`" for entry in entries if isinstance(entry, Key))
    name = path.relative_to(ROOT)
    return f"| [`{name}`](../{name}) | {intro} | {sets} |".replace("\n", " ")


def page() -> str:
    """The whole page."""
    overall = PROPERTIES / "overall.yaml"
    tops = [overall, *(p for p in sorted(PROPERTIES.glob("*.yaml")) if p != overall)]
    parts, presets = [HEAD], []
    for path in [*tops, *sorted(PROPERTIES.glob("model/*.yaml"))]:
        intro, entries = read(path)
        if is_reference(entries):
            title = "Every run" if path == overall else path.stem
            source = path.relative_to(ROOT)
            parts.append(f"## {title}\n\n[`{source}`](../{source}): {intro}\n\n{table(entries)}\n")
        else:
            presets.append(preset_row(path, intro, entries))
    folders = sorted(p for p in PROPERTIES.iterdir() if p.is_dir() and p.name not in SPECIAL)
    for folder in folders:
        for path in sorted(folder.glob("*.yaml")):
            presets.append(preset_row(path, *read(path)))
    parts.append(
        "## Presets\n\nFiles that set keys: a data set's and a model's are read by themselves, an "
        "`ablation` row by `recbole-lite ablate`, the others by `--config_files`.\n\n"
        "| file | | sets |\n|---|---|---|\n" + "\n".join(presets) + "\n"
    )
    for name in sorted(SPECIAL - {"model"}):
        files = [f"`{path.stem}`" for path in sorted((PROPERTIES / name).glob("*.yaml"))]
        if files:
            parts.append(f"## `properties/{name}/`\n\n{SPECIAL_TEXT[name]}: {', '.join(files)}.\n")
    return "\n".join(parts)


SPECIAL_TEXT = {
    "model": "",
    "rec_llm": "Architectures that need no download, for `rec_llm` with `rec_llm_init: scratch`; "
    "their keys are Hugging Face's",
    "hyper": "Search spaces of sweeps",
}
SPECIAL = set(SPECIAL_TEXT)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
