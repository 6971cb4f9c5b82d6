"""How a user says which poolers: a name, a name with options, a mapping, or an instance.

Everything becomes pairs of a kind and options, which is also what a saved model holds. A kind is
a name of the table `POOLERS`, or, of a class from elsewhere, its module and name.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from onevec.errors import InputError, make_named
from onevec.poolers.base import Pooler
from onevec.poolers.leaves import POOLERS

Spec = str | Mapping[str, Any] | Pooler  # values are mappings of options, or None
Pair = tuple[str, dict[str, Any]]

_OURS = __name__.partition(".")[0]  # classes of this package are known by their names in the table


def is_own(pooler: Pooler) -> bool:
    """Whether a pooler's class is a user's own."""
    return type(pooler).__module__.partition(".")[0] != _OURS


def kind_of(pooler: Pooler) -> str:
    """Return the name in `POOLERS`, or module and name of a class from elsewhere."""
    kind = type(pooler)
    if not is_own(pooler):
        for name, known in POOLERS.items():
            if known is kind:
                return name
    return f"{kind.__module__}.{kind.__qualname__}"


def _classes(kind: type[Pooler] = Pooler) -> Iterator[type[Pooler]]:
    for each in kind.__subclasses__():
        yield each
        yield from _classes(each)


def pooler_of(kind: str, options: Mapping[str, Any]) -> Pooler:
    """Make a pooler from its kind and options.

    A class from elsewhere must have been imported: what a file names is never imported, as it
    could be any code.

    Raises
    ------
    InputError
        If there is no such kind, or an option is not the pooler's.
    """
    if kind in POOLERS or "." not in kind:
        return make_named("pooler", kind, POOLERS, options)
    # Of several the last: a notebook defines a class anew.
    found = [each for each in _classes() if f"{each.__module__}.{each.__qualname__}" == kind]
    if not found:
        module, _, name = kind.partition(".<locals>")[0].rpartition(".")
        raise InputError(
            f"the pooler {kind!r} is a class that this process does not know: import or define "
            f"{name} of {module!r} first"
        )
    return make_named("pooler", kind, {kind: found[-1]}, options)


def read_spec(spec: Spec) -> list[Pair]:
    """Return the kinds and options of the poolers that are put side by side.

    Parameters
    ----------
    spec : str, mapping, or Pooler
        ``"mean|vlad:codes=8,soft=true"`` (names joined by ``|`` or ``+``, options as JSON),
        ``{"mean": {}, "vlad": {"codes": 8}}``, or an instance, which is taken for its class and
        options: what it learned is not kept.

    Raises
    ------
    InputError
        If the spec cannot be read.
    """
    if isinstance(spec, Pooler):
        return _of_instance(spec)
    if isinstance(spec, str):
        return [_of_text(entry.strip()) for entry in re.split(r"[|+]", spec)]
    known = isinstance(spec, Mapping) and all(
        isinstance(name, str) and isinstance(given, Mapping | None) for name, given in spec.items()
    )
    if not known or not spec:
        raise InputError(
            f'got the pooler {spec!r}: pass text such as "mean|vlad:codes=8", a mapping such as '
            '{"vlad": {"codes": 8}}, or a Pooler'
        )
    return [(name, dict(given or {})) for name, given in spec.items()]


def _of_text(entry: str) -> Pair:
    name, colon, rest = entry.partition(":")
    options: dict[str, Any] = {}
    for each in re.split(r",(?![^\[]*\])", rest) if colon else ():
        option, equals, value = each.partition("=")
        if not equals:
            raise InputError(
                f"got the pooler {entry!r}: write options as NAME:OPTION=VALUE,OPTION=VALUE, such "
                "as vlad:codes=8,soft=true"
            )
        try:
            options[option.strip()] = json.loads(value)
        except ValueError:
            options[option.strip()] = value.strip()
    return name.strip(), options


def _of_instance(pooler: Pooler) -> list[Pair]:
    kind, options = kind_of(pooler), pooler.options
    parameters = {  # without a constructor of its own, a module takes anything, and means nothing
        name: each
        for name, each in inspect.signature(type(pooler)).parameters.items()
        if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    }
    if set(parameters) != set(options):
        raise InputError(
            f"the class {kind} takes {', '.join(parameters) or 'no options'} and lists "
            f"{', '.join(options) or 'none'} in option_names: list what its constructor takes, so "
            "that it can be made again"
        )
    given = {name: value for name, value in options.items() if value != parameters[name].default}
    try:
        json.dumps(given)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"got a {kind} with the options {given} ({error}): they must be numbers, text or lists "
            "of them, so that a model can be saved"
        ) from None
    return [(kind, given)]


def block_name(kind: str, options: Mapping[str, Any]) -> str:
    """Return the name of the block of features that a pooler gives: ``"vlad(codes=8)"``."""
    words = ",".join(f"{name}={value}" for name, value in options.items())
    # No dots: torch does not take them in names of modules.
    return (f"{kind}({words})" if words else kind).replace(".", "_")


def blocks_of(spec: Spec) -> dict[str, Pair]:
    """Return kinds and options of poolers by the names of their blocks; twice counts once.

    Raises
    ------
    InputError
        If a pooler does not exist, or does not take its options.
    """
    pairs = read_spec(spec)
    if any(kind.endswith(".combine.Concat") for kind, _ in pairs):
        pairs = [(kind, dict(options)) for kind, options in pairs[0][1]["parts"]]
    for kind, options in pairs:
        pooler_of(kind, options)
    return {block_name(kind, options): (kind, options) for kind, options in pairs}
