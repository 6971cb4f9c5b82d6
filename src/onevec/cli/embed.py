"""From sequences to vectors in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onevec.cli.common import Json, Overwrite, app, parts_table, say, show
from onevec.cli.options import EncodingOptions, FitOptions, grouped
from onevec.errors import InputError

Vectors = Annotated[
    Path, typer.Option(help=".npy; or .parquet, .arrow, .safetensors with ids and metadata.")
]


@app.command()
@grouped
def embed(
    sequences: Annotated[
        str,
        typer.Argument(
            help="A file, or a folder of them: tables, FASTA, text, audio, images, vectors."
        ),
    ],
    out: Vectors,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Hugging Face, sentence-transformers or ONNX model. Default: that of --model."
        ),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Fitted model to apply; nothing is fitted then.")
    ] = None,
    model_out: Annotated[
        Path | None,
        typer.Option(help="Folder of the fitted model. Default: NAME-model for NAME.parquet."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="HTML report of the fit. Default: NAME-report.html."),
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="Keep all token vectors in this folder.")
    ] = None,
    *,
    encoding: EncodingOptions,
    fitting: FitOptions,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Turn sequences into vectors: encode a sample, fit to it without labels, embed all.

    The sample has at most 5,000 sequences (20,000, 50,000 with more effort): a fit looks at no
    more. Prints the verdict; writes the model and a report beside the vectors. After a kill the
    same command goes on.

    Example: `onevec embed proteins.fasta --encoder my-encoder --out vectors.parquet`, and for new
    ones `onevec embed new.fasta --model vectors-model --out new.parquet`
    """
    from onevec.use.embed import embed as run

    if model is not None and fitting.changed():
        raise InputError(
            f"got {fitting.changed()[0]} with --model, to which nothing is fitted: leave it out"
        )
    made = run(
        sequences,
        encoder,
        out=out,
        model=fitting.model() if model is None else model,
        model_out=model_out,
        report=report,
        store=store,
        overwrite=overwrite,
        say=say,
        **encoding.given(),
    )
    facts = {"out": str(out), "shape": list(made.shape)}
    lines = [f"{out}: {made.shape[0]:,} vectors of {made.shape[1]} dimensions"]
    if made.model_path is not None:
        verdict = made.model.verdict_
        facts |= {
            "model": str(made.model_path),
            "report": made.report and str(made.report),
            "sample": made.sample,
            "parts": made.model.parts_,
            "verdict": verdict.as_dict(),
        }
        table = parts_table(made.model.parts_, made.model.vector_.dim_out)
        lines = [verdict.sentence, "", table, "", *lines]
        lines.append(f"{made.model_path}: the model; new sequences take it by --model")
        told = (
            "the report" if made.report else "no report, which needs pip install 'onevec[report]'"
        )
        lines.append(f"{made.report}: {told}" if made.report else told)
    show(facts, as_json, "\n".join(lines))
