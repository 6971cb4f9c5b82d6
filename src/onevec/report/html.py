"""A summary to one HTML file that opens anywhere, without a network."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from onevec.errors import MissingExtraError


def render(summary: Mapping[str, Any]) -> str:
    """Fill the template with what `onevec.report.summarize.summarize` returned."""
    try:
        from jinja2 import Environment
    except ImportError as error:
        raise MissingExtraError("jinja2", "report") from error
    source = (files("onevec.report") / "templates" / "report.html").read_text("utf-8")
    return Environment(autoescape=True).from_string(source).render(**summary)


def write(summary: Mapping[str, Any], path: str | Path) -> Path:
    """Write the report; the file appears whole or not at all."""
    path = Path(path)
    text = render(summary)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, "utf-8")
    return part.replace(path)
