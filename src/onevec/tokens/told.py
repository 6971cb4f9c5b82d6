"""What is guessed or left as it is, said in one line; what is lost is a warning instead."""

from __future__ import annotations

import logging

_LOG = logging.getLogger("onevec")


def tell(line: str) -> None:
    """Log a line: the command line prints it, Python shows it if logging is set to INFO."""
    _LOG.info(line)
