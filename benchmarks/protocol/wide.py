"""Rows of the table of the wide vector: an encoder, a task, and where their token vectors are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

import numpy as np

from onevec.ragged import Ragged
from onevec.tokens.batches import Tokens
from protocol import encoders, published, tasks

GROUPS = {
    "published": "published encoders",
    "sts": "similarity of sentences",
    "small": "small encoders of the benchmark",
    "frames": "raw frames",
    "made": "made bags of events",
    "untrained": "encoders with random weights",
}
EVENTS, BAG_CLASSES, BAGS, BAGS_KNOWN = 12, 8, 500, 300
BAG_DRAWS = 4


@dataclass(frozen=True)
class Row:
    """One encoder on one unit of a task.

    Attributes
    ----------
    find : callable
        The unit, of the folder of data sets.
    store : callable
        Token vectors of its train and test sequences, of the unit and the folder.
    together : bool
        Whether the targets are averaged, not shown one by one. Rows of one name are, too.
    """

    group: str
    name: str
    find: Callable[[Path], tasks.Unit] = field(repr=False)
    store: Callable[[tasks.Unit, Path], tuple[Tokens, Tokens]] = field(repr=False)
    key: str = ""
    together: bool = False

    @property
    def id(self) -> str:
        return self.key or self.name

    def unit(self, data: Path) -> tasks.Unit:
        return self.find(data)

    def tokens(self, unit: tasks.Unit, data: Path) -> tuple[Tokens, Tokens]:
        return self.store(unit, data)

    def label(self, unit: tasks.Unit, target: str) -> str:
        """What a target is called in the table."""
        if self.together or len(unit.targets) == 1:
            return self.name
        return f"{self.name}, {target}"


# --- the rows -----------------------------------------------------------------------------------


def rows() -> list[Row]:
    """List every row of the table."""
    trained = [*published_rows(), *sts_rows(), *small_rows(), *frame_rows()]
    return [*trained, *made_rows(), *stack_rows("untrained", published.UNTRAINED)]


def published_rows() -> Iterator[Row]:
    yield from stack_rows("published", published.STACKS)


def stack_rows(group: str, stacks: Sequence[tuple[str, str]]) -> Iterator[Row]:
    for encoder, name in stacks:
        yield Row(
            group,
            f"{encoder}, {name}",
            partial(published.unit, name),
            partial(_published, encoder),
        )


def sts_rows() -> Iterator[Row]:
    for encoder, layer in (("minilm-last", "last layer"), ("minilm-3", "layer 3")):
        yield Row(
            "sts",
            f"minilm, stsb, {layer}",
            partial(found, "stsb", "stsb", small=False),
            partial(_benchmark, encoder),
        )


PEPTIDES = (
    *("amp_iamp2l", "pip_pipel", "afp_antifp", "afp_amppred", "amp_modlamp"),
    *("bce_ibce", "aip_antiinflam", "amp_antibp2", "cpp_mlcpp", "nep_neuropipred"),
)


def small_rows() -> Iterator[Row]:
    """Encoders that are shipped, and `lstm_chem`.

    Most units are cut as in the quick benchmark. Molecules are not, for few are active.
    """
    yield task_row("small", "ncrna13", "ncrna13", "ncrna13")
    yield task_row("small", "chess", "chess", "chess")
    yield task_row("small", "omniglot", "omniglot", "omniglot", targets=("alphabet",))
    yield task_row("small", "omniglot", "omniglot", "omniglot", targets=("character",), small=False)
    yield task_row("small", "fsdd", "digit", "fsdd")
    yield task_row("small", "fsdd", "speaker", "fsdd")
    for name in PEPTIDES:
        yield task_row("small", "peptides", name, "proteins")
    yield task_row("small", "deeploc", "deeploc", "proteins")
    for encoder in ("smiles", "lstm_chem"):
        for name in ("hiv", "tox21", "esol"):
            row = task_row("small", "molecules", name, encoder, small=False)
            yield replace(row, together=name == "tox21")


def frame_rows() -> Iterator[Row]:
    yield task_row("frames", "gesture", "gesture")
    yield task_row("frames", "fsdd", "digit")
    yield task_row("frames", "fsdd", "speaker")
    yield task_row("frames", "mnist", "mnist")
    yield task_row("frames", "omniglot", "omniglot", targets=("alphabet",))
    for name in ("ACSF1", "JapaneseVowels", "OSULeaf", "PLAID"):
        yield task_row("frames", "ucr_uea", name)


def made_rows() -> Iterator[Row]:
    for draw in range(BAG_DRAWS):
        yield Row(
            "made",
            "bags of events",
            lambda _, draw=draw: bags(draw),
            lambda unit, _: (Ragged.from_list(unit.train), Ragged.from_list(unit.test)),
            key=f"bags of events {draw}",
        )


def task_row(
    group: str,
    row: str,
    unit: str,
    encoder: str = "frames",
    *,
    targets: tuple[str, ...] = (),
    small: bool = True,
) -> Row:
    """Row of a unit of the benchmark, of some of its targets or all."""
    words = [row, *([unit] if unit != row else []), *targets]
    name = f"{encoder}, {' '.join(words)}"
    return Row(
        group,
        name,
        partial(found, row, unit, targets=targets, small=small),
        partial(_benchmark, encoder),
    )


def _published(encoder: str, unit: tasks.Unit, data: Path) -> tuple[Tokens, Tokens]:
    return published.tokens(unit, encoder, data)


def _benchmark(encoder: str, unit: tasks.Unit, data: Path) -> tuple[Tokens, Tokens]:
    return encoders.tokens(unit, encoder, data)


@cache
def _units(row: str, data: Path) -> list[tasks.Unit]:
    return tasks.units(row, data)


def found(
    row: str, unit: str, data: Path, *, targets: tuple[str, ...] = (), small: bool = True
) -> tasks.Unit:
    """A unit of the benchmark, cut as in the quick one where it is to be small."""
    whole = next(each for each in _units(row, data) if each.name == unit)
    if small:
        whole = tasks.shrink(whole)
    kept = tuple(each for each in whole.targets if not targets or each.name in targets)
    return replace(whole, targets=kept)


def bags(draw: int) -> tasks.Unit:
    """Bags of 20 to 60 events of 12 kinds, whose frequencies are all that a class has.

    There is nothing beyond the mean in them: what a vector adds to it can only disturb.
    """
    rng = np.random.default_rng(draw)
    frequencies = rng.dirichlet(np.full(EVENTS, 4.0), BAG_CLASSES)
    labels = rng.permutation(np.arange(BAGS) % BAG_CLASSES)
    kinds = np.eye(EVENTS, dtype=np.float32)
    made = [
        kinds[rng.choice(EVENTS, size=rng.integers(20, 61), p=frequencies[label])]
        for label in labels
    ]
    train, test = made[:BAGS_KNOWN], made[BAGS_KNOWN:]
    y_train, y_test = labels[:BAGS_KNOWN], labels[BAGS_KNOWN:]
    target = tasks.Target(
        "class", "classes", np.arange(len(train)), y_train, np.arange(len(test)), y_test
    )
    groups = [str(number) for number in range(BAGS)]
    return tasks.Unit(
        "bags", f"bags {draw}", train, test, (target,), groups[:BAGS_KNOWN], groups[BAGS_KNOWN:]
    )
