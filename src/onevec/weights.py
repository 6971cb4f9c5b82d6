"""Names with weights, as users write them: ``"mean,rich=0.6"``."""

from __future__ import annotations

from typing import Any

from onevec.errors import InputError


def read_weights(text: str, what: str, usual: float | None = 1.0) -> dict[str, Any]:
    """Read ``"a,b=0.6"`` as names with weights.

    Parameters
    ----------
    what : str
        What the names are of, for errors: "objective", "part", "layer".
    usual : float or None
        Where no weight is written.

    Raises
    ------
    InputError
        If a name comes twice, or a weight is no number.
    """
    found: dict[str, float | None] = {}
    for entry in text.split(","):
        name, _, number = (word.strip() for word in entry.partition("="))
        if name in found:
            raise InputError(f"got the {what} {name!r} twice in {text!r}: give it one weight")
        try:
            found[name] = float(number) if number else usual
        except ValueError:
            raise InputError(
                f"got the weight {number!r} of {what} {name!r}: write NAME or NAME=WEIGHT, such "
                "as a,b=0.6"
            ) from None
    return found
