"""The command line. Each command parses, calls one public function and prints."""

from __future__ import annotations

import logging
import sys
import warnings
from importlib import import_module

import typer

from onevec.cli.common import app, say
from onevec.errors import OnevecError

__all__ = ["app", "main"]
# Their commands join the application, in the order of the help.
for _area in ("embed", "tokens", "finetune", "model", "use", "select", "export"):
    import_module(f"onevec.cli.{_area}")


class _Told(logging.Handler):
    """Prints each line once, though an input may be read several times."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._lines: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line that was not printed before."""
        line = record.getMessage()
        if line not in self._lines:
            self._lines.add(line)
            say(f"onevec: {line}")


def main() -> None:
    """Run the command line; a rule that is broken ends with one sentence and exit code 2."""
    warnings.showwarning = lambda message, *_, **__: say(f"onevec: warning: {message}")
    log = logging.getLogger("onevec")
    log.setLevel(logging.INFO)
    log.addHandler(_Told())
    try:
        app()
    except (OnevecError, OSError) as error:
        typer.echo(f"onevec: {error}", err=True)
        sys.exit(2)
