"""From a fitted model to other programs: export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onevec.cli.common import Json, Overwrite, app, show
from onevec.errors import InputError
from onevec.export.table import EXPORTS


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="Model folder; for the hub also an export's.")],
    to: Annotated[str, typer.Option(help="; ".join(f"{k}: {v}" for k, v in EXPORTS.items()))],
    out: Annotated[str, typer.Option(help="Folder to write; for the hub, owner/name.")],
    encoder: Annotated[
        str | None, typer.Option(help="Text encoder of the fit: a folder or hub name.")
    ] = None,
    layer: Annotated[
        int | None, typer.Option(help="Hidden states of the fit, where the model does not know.")
    ] = None,
    road: Annotated[
        str,
        typer.Option(
            help="native: opens without onevec; module: every model; auto: native if possible."
        ),
    ] = "auto",
    special_tokens: Annotated[bool, typer.Option(help="The fit kept [CLS] and the like.")] = False,
    max_length: Annotated[int | None, typer.Option(help="Longest input in tokens.")] = None,
    licence: Annotated[str | None, typer.Option(help="For the card, such as apache-2.0.")] = None,
    private: Annotated[bool, typer.Option(help="Make the hub's repository private.")] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Hand a model to sentence-transformers, ONNX or the hub; what is written is checked first.

    Example: `onevec export model --to sentence-transformers --encoder my-encoder --out my-st`
    """
    from onevec.estimator import load

    if to not in EXPORTS:
        raise InputError(f"got --to {to}: choose one of {', '.join(EXPORTS)}")
    text = {
        "encoder": encoder, "layer": layer, "special-tokens": special_tokens or None,
        "max-length": max_length,
    }  # fmt: skip
    unused = {
        "hub": {**text, "road": road if road != "auto" else None, "overwrite": overwrite or None},
        "onnx": {
            **(text if encoder is None else {}), "road": road if road != "auto" else None,
            "private": private or None,
        },
        "sentence-transformers": {"private": private or None},
    }[to]  # fmt: skip
    for name, value in unused.items():
        if value is not None:
            without = " without --encoder" if to == "onnx" and name in text else ""
            raise InputError(f"got --{name} with --to {to}{without}: it is of no use there")
    if to == "hub":
        from onevec.export.hub import push_to_hub

        address = push_to_hub(model, out, private=private, licence=licence)
        show({"hub": out, "commit": address}, as_json, f"{out}: {address}")
        return
    if to == "onnx":
        from onevec.export.onnx import to_onnx

        facts = to_onnx(
            load(model), out, encoder=encoder, layer=layer, special_tokens=special_tokens,
            max_length=max_length, licence=licence, overwrite=overwrite,
        )  # fmt: skip
        said = f"model.onnx from {' and '.join(facts['inputs'])}"
    else:
        from onevec.export.sentence_transformers import opened_by, to_sentence_transformers

        if encoder is None:
            raise InputError(
                "got no --encoder: the folder holds a copy of it; name the one of the fit"
            )
        facts = to_sentence_transformers(
            load(model), encoder, out, layer=layer, road=road, special_tokens=special_tokens,
            max_length=max_length, licence=licence, overwrite=overwrite,
        )  # fmt: skip
        said = opened_by(facts)
    said += f"; checked, largest difference {facts['difference']:.0e}"
    show(facts, as_json, f"{out}: {facts['dim']} dimensions; {said}")
