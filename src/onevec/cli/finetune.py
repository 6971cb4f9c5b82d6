"""An encoder that may be changed: finetune."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onevec.cli.common import Column, Json, Overwrite, Seed, app, corpus_line, say, show


@app.command()
def finetune(
    model: Annotated[str, typer.Argument(help="Hugging Face, sentence-transformers, or own.")],
    corpus: Annotated[
        str, typer.Argument(help="A table, FASTA, text lines; or .npz of (n, dim) frames.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to make, of the kind of MODEL.")],
    column: Column = None,
    where: Annotated[str | None, typer.Option(help="Rows to take, as COLUMN=VALUE.")] = None,
    objective: Annotated[
        str,
        typer.Option(
            help="crops, spans, simcse, cpc, denoising or masked, or 'crops=1,masked=0.5'."
        ),
    ] = "crops",
    layers: Annotated[str, typer.Option(help="all, how many of the last, or lora.")] = "all",
    pooler: Annotated[
        str, typer.Option(help="auto, mean, or such as attention, which is trained too.")
    ] = "auto",
    steps: Annotated[int | None, typer.Option(help="Default: one pass, 200 to 2,000.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop after so long.")] = None,
    batch: Annotated[int, typer.Option(help="Sequences of a step.")] = 128,
    piece_tokens: Annotated[
        int, typer.Option(help="Tokens in memory at once; larger batches go in pieces.")
    ] = 4096,
    max_length: Annotated[int, typer.Option(help="Most tokens of a view.")] = 128,
    learning_rate: Annotated[
        float | None, typer.Option(help="Default 5e-5, for lora 5e-4.")
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32 or bf16 (faster).")] = "fp32",
    device: Annotated[str, typer.Option(help="cpu, cuda …")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="CPU threads; part of the seed.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="File from which a killed run goes on.")
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    force: Annotated[bool, typer.Option(help="Replace a better model, too.")] = False,
    as_json: Json = False,
) -> None:
    """Fine-tune an encoder on raw sequences, without labels, and say whether it got better.

    Example: `onevec finetune my-encoder texts.csv --column text --out tuned`
    """
    from onevec.encoders.corpus import assemble
    from onevec.encoders.finetune import finetune as run
    from onevec.tokens.progress import Bar

    read = assemble(corpus, column=column, where=where)
    say(corpus_line(read.manifest["counts"]))
    sequences = list(read.in_order())
    with Bar(None, show=True, label="fine-tuning") as bar:
        made = run(
            model, sequences, out, objective=objective,
            layers=int(layers) if layers.isdecimal() else layers, pooler=pooler, steps=steps,
            minutes=minutes, batch=batch, piece_tokens=piece_tokens, max_length=max_length,
            learning_rate=learning_rate, precision=precision, device=device, threads=threads,
            checkpoint=checkpoint, random_state=seed, overwrite=overwrite, force=force,
            on_step=bar.step, corpus_manifest=read.manifest,
        )  # fmt: skip
    show(made, as_json, f"{out}: {made['verdict']['sentence']}")
