"""What onevec raises. Each message says what came, what the rule is, what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any


class OnevecError(Exception):
    """Base of every error that onevec raises about its input or its environment."""


class InputError(OnevecError, ValueError):
    """The data, or a parameter, breaks a rule."""


class StoreError(OnevecError):
    """A token store or a saved model is missing, incomplete, corrupt, or of another encoder."""


class MissingExtraError(OnevecError, ImportError):
    """An optional package is needed and not installed."""

    def __init__(self, package: str, extra: str):
        super().__init__(
            f"this needs the package {package!r}, which is not installed: "
            f"run  pip install 'onevec[{extra}]'"
        )


def make_named(what: str, name: str, table: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """Make an entry of a table; one sentence for a name or an option that does not exist."""
    if name not in table:
        close = difflib.get_close_matches(name, table, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(table)}"
        raise InputError(f"there is no {what} {name!r}: {hint}")
    try:
        return table[name](**options)
    except TypeError as error:
        known = ", ".join(table[name].option_names) or "none"
        raise InputError(
            f"{what} {name!r} does not take the options {dict(options)}: it takes {known}"
        ) from error
