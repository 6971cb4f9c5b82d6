"""From token vectors to one vector each, and what to think of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onevec.cli.common import Json, Overwrite, Seed, app, parts_table, say, score_table, show
from onevec.cli.embed import Vectors
from onevec.cli.options import EncodingOptions, FitOptions, grouped
from onevec.errors import InputError


@app.command()
@grouped
def fit(
    store: Annotated[Path, typer.Argument(help="Token store.")],
    out: Annotated[Path, typer.Option(help="Folder of the model to write.")],
    *,
    fitting: FitOptions,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Fit a model to a store, without labels; print the verdict and the parts of the vector.

    Example: `onevec fit store --out model`
    """
    from onevec.estimator import is_model
    from onevec.files import check_target
    from onevec.train.world import first_process

    check_target(out, overwrite, what="onevec model", ours=is_model)
    model = fitting.model()
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
@grouped
def transform(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    data: Annotated[
        str, typer.Argument(help="Token store; or raw sequences or arrays, as encode takes them.")
    ],
    out: Vectors,
    encoder: Annotated[
        str | None, typer.Option(help="Of raw sequences. Default: that of the fit.")
    ] = None,
    *,
    encoding: EncodingOptions,
    check_encoder: Annotated[bool, typer.Option(help="Refuse tokens of another encoder.")] = True,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Turn a token store, or raw sequences, into one vector per sequence.

    Raw sequences are read as those of the fit were, unless options say otherwise. After a kill the
    same command goes on.

    Example: `onevec transform model store --out vectors.parquet`
    """
    from onevec.estimator import load
    from onevec.use.embed import embed
    from onevec.use.formats import check_file

    check_file(out, overwrite)
    fitted = load(model).set_params(check_encoder=check_encoder)
    options = encoding.given()
    made = embed(data, encoder, out=out, model=fitted, overwrite=overwrite, say=say, **options)
    show(
        {"out": str(out), "shape": list(made.shape)},
        as_json,
        f"{out}: {made.shape[0]:,} vectors of {made.shape[1]} dimensions",
    )


@app.command()
@grouped
def evaluate(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    data: Annotated[
        str,
        typer.Argument(help="Token store, or raw sequences; their labels are the probes' memory."),
    ],
    labels: Annotated[str, typer.Option(help="Metadata column with the labels.")],
    test: Annotated[
        str | None, typer.Option(help="What to score on, as DATA; else a seeded half of DATA.")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Of raw sequences. Default: that of the fit.")
    ] = None,
    *,
    encoding: EncodingOptions,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Score onevec and the mean's variants with labels, which only the probes are fitted to.

    Classes with fewer than 3 rows to learn from are left out and counted.

    Example: `onevec evaluate model train-store --test test-store --labels family`
    """
    from onevec.use.scores import evaluate as run

    options = encoding.given()
    result = run(model, data, labels, test=test, encoder=encoder, random_state=seed, **options)
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
    path: Annotated[
        Path,
        typer.Argument(help="Sequences, store, model, encoder, vectors, index: file or folder."),
    ],
    as_json: Json = False,
) -> None:
    """Say what a file or folder holds, of whatever onevec reads or writes.

    Of a model its parts are shown; checksums of stores and indexes are verified.

    Example: `onevec inspect store`
    """
    from onevec.report.describe import describe, for_people

    facts = describe(path)
    lines = [for_people({name: value for name, value in facts.items() if name != "parts"})]
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
