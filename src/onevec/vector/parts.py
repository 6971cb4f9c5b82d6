"""Parts: what stands side by side in the vector, and by which weight.

A part is one kind of feature of one hidden state, centred on the fitting data and of length 1 for
every sequence. The dot product of two vectors is then the average of the parts' cosines, weighted
by the squares of their weights. The mean is a part of its own and nothing is chosen against it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

from onevec.errors import InputError
from onevec.poolers import POOLERS, Pooler, make_pooler
from onevec.poolers.spec import Spec, block_name, blocks_of
from onevec.ragged import Ragged
from onevec.vector.blocks import BlockSpec
from onevec.vector.reduction import MEAN, MEAN_PCA, Recipe
from onevec.weights import read_weights

# A change here changes every vector.
BLOCKS: dict[str, BlockSpec] = {
    "mean": BlockSpec("mean", {}, "raw"),
    "dct": BlockSpec("dct", {"count": 8}),
    "transport": BlockSpec("kernel_transport", {}),
    "covariance": BlockSpec("covariance", {"rank": 24}),
    "lagged": BlockSpec("lagged_covariance", {"rank": 16}),
    # As they are, but for outliers and persistent noise.
    "raw_mean": BlockSpec("mean", {}, "clipped"),
    "raw_std": BlockSpec("std", {}, "clipped"),
    "raw_max": BlockSpec("max", {}, "clipped"),
    "raw_min": BlockSpec("min", {}, "clipped"),
}
RICH = Recipe(("dct", "transport", "covariance", "lagged"), 0.25, 0.0, unit=True)
PLAIN = Recipe(("raw_mean", "raw_std", "raw_max", "raw_min"), 0.0, 1.0, shrinkage=0.9)
EXTREMES = Recipe(("raw_mean", "raw_max", "raw_min"), 0.0, 1.0, shrinkage=0.9)  # no roots
MOMENTS = Recipe(("covariance",), 0.0, 0.0)
# What an objective adds: a learned head on the rich blocks, whitened already; it starts as `RICH`.
_WHITENED = (
    "whitened_parts",
    {"parts": [BLOCKS[name].pair for name in RICH.blocks], "power": RICH.block_power},
)
HEAD = BlockSpec("residual", {"parts": [_WHITENED]})
LEARNED = Recipe((HEAD.kind,), 0.0, RICH.power)
ASKING = (MEAN, *RICH.blocks)  # what a sequence's other half is asked about

WIDTH = 256  # wider parts gained nothing on any measured encoder
# Tokens of few dimensions cannot fill that: d dimensions have d (d + 1) / 2 second moments, and a
# part gets a twelfth of their number. Measured (benchmarks/LOG.md, 2026-12-01): frames of 16 to 40
# dimensions keep all of their gain, and counts of 12 kinds of events lose nothing.
_MOMENTS_PER_DIMENSION, _NARROWEST = 12, 6


@dataclass(frozen=True)
class Part:
    """One piece of the vector.

    Attributes
    ----------
    recipe : Recipe
        Its pooled features, and how they are whitened and reduced.
    width : int or None
        Most dimensions; None keeps the features as they are, neither rotated nor reduced.
    about : str
        What it holds, in a few words.
    reads : {"tokens", "cls"}
        Which input is pooled: the tokens, or the classification token alone.
    weight : float
        The length of the part in the vector, 0 leaves it out.
    """

    recipe: Recipe
    width: int | None
    about: str
    reads: str = "tokens"
    weight: float = 1.0


def part_of(state: Mapping[str, Any]) -> Part:
    """Rebuild a part from what `dataclasses.asdict` made of it."""
    recipe = state["recipe"]
    return Part(**{**state, "recipe": Recipe(**{**recipe, "blocks": tuple(recipe["blocks"])})})


PARTS: dict[str, Part] = {
    "mean": Part(MEAN_PCA, None, "the mean of the tokens, as it is"),
    "rich": Part(RICH, WIDTH, "order and covariance: DCT, kernel transport, (lagged) covariance"),
    "plain": Part(PLAIN, WIDTH, "mean, standard deviation, maximum and minimum, whitened"),
    "cls": Part(Recipe(("cls",), 0.0, 0.0), None, "the encoder's classification token", "cls"),
    "extremes": Part(EXTREMES, WIDTH, "mean, maximum and minimum, whitened"),
    "moments": Part(MOMENTS, WIDTH, "the covariance of the tokens' leading directions"),
}
# Measured on 15 stacks of eight published encoders: equal weights are within 0.3 points of this on
# average, and cost sentence similarity (STS-B) 0.8, where this costs 0.1.
WEIGHTS = {"mean": 1.0, "rich": 0.8, "plain": 1.0}
# No encoder was trained to say something in the mean of ready frames (audio, strokes, series): a
# third of the rich part's weight is best on nine sets. Weights below 1 would make vectors so short
# that a regression with C = 1 on them as they come is regularised too much (7 points on digits).
FRAME_WEIGHTS = {"mean": 1.0, "rich": 3.0, "plain": 1.0}
# What modules of sentence-transformers can express, see `onevec.export.native`.
NATIVE_WEIGHTS = {"mean": 1.0, "extremes": 1.0, "moments": 1.0}


def default_weights(frames: bool) -> dict[str, float]:
    """Return the default parts with their weights, for an encoder's tokens or ready frames."""
    return FRAME_WEIGHTS if frames else WEIGHTS


# Of token vectors without a named encoder. A layer norm makes the lengths of an encoder's states
# alike (coefficient of variation 0.003 to 0.09 on 20 measured encoders; 0.3 to 0.8 for one tuned
# text encoder of 384 dimensions); those of frames vary (0.15 to 2.9, at most 96 dimensions).
_NORMS_VARY, _FRAME_DIM = 0.125, 128


def ready_frames(sample: Ragged, encoder: str | None) -> bool:
    """Whether token vectors are frames of a signal rather than the states of an encoder.

    Parameters
    ----------
    sample : Ragged
        Some of them.
    encoder : str or None
        Fingerprint of the encoder that made them, where one is known.
    """
    if encoder:
        return False
    norms = sample.values.double().norm(dim=1)
    return frame_like(sample.dim, float(norms.std() / norms.mean().clamp(min=1e-300)))


def frame_like(dim: int, norm_cv: float) -> bool:
    """Whether dimension and the variation of norms are those of frames, see `ready_frames`."""
    return dim < _FRAME_DIM and norm_cv > _NORMS_VARY


def chosen(
    given: Any, weights: Mapping[str, float]
) -> tuple[dict[str, Part], dict[str, BlockSpec]]:
    """Read the parameter ``parts``: the parts by name, and the specs of the blocks they pool.

    Parameters
    ----------
    given : None, str, sequence of str, or mapping of str to float, Part, Pooler or mapping
        Names are entries of `PARTS`, or poolers of `onevec.poolers.POOLERS` (several side by side
        as ``"std|vlad:codes=8"``), which are half-whitened. Text is ``"mean,rich=0.6"``. A value
        that is a pooler, or a mapping as `make_pooler` takes it, is a part of that name.
    weights : mapping of str to float
        What is taken where nothing is given.
    """
    named = dict(weights) if given is None else _named(given)
    parts: dict[str, Part] = {}
    specs: dict[str, BlockSpec] = {}
    for name, value in named.items():
        own, more = isinstance(value, Part | Pooler | Mapping), {}
        if isinstance(value, Part):
            part = value
        elif not own and name in PARTS:
            part = PARTS[name]
        else:
            spec: Any = value if own else name
            part, more = _of_poolers(name, spec)
        part = replace(part, weight=_weight(name, part.weight if own else value))
        if part.weight > 0:
            parts[name] = part
            specs |= more or _specs_of(name, part)
    if not parts:
        raise InputError(f"got parts={given!r}: name at least one part with a weight above 0")
    return parts, specs


def _specs_of(name: str, part: Part) -> dict[str, BlockSpec]:
    """Return the specs of the blocks that a part pools from tokens."""
    if not part.recipe.blocks:
        raise InputError(f"got the part {name!r} without blocks: name at least one in its recipe")
    if part.width is not None and part.width < 1:
        raise InputError(f"got the part {name!r} of width {part.width}: it must be at least 1")
    if part.reads != "tokens" and (part.reads, part.recipe.blocks) != ("cls", ("cls",)):
        raise InputError(
            f"got the part {name!r} of the blocks {', '.join(part.recipe.blocks)} that reads "
            f'{part.reads!r}: it reads "tokens", or "cls" with the one block "cls"'
        )
    if part.width is None and len(part.recipe.blocks) != 1:
        raise InputError(
            f"got the part {name!r} of the blocks {', '.join(part.recipe.blocks)} without a width: "
            "features that stay as they are come from one block; give it a width"
        )
    specs: dict[str, BlockSpec] = {}
    for block in part.recipe.blocks if part.reads == "tokens" else ():
        kind = BLOCKS[block].kind if block in BLOCKS else block.removeprefix(_OWN)
        if kind not in POOLERS:
            raise InputError(
                f"got the part {name!r} of the block {block!r}: choose from {', '.join(BLOCKS)}, "
                f"or name poolers ({', '.join(POOLERS)})"
            )
        if POOLERS[kind]().learned:
            raise InputError(
                f"got the part {name!r} of the block {block!r}, which is trained: pass "
                "objective=... for a learned part beside the others"
            )
        specs[block] = BLOCKS.get(block) or BlockSpec.of(kind, {})
    return specs


_OWN = "own_"  # before a pooler whose name is that of a block with other options


def block_of(pooler: str, options: Mapping[str, Any] | None = None) -> str:
    """Return the name of the block that is a pooler."""
    name = block_name(pooler, options or {})
    known = BLOCKS.get(name)
    return name if known is None or known.pair == (pooler, options or {}) else f"{_OWN}{name}"


def _of_poolers(name: str, spec: Spec) -> tuple[Part, dict[str, BlockSpec]]:
    """Make a part of poolers side by side, and the specs of their blocks."""
    try:
        pairs = list(blocks_of(spec).values())
        learned = make_pooler(spec).learned
    except InputError as error:
        if ":" in name or name != spec:  # a pooler is meant, and the error says what is wrong
            raise InputError(f"got the part {name!r}: {error}") from error
        raise InputError(
            f"got the part {name!r}: choose from {', '.join(PARTS)}, or name poolers "
            f"({', '.join(POOLERS)})"
        ) from error
    if learned:
        raise InputError(
            f"got the part {name!r}, which is trained: pass it as pooler={spec!r}, or pass "
            "objective=... for a learned part beside the others"
        )
    specs = {block_of(*pair): BlockSpec.of(*pair) for pair in pairs}
    about = f"{'|'.join(block_name(*pair) for pair in pairs)}, half-whitened"
    return Part(Recipe(tuple(specs), 0.5, 0.5), WIDTH, about), specs


def _named(given: Any) -> dict[str, Any]:
    if isinstance(given, str):
        if ":" in given:
            raise InputError(
                f"got parts={given!r}: options have no place in such a text; pass a mapping, such "
                'as {"vlad:codes=8": 1}'
            )
        return read_weights(given, "part")
    if isinstance(given, Mapping):
        return dict(given)
    if isinstance(given, Sequence) and all(isinstance(name, str) for name in given):
        return dict.fromkeys(given, 1.0)
    raise InputError(
        f'got parts={given!r}: pass names such as ["mean", "rich"], or a mapping of names to '
        "weights"
    )


def _weight(name: str, value: Any) -> float:
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not 0 <= float(value) < math.inf:
        raise InputError(f"got the weight {value!r} of {name!r}: it must be a number of 0 or more")
    return float(value)


def width_of(part: Part, token_dim: int) -> int | None:
    """Return how wide a part may be on tokens of so many dimensions."""
    if part.width is None:
        return None
    moments = token_dim * (token_dim + 1) // 2
    return min(part.width, max(_NARROWEST, moments // _MOMENTS_PER_DIMENSION))
