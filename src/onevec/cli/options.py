"""Options that several commands share: a command takes a group of them as one parameter."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from onevec.cli.common import Column, Seed
from onevec.errors import InputError

if TYPE_CHECKING:
    from onevec.estimator import OneVec


@dataclass(frozen=True)
class EncodingOptions:
    """How an encoder reads sequences: arguments of `onevec.encode`, whose defaults count."""

    column: Column = None
    id_column: Annotated[str | None, typer.Option(help="Column that names the rows.")] = None
    upper: Annotated[bool | None, typer.Option("--upper", help="Write sequences in capitals.")] = (
        None
    )
    frames: Annotated[
        str | None,
        typer.Option(
            help="Without an encoder: logmel of recordings (40 energies per 10 ms), or patches of "
            "images (8 x 8 pixels)."
        ),
    ] = None
    dtype: Annotated[
        str | None,
        typer.Option(
            help="How values are kept: float32, float16, or int8: two layers for the price of one. "
            "Default: float16, and float32 for ready arrays."
        ),
    ] = None
    special_tokens: Annotated[
        bool | None,
        typer.Option(
            "--special-tokens/--no-special-tokens",
            help="Keep [CLS], [SEP] and the like among the tokens, or leave them out (default).",
        ),
    ] = None
    max_length: Annotated[int | None, typer.Option(help="Longest input in tokens.")] = None
    long: Annotated[
        str | None, typer.Option(help="Longer ones: truncate (default), or window.")
    ] = None
    overlap: Annotated[
        int | None, typer.Option(help="Tokens that windows share; 64 by default.")
    ] = None
    batch_tokens: Annotated[
        int | None,
        typer.Option(help="Tokens read at a time: 4,096 on a CPU, 32,768 elsewhere by default."),
    ] = None
    precision: Annotated[str | None, typer.Option(help="fp32 (default) or bf16.")] = None
    device: Annotated[str | None, typer.Option(help="cpu, cuda …; a GPU if there is one.")] = None

    def given(self) -> dict[str, Any]:
        """Return what was said, as arguments of `onevec.encode`."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class FitOptions:
    """How a model is fitted: parameters of `OneVec`."""

    dim: Annotated[
        str | None,
        typer.Option(help="Fewer dimensions: a number, or auto. Default: the whole vector."),
    ] = None
    reduce: Annotated[
        str,
        typer.Option(
            help="How fewer dimensions are made: pca, whitening, rademacher, sparse or gaussian."
        ),
    ] = "pca"
    parts: Annotated[
        str | None,
        typer.Option(
            help="Parts and their weights, such as 'mean,rich=0.6'. Default: mean, rich, plain."
        ),
    ] = None
    layers: Annotated[
        str | None,
        typer.Option(
            help="Hidden states that the parts read: last, middle, all or numbers, with weights "
            "as in 'last,middle=0.6'; auto weighs some by how far they agree. Default: the last."
        ),
    ] = None
    effort: Annotated[
        str, typer.Option(help="On how much is fitted: quick, standard or thorough.")
    ] = "quick"
    pooler: Annotated[
        str,
        typer.Option(
            help="auto: the parts. Else these poolers alone, such as 'mean|std|vlad:codes=8' or "
            "'attention', which learns."
        ),
    ] = "auto"
    objective: Annotated[
        str,
        typer.Option(
            help="What a learned pooler, or one more part, is trained for: 'info_nce', or "
            "'vicreg=0.5,info_nce=1'."
        ),
    ] = "auto"
    steps: Annotated[
        int | None, typer.Option(help="Training steps; default by effort: 100, 400 or 1,500.")
    ] = None
    checkpoint: Annotated[
        Path | None, typer.Option(help="File from which a killed training goes on.")
    ] = None
    export: Annotated[
        str | None,
        typer.Option(help="sentence-transformers: only parts that open without onevec."),
    ] = None
    nuisance: Annotated[
        list[str] | None,
        typer.Option(help="Column that must not be read from the vector, or 'length'; repeatable."),
    ] = None
    seed: Seed = 0

    def model(self) -> OneVec:
        """Make the model that is to be fitted.

        Raises
        ------
        InputError
            If training is set up for a pooler that has nothing to learn.
        """
        from onevec.estimator import OneVec

        dim, training = self.dim, (self.steps, self.checkpoint)
        model = OneVec(
            int(dim) if dim is not None and dim.isdecimal() else dim,
            reduce=self.reduce,
            parts=self.parts,
            layers=self.layers,
            effort=self.effort,
            pooler=self.pooler,
            objective=self.objective,
            training={"steps": self.steps, "checkpoint": self.checkpoint, "progress": True},
            export=self.export,
            nuisance=self.nuisance or None,
            random_state=self.seed,
        )
        if training != (None, None) and not model.learns:
            option = "--steps" if self.steps is not None else "--checkpoint"
            raise InputError(
                f"got {option} with pooler {self.pooler!r}, which has nothing to learn: leave it "
                "out, or pass a learned --pooler or an --objective"
            )
        return model

    def changed(self) -> list[str]:
        """Return the options that are not as they are by default."""
        return [
            f"--{each.name}" for each in fields(self) if getattr(self, each.name) != each.default
        ]


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of the groups that it takes: typer knows no groups."""
    groups: dict[str, Any] = {}
    shown: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        if not is_dataclass(parameter.annotation):
            shown.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        groups[name] = group = parameter.annotation
        hints = get_type_hints(group, include_extras=True)
        shown += [
            inspect.Parameter(
                each.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=each.default,
                annotation=hints[each.name],
            )
            for each in fields(group)
        ]

    @wraps(command)
    def called(**options: Any) -> None:
        made = {
            name: group(**{each.name: options.pop(each.name) for each in fields(group)})
            for name, group in groups.items()
        }
        command(**options, **made)

    vars(called)["__signature__"] = inspect.Signature(shown)
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return called
