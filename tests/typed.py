"""What checks annotations while the tests run, see `make check-types`.

It is beartype, for which a whole number is a number. Constructors are left out: those of users'
classes say themselves what is wrong with a parameter, and tests pass them what is wrong.
"""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

_strict = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(made: Callable[..., Any]) -> Callable[..., Any]:
    """Check what a function is called with and returns."""
    return made if made.__name__ == "__init__" else _strict(made)
