"""From sequences to token vectors: encode, pretrain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onevec.cli.common import (
    Column,
    Json,
    Overwrite,
    Seed,
    app,
    corpus_line,
    pretrain_line,
    say,
    show,
)
from onevec.cli.options import EncodingOptions, grouped


@app.command()
@grouped
def encode(
    data: Annotated[
        str,
        typer.Argument(
            help="A file, or a folder of them: tables, FASTA, text, audio, images, vectors."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the token store to write.")],
    encoder: Annotated[
        str | None,
        typer.Option(help="Hugging Face, sentence-transformers or ONNX model. Not for arrays."),
    ] = None,
    layers: Annotated[
        str,
        typer.Option(
            help="Hidden states to take: last, middle, all, numbers, or several as last,middle. "
            "[CLS], where there is one, is kept beside them."
        ),
    ] = "last",
    *,
    encoding: EncodingOptions,
    resume: Annotated[bool, typer.Option(help="Go on with a store a killed run left.")] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Run a frozen encoder over sequences into a token store.

    Example: `onevec encode proteins.fasta --encoder my-encoder --out store`
    """
    from onevec.tokens.encode import encode as run
    from onevec.tokens.store import TokenStore

    places = {"out": out, "resume": resume, "overwrite": overwrite}
    run(data, encoder, layers=layers, **places, **encoding.given())
    store = TokenStore(out)
    facts = {
        "store": str(out),
        "sequences": len(store),
        "tokens": int(store.lengths.sum()),
        "dim": store.dim,
        "layers": store.layers,
        "cls": store.has_cls,
        "bytes": store.bytes,
    }
    show(
        facts,
        as_json,
        f"{out}: {facts['sequences']:,} sequences, {facts['tokens']:,} token vectors "
        f"of {store.dim} dimensions; {store.price}",
    )


@app.command()
def pretrain(
    corpus: Annotated[
        list[str],
        typer.Argument(
            help="Files, folders or patterns: tables, JSONL, FASTA, text lines of any encoding; "
            ".npz of (n, dim) frames."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Hugging Face folder to make.")],
    column: Column = None,
    where: Annotated[str | None, typer.Option(help="Rows to take, as COLUMN=VALUE.")] = None,
    upper: Annotated[bool, typer.Option("--upper", help="Write sequences in capitals.")] = False,
    frames: Annotated[
        str | None, typer.Option(help="logmel of recordings, or patches of images.")
    ] = None,
    near_duplicates: Annotated[
        float | None, typer.Option(help="Drop what is this similar to one before, such as 0.8.")
    ] = None,
    min_length: Annotated[int, typer.Option(help="Shortest: characters or frames.")] = 1,
    max_length: Annotated[int, typer.Option(help="Longer ones are cut into pieces.")] = 1_000_000,
    held_out: Annotated[float, typer.Option(help="Share kept apart, at most 500.")] = 0.05,
    size: Annotated[str, typer.Option(help="tiny, small or base.")] = "tiny",
    objective: Annotated[
        str | None,
        typer.Option(help="Such as masked=1,crops=0.1; masked, or next_token with --causal."),
    ] = None,
    causal: Annotated[bool, typer.Option(help="Read from left to right.")] = False,
    tokenizer: Annotated[
        str,
        typer.Option(
            help="Of text: auto, character, whitespace, kmer, bpe or unigram; of dense frames: "
            "auto (as they are) or quantised."
        ),
    ] = "auto",
    vocab_size: Annotated[int, typer.Option(help="At most this many tokens.")] = 4096,
    kmer: Annotated[int, typer.Option(help="Length of a k-mer.")] = 3,
    context: Annotated[int | None, typer.Option(help="Longest input; default by size.")] = None,
    batch_tokens: Annotated[int, typer.Option(help="Tokens of a step.")] = 5_000,
    steps: Annotated[
        int | None, typer.Option(help="Default: ten passes, 3,000 to 8,000 steps.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="File to keep the state in, and to go on from.")
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32 or bf16 (faster).")] = "fp32",
    save_dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    device: Annotated[str | None, typer.Option(help="cpu, cuda …; a GPU if there is one.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; part of the seed.")] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Train a small transformer on raw sequences, text or dense frames, when there is no encoder.

    Objectives: crops, simcse, next_sequence, sequence_order; beside them masked and replaced_tokens
    or, with --causal, next_token and cpc.

    Example: `onevec pretrain rna.csv --column sequence --out rna-encoder`
    """
    from onevec.encoders.corpus import assemble
    from onevec.encoders.pretrain import pretrain as run
    from onevec.encoders.pretrain import ready
    from onevec.tokens.progress import Bar

    settings = {
        "size": size, "objective": objective, "causal": causal, "tokenizer": tokenizer,
        "vocab_size": vocab_size, "kmer": kmer, "context": context, "batch_tokens": batch_tokens,
        "steps": steps, "precision": precision, "save_dtype": save_dtype, "device": device,
        "threads": threads, "random_state": seed, "held_out": held_out,
    }  # fmt: skip
    places = {"overwrite": overwrite, "checkpoint": checkpoint}
    ready(out, settings, **places)  # before a long reading
    sequences = assemble(
        *corpus, column=column, where=where, near_duplicates=near_duplicates,
        shortest=min_length, longest=max_length, held_out=held_out, random_state=seed,
        upper=upper, frames=frames,
    )  # fmt: skip
    say(corpus_line(sequences.manifest["counts"]))
    with Bar(None, show=True, label="pretraining") as bar:
        made = run(sequences, out, on_step=bar.step, **places, **settings)
    show(made, as_json, f"{out}: {pretrain_line(made)}")
