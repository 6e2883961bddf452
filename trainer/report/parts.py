"""The parts that the pages of this package are made of: templates, style sheets, scripts."""

from __future__ import annotations

from importlib import resources

import jinja2


def environment() -> jinja2.Environment:
    """The templates of this package; they escape every text."""
    loader = jinja2.PackageLoader("trainer.report", "")
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)


def part(name: str) -> str:
    """A style sheet or a script of this package."""
    return resources.files("trainer.report").joinpath(name).read_text(encoding="utf-8")
