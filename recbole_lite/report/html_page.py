"""HTML of the pages: jinja2 templates with the style sheets in them, no script, no outside file."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jinja2

TEMPLATES = Path(__file__).with_name("templates")


def render_template(template: str, /, **content) -> str:
    """Fill a template; what is no :class:`markupsafe.Markup` is escaped."""
    return _environment().get_template(template).render(**content)


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
