"""Write docs/configuration.md from properties/: every key, its default, and what it means.

python docs/make_configuration.py
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from recbole_lite.config import keys
from recbole_lite.config.known_keys import RECBOLE_PROPERTIES
from recbole_lite.config.yaml_files import Loader

ROOT = Path(__file__).resolve().parents[1]
PROPERTIES = ROOT / "properties"
PAGE = ROOT / "docs" / "configuration.md"
LONGEST = 100  # characters of a default in a table
TITLES = {  # files of the reference besides the models'
    "overall.yaml": "Every run",
    "recbole.yaml": "RecBole's keys",
    "tune.yaml": "Sweeps",
    "adapt_llm.yaml": "Adapting an Item LLM",
    "update.yaml": "Updates",
}
HEAD = """\
# Configuration

Written by `python docs/make_configuration.py` from [`properties/`](../properties); change the
files there, not this page.

Settings are resolved in this order, highest priority first: the command line (`--key=value`),
`config_dict`, `--config_files` (the last file first), the data set's, the model's and the overall
file of `properties/`, RecBole's own defaults.
[RecBole's keys](https://recbole.io/docs/user_guide/config_settings.html) that are not listed here
have its meaning and its defaults. Unknown keys raise an error that suggests similar names; former
names are still read. `~` is "not set". A run's complete settings are in its folder, `config.yaml`
([runs.md](runs.md)). How to add a setting: [extending.md](extending.md#a-setting).

The column "affects" decides what may change when a run is resumed, what a cache or the row of an
ablation depends on, and what stays out of a packed model. A key without a word there is taken to
affect the trained weights and all that follows from them.

| affects | |
|---|---|
"""


def read(path: Path) -> tuple[str, list[str | keys.Key], dict]:
    """Introduction of a file, its headings (str) and keys in order, its values."""
    text = path.read_text(encoding="utf-8")
    values = yaml.load(text, Loader=Loader) or {}
    intro = re.match(r"(?:#.*\n)*", text)[0]
    first, *blocks = re.split(r"^# (.*)$", text.removeprefix(intro), flags=re.MULTILINE)
    entries: list[str | keys.Key] = [*keys.read_keys(first).values()]
    for heading, below in zip(blocks[::2], blocks[1::2], strict=True):
        entries += [heading, *keys.read_keys(below).values()]
    missing = set(values) - {entry.name for entry in entries if isinstance(entry, keys.Key)}
    if missing:
        raise SystemExit(f"{path}: cannot read the lines of {', '.join(sorted(missing))}")
    return " ".join(intro.replace("\n", " ").replace("# ", "").split()), entries, values


def one_line(value) -> str:
    """YAML of a value on one line, as these files write it."""
    if value is None:
        return "~"
    if isinstance(value, float):
        return f"{value:g}"
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("...\n").strip()


def table(entries: list[str | keys.Key], values: dict) -> str:
    """Markdown: a table below each heading."""
    lines: list[str] = []
    head = ["| key | default | type | affects | |", "|---|---|---|---|---|"]
    opened = False
    for entry in entries:
        if isinstance(entry, str):
            lines += ["", f"**{entry}**", ""]
            opened = False
            continue
        if not opened:
            lines += ["", *head] if lines and lines[-1] else head
            opened = True
        default = one_line(values[entry.name]) if entry.name in values else ""
        default = f"`{default}`" if len(default) <= LONGEST else "see the file"
        key = entry if entry.type else keys.find_key(entry.name)
        former = ", ".join(f"`{name}`" for name in (*key.former_names, *key.former_values))
        meaning = entry.meaning + f" Before: {former}." * bool(former)
        cells = (f"`{entry.name}`", default.replace("``", ""), key.type.removeprefix("any: "))
        cells += (", ".join(sorted(key.affects)), meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines).strip()


def reference(path: Path) -> str:
    """Section of a file that explains keys."""
    intro, entries, values = read(path)
    if path.name == "recbole.yaml":
        values = {}
        for name in ("overall.yaml", "dataset/sample.yaml"):
            text = (RECBOLE_PROPERTIES / name).read_text(encoding="utf-8")
            values |= yaml.load(text, Loader=Loader)
    source = path.relative_to(ROOT)
    title = TITLES.get(path.name, path.stem)
    return f"## {title}\n\n[`{source}`](../{source}): {intro}\n\n{table(entries, values)}\n"


def preset_row(path: Path) -> str:
    """Row of the table of presets."""
    intro, _, values = read(path)
    name = path.relative_to(ROOT)
    return f"| [`{name}`](../{name}) | {intro} | {', '.join(f'`{key}`' for key in values)} |"


def page() -> str:
    """The whole page."""
    words = "".join(f"| {word} | {meaning} |\n" for word, meaning in keys.AFFECTS.items())
    files = [*(PROPERTIES / name for name in TITLES), *sorted(PROPERTIES.glob("model/*.yaml"))]
    parts = [HEAD + words, *map(reference, files)]
    folders = sorted(p for p in PROPERTIES.iterdir() if p.is_dir() and p.name not in SPECIAL_TEXT)
    tops = (path for path in sorted(PROPERTIES.glob("*.yaml")) if path.name not in TITLES)
    presets = [*tops, *(path for folder in folders for path in sorted(folder.rglob("*.yaml")))]
    parts.append(
        "## Presets\n\nFiles that set keys: a data set's and a model's are read by themselves, an "
        "`ablation` row by `recbole-lite ablate`, a `benchmark` row by `recbole-lite reproduce "
        "benchmark`, the others by `--config_files`.\n\n"
        "| file | | sets |\n|---|---|---|\n" + "\n".join(map(preset_row, presets)) + "\n"
    )
    for name in sorted(SPECIAL_TEXT):
        names = [f"`{path.stem}`" for path in sorted((PROPERTIES / name).glob("*.yaml"))]
        if SPECIAL_TEXT[name]:
            parts.append(f"## `properties/{name}/`\n\n{SPECIAL_TEXT[name]}: {', '.join(names)}.\n")
    return "\n".join(parts)


SPECIAL_TEXT = {
    "model": "",
    "rec_llm": "Architectures that need no download, for `rec_llm` with `rec_llm_init: scratch`; "
    "their keys are Hugging Face's",
    "hyper": "Search spaces of sweeps",
}


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
