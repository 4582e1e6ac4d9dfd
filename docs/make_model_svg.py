"""Write docs/model.svg, the picture of the model in docs/model.md.

python docs/make_model_svg.py
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

PAGE = Path(__file__).with_name("model.svg")
WIDTH, HEIGHT = 940, 520
STYLE = """
:root { --ground: #ffffff; --text: #1b1f24; --quiet: #5a6270; --rule: #b9bfc9; --band: #f3f5f8;
  --llm: #dbe8fb; --llm-edge: #1f5fbf; --vector: #fbe6d0; --vector-edge: #c45f00;
  --head: #ddf1e4; --head-edge: #22804d; }
@media (prefers-color-scheme: dark) { :root { --ground: #14181d; --text: #e8eaee; --quiet: #a3abb8;
  --rule: #566070; --band: #1d232b; --llm: #1d3557; --llm-edge: #8ab8ff; --vector: #4a3218;
  --vector-edge: #ffab57; --head: #17382a; --head-edge: #7fdca6; } }
svg { background: var(--ground); }
text { fill: var(--text); font: 15px system-ui, -apple-system, "Segoe UI", sans-serif; }
.small { font-size: 13px; } .quiet { fill: var(--quiet); font-size: 13px; }
.title { font-weight: 650; } .math { font-style: italic; font-family: Georgia, serif; }
.band { fill: var(--band); } .box { fill: var(--ground); stroke: var(--rule); stroke-width: 1.5; }
.llm { fill: var(--llm); stroke: var(--llm-edge); stroke-width: 2; }
.vector { fill: var(--vector); stroke: var(--vector-edge); stroke-width: 1.5; }
.head { fill: var(--head); stroke: var(--head-edge); stroke-width: 2; }
.arrow { stroke: var(--quiet); stroke-width: 2; fill: none; marker-end: url(#tip); }
.dashed { stroke-dasharray: 6 4; } #tip path { fill: var(--quiet); }
"""
ABOUT = (
    "Above, once per item: its text goes through the Item LLM, the mean over the tokens is its "
    "vector h, kept in a table of all items. Below, once per user: the vectors of the user's items "
    "go through the Recommendation LLM, the mean over its outputs is h_u, the item projection head "
    "scores all items in one matrix product, and the items that the user had are left out."
)


def box(x, y, w, h, kind, *lines, styles=()) -> str:
    """A rounded box with centred lines of text."""
    parts = [f'<rect class="{kind}" x="{x}" y="{y}" width="{w}" height="{h}" rx="8"/>']
    top = y + h / 2 - 10 * (len(lines) - 1) + 5
    for number, line in enumerate(lines):
        style = styles[number] if number < len(styles) else "small"
        parts.append(text(x + w / 2, top + 20 * number, line, style))
    return "".join(parts)


def text(x, y, line, style="small", anchor="middle") -> str:
    """A line of text; what follows an underscore stands below the line."""
    said = re.sub(
        r"_(\w+)(?:\s|$)",
        r'<tspan dy="4" font-size="11">\1</tspan><tspan dy="-4"> </tspan>',
        escape(line),
    )
    return f'<text class="{style}" x="{x}" y="{y}" text-anchor="{anchor}">{said}</text>'


def arrow(*points, style="") -> str:
    """A line with a tip through points."""
    path = "M" + " L".join(f"{x} {y}" for x, y in points)
    return f'<path class="arrow {style}" d="{path}"/>'


def once_per_item() -> list[str]:
    """The upper half: texts -> Item LLM -> table of vectors."""
    parts = [f'<rect class="band" x="10" y="10" width="{WIDTH - 20}" height="190" rx="10"/>']
    parts.append(text(28, 38, "Once per item", "title", "start"))
    parts.append(
        text(158, 38, "kept on disk; encoded again only where a text is new", "quiet", "start")
    )
    parts.append(
        box(28, 62, 210, 100, "box", "text of item i", "“Fargo (1996).", "Genres: Crime, Drama”",
            styles=("title",))
    )  # fmt: skip
    parts.append(arrow((238, 112), (288, 112)))
    parts.append(
        box(292, 62, 180, 100, "llm", "Item LLM", "T5, BERT, MiniLM, ...", "frozen or trained",
            styles=("title",))
    )  # fmt: skip
    parts.append(arrow((472, 112), (586, 112)))
    parts.append(text(527, 98, "mean over", "quiet"))
    parts.append(text(527, 134, "its tokens", "quiet"))
    for row in range(5):
        parts.append(f'<rect class="vector" x="590" y="{62 + 20 * row}" width="150" height="20"/>')
    parts.append(text(665, 117, "h_i", "math"))
    parts.append(text(758, 100, "table of item vectors", "small", "start"))
    parts.append(text(758, 122, "[items, d]", "quiet", "start"))
    parts.append(text(758, 144, "equations 1-3", "quiet", "start"))
    return parts


def once_per_user() -> list[str]:
    """The lower half: a history -> Recommendation LLM -> scores of all items."""
    parts = [f'<rect class="band" x="10" y="212" width="{WIDTH - 20}" height="298" rx="10"/>']
    parts.append(text(28, 240, "Once per user", "title", "start"))
    parts.append(text(158, 240, "no decoder, no beam search", "quiet", "start"))
    parts.append(arrow((665, 162), (665, 283), (232, 283), style="dashed"))
    parts.append(
        text(640, 276, "look up by item id; an adapter where sizes differ", "quiet", "end")
    )
    for n, name in enumerate(("1", "2", "3", "L")):
        x = 28 + 48 * n + (12 if name == "L" else 0)
        parts.append(box(x, 266, 40, 34, "vector", f"h_{name}", styles=("math",)))
        parts.append(arrow((x + 20, 300), (x + 20, 332)))
        parts.append(arrow((x + 20, 416), (x + 20, 446)))
        parts.append(box(x, 450, 40, 34, "box", f"o_{name}", styles=("math",)))
    parts.append(text(173, 288, "…", "small"))
    parts.append(
        box(28, 336, 204, 80, "llm", "Recommendation LLM", "an LLM's encoder, fed with",
            "vectors instead of tokens", styles=("title",))
    )  # fmt: skip
    parts.append(arrow((232, 467), (338, 467)))
    parts.append(text(284, 458, "mean", "quiet"))
    parts.append(text(284, 486, "equation 4", "quiet"))
    parts.append(box(342, 444, 56, 46, "vector", "h_u", styles=("math",)))
    parts.append(arrow((398, 467), (424, 467)))
    parts.append(
        box(428, 420, 196, 86, "head", "Item projection head", "W_proj h_u", "no bias; equation 5",
            styles=("title", "math"))
    )  # fmt: skip
    parts.append(arrow((624, 467), (664, 467)))
    parts.append(box(668, 430, 122, 74, "box", "scores", "of all items", styles=("title",)))
    parts.append(arrow((790, 467), (822, 467)))
    parts.append(box(826, 430, 96, 74, "box", "top k", "not had yet", styles=("title",)))
    parts.append(arrow((729, 430), (729, 380), style="dashed"))
    parts.append(
        box(590, 318, 278, 62, "box", "training: cross entropy of the", "next item; equation 6")
    )
    return parts


def picture() -> str:
    """The SVG."""
    tip = (
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
        'markerHeight="7" orient="auto-start-reverse"><path d="M0 0 L10 5 L0 10 z"/></marker>'
        "</defs>"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-labelledby="t d"><title id="t">LITE-LLM4Rec</title>'
        f'<desc id="d">{escape(ABOUT)}</desc>'
        f"<style>{STYLE}</style>{tip}"
        + "\n".join([*once_per_item(), *once_per_user()])
        + "</svg>\n"
    )


if __name__ == "__main__":
    PAGE.write_text(picture(), encoding="utf-8")
    print(PAGE)
