"""From token vectors to one vector each, and what to think of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onevec.cli.common import Json, Overwrite, Seed, app, parts_table, say, score_table, show
from onevec.errors import InputError


@app.command()
def fit(
    store: Annotated[Path, typer.Argument(help="Token store.")],
    out: Annotated[Path, typer.Option(help="Folder of the model to write.")],
    dim: Annotated[
        str | None,
        typer.Option(help="Fewer dimensions: a number, or auto. Default: the whole vector."),
    ] = None,
    reduce: Annotated[
        str,
        typer.Option(
            help="How fewer dimensions are made: pca, whitening, rademacher, sparse or gaussian."
        ),
    ] = "pca",
    parts: Annotated[
        str | None,
        typer.Option(
            help="Parts and their weights, such as 'mean,rich=0.6'. Default: mean, rich, plain."
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Stored layers that the parts read: last, middle, all or numbers, with weights "
            "as in 'last,middle=0.6'. Default: the last."
        ),
    ] = None,
    effort: Annotated[str, typer.Option(help="quick, standard or thorough.")] = "quick",
    pooler: Annotated[
        str,
        typer.Option(
            help="auto: the parts. Else these poolers alone, such as 'mean|std|vlad:codes=8' or "
            "'attention', which learns."
        ),
    ] = "auto",
    objective: Annotated[
        str,
        typer.Option(
            help="What a learned pooler, or one more part, is trained for: 'info_nce', or "
            "'vicreg=0.5,info_nce=1'."
        ),
    ] = "auto",
    steps: Annotated[
        int | None, typer.Option(help="Training steps; default by effort: 100, 400 or 1,500.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="File from which a killed training goes on.")
    ] = None,
    export: Annotated[
        str | None,
        typer.Option(help="sentence-transformers: only parts that open without onevec."),
    ] = None,
    nuisance: Annotated[
        list[str] | None,
        typer.Option(help="Column that must not be read from the vector, or 'length'; repeatable."),
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Fit a model to a store, without labels; print the verdict and the parts of the vector.

    Example: `onevec fit store --out model`
    """
    from onevec.estimator import OneVec, is_model
    from onevec.files import check_target
    from onevec.train.world import first_process

    check_target(out, overwrite, what="onevec model", ours=is_model)
    training = {"steps": steps, "checkpoint": checkpoint, "progress": True}
    model = OneVec(
        int(dim) if dim is not None and dim.isdecimal() else dim, reduce=reduce, parts=parts,
        layers=layers, effort=effort, pooler=pooler, objective=objective, training=training,
        export=export, nuisance=nuisance or None, random_state=seed,
    )  # fmt: skip
    if (steps, checkpoint) != (None, None) and not model.learns:
        option = "--steps" if steps is not None else "--checkpoint"
        raise InputError(
            f"got {option} with pooler {pooler!r}, which has nothing to learn: leave it out, or "
            "pass a learned --pooler or an --objective"
        )
    model.fit(store)
    if not first_process():  # of `torchrun`: every process has the same model
        return
    model.save(out, overwrite=overwrite)
    facts = {
        "model": str(out),
        "dim": model.vector_.dim_out,
        "parts": model.parts_,
        "verdict": model.verdict_.as_dict(),
    }
    table = parts_table(model.parts_, model.vector_.dim_out)
    show(facts, as_json, f"{model.verdict_.sentence}\n\n{table}")


@app.command()
def transform(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    store: Annotated[Path, typer.Argument(help="Token store.")],
    out: Annotated[
        Path, typer.Option(help=".npy; or .parquet, .arrow, .safetensors with ids and metadata.")
    ],
    check_encoder: Annotated[bool, typer.Option(help="Refuse a store of another encoder.")] = True,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Turn a store into one vector per sequence.

    Example: `onevec transform model store --out vectors.parquet`
    """
    from onevec.estimator import load
    from onevec.use.formats import check_file
    from onevec.use.vectors import write_vectors

    check_file(out, overwrite)
    fitted = load(model).set_params(check_encoder=check_encoder)
    shape = write_vectors(fitted, store, out, overwrite)
    show(
        {"out": str(out), "shape": shape},
        as_json,
        f"{out}: {shape[0]:,} vectors of {shape[1]} dimensions",
    )


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    store: Annotated[Path, typer.Argument(help="Store whose labels are the probes' memory.")],
    labels: Annotated[str, typer.Option(help="Metadata column of the store with the labels.")],
    test: Annotated[
        Path | None, typer.Option(help="Store to score on; else a seeded half of STORE.")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Score onevec and the mean's variants with labels, which only the probes are fitted to.

    Example: `onevec evaluate model train-store --test test-store --labels family`
    """
    from onevec.use.vectors import evaluate_stores

    result = evaluate_stores(model, store, labels, test=test, random_state=seed)
    show(result, as_json, score_table(result))


@app.command()
def report(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    store: Annotated[Path | None, typer.Option(help="Token store to draw, as points.")] = None,
    colour: Annotated[
        str | None, typer.Option(help="Metadata column of the store that colours the points.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the verdict, its evidence and the parts of the vector as one HTML file.

    Example: `onevec report model --store store --out report.html`
    """
    from onevec.estimator import load
    from onevec.report.html import check_report, write
    from onevec.report.summarize import summarize, summarize_store
    from onevec.tokens.store import TokenStore

    check_report(out)
    if colour and not store:
        raise InputError(f"got --colour {colour} without --store: name the store with that column")
    fitted, title = load(model), f"onevec: {model.name}"
    if store:
        summary = summarize_store(fitted, TokenStore(store), title=title, colour=colour)
    else:
        summary = summarize(fitted, title=title)
    write(summary, out)
    show({"report": str(out)}, as_json, f"{out} written")


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="Token store, model, index or encoder folder.")],
    as_json: Json = False,
) -> None:
    """Say what a folder holds; of a model its parts; checksums of stores and indexes are verified.

    Example: `onevec inspect store`
    """
    from onevec.report.describe import describe

    facts = describe(path)
    lines = [f"{name:<16}{value}" for name, value in facts.items() if name != "parts"]
    if "parts" in facts:
        lines += ["", parts_table(facts["parts"], facts["dim"])]
    show(facts, as_json, "\n".join(lines))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="HTML report to write.")] = Path("report.html"),
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Walk the whole way on real proteins that come with onevec (some minutes).

    Example: `onevec demo`
    """
    from onevec.demo.walk import run_demo
    from onevec.use.vectors import METHODS

    result = run_demo(out, say, seed)
    scores = score_table({name: result[name] for name in METHODS})
    show(result, as_json, f"\n{scores}\n\nVerdict  {result['verdict']['sentence']}\nReport   {out}")
