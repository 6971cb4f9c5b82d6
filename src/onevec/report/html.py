"""A summary to one HTML file that opens anywhere, without a network."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from onevec.errors import InputError, MissingExtraError
from onevec.files import appears_whole, check_target

_MARK = b'name="generator" content="onevec"'  # in the template


def render(summary: Mapping[str, Any]) -> str:
    """Fill the template with what `onevec.report.summarize.summarize` returned."""
    try:
        from jinja2 import Environment
    except ImportError as error:
        raise MissingExtraError("jinja2", "report") from error
    source = (files("onevec.report") / "templates" / "report.html").read_text("utf-8")
    return Environment(autoescape=True).from_string(source).render(**summary)


def check_report(path: str | Path) -> Path:
    """Refuse a place that no report can go to; a report that stands there may be replaced."""
    if Path(path).suffix not in (".html", ".htm"):
        raise InputError(f"got --out {path}: a report must end in .html")
    return check_target(path, True, what="report of onevec", ours=_is_report)


def write(summary: Mapping[str, Any], path: str | Path) -> Path:
    """Write the report; the file appears whole or not at all."""
    path = check_report(path)
    with appears_whole(path) as part:
        part.write_text(render(summary), "utf-8")
    return path


def _is_report(path: Path) -> bool:
    return path.is_file() and _MARK in path.read_bytes()[:500]
