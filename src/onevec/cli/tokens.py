"""From sequences to token vectors: encode, pretrain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onevec.cli.common import Column, Json, Overwrite, Seed, app, show


@app.command()
def encode(
    data: Annotated[
        str, typer.Argument(help="Parquet, Arrow, JSONL, CSV, FASTA, text, .npy, .npz")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the token store to write.")],
    encoder: Annotated[
        str | None,
        typer.Option(help="Hugging Face, sentence-transformers or ONNX model. None for arrays."),
    ] = None,
    layer: Annotated[int, typer.Option(help="Hidden states to take; -1 is the last.")] = -1,
    column: Column = None,
    id_column: Annotated[str | None, typer.Option(help="Column that names the rows.")] = None,
    dtype: Annotated[str, typer.Option(help="float16 or int8 (half the size).")] = "float16",
    special_tokens: Annotated[bool, typer.Option(help="Keep [CLS], [SEP] and the like.")] = False,
    max_length: Annotated[int | None, typer.Option(help="Longest input in tokens.")] = None,
    long: Annotated[str, typer.Option(help="Longer ones: truncate, or window.")] = "truncate",
    overlap: Annotated[int, typer.Option(help="Tokens that windows share.")] = 64,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    device: Annotated[str | None, typer.Option(help="cpu, cuda …; a GPU if there is one.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with a store a killed run left.")] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Run a frozen encoder over sequences into a token store.

    Example: `onevec encode proteins.fasta --encoder my-encoder --out store`
    """
    from onevec.tokens.encode import encode as run

    store = run(
        data, encoder, out=out, layer=layer, column=column, id_column=id_column, dtype=dtype,
        special_tokens=special_tokens, max_length=max_length, long=long, overlap=overlap,
        precision=precision, device=device, resume=resume, overwrite=overwrite,
    )  # fmt: skip
    facts = {
        "store": str(out),
        "sequences": len(store),
        "tokens": int(store.lengths.sum()),
        "dim": store.dim,
    }
    show(
        facts,
        as_json,
        f"{out}: {facts['sequences']:,} sequences, {facts['tokens']:,} token vectors "
        f"of {store.dim} dimensions",
    )


@app.command()
def pretrain(
    corpus: Annotated[
        str, typer.Argument(help="A table, FASTA, text lines; or .npz of (n, dim) frames.")
    ],
    out: Annotated[Path, typer.Option(help="Hugging Face folder to make.")],
    column: Column = None,
    where: Annotated[str | None, typer.Option(help="Rows to take, as COLUMN=VALUE.")] = None,
    tokenizer: Annotated[
        str, typer.Option(help="auto, character, whitespace, kmer, bpe or unigram.")
    ] = "auto",
    vocab_size: Annotated[int, typer.Option(help="At most this many tokens.")] = 4096,
    kmer: Annotated[int, typer.Option(help="Length of a k-mer.")] = 3,
    steps: Annotated[
        int | None, typer.Option(help="Default: ten passes, 3,000 to 8,000 steps.")
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32 or bf16 (faster).")] = "fp32",
    save_dtype: Annotated[str, typer.Option(help="float32 or float16 on disk.")] = "float32",
    threads: Annotated[int | None, typer.Option(help="CPU threads; part of the seed.")] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Train a small masked model, of text or of dense frames, when there is no encoder.

    Example: `onevec pretrain rna.csv --column sequence --out rna-encoder`
    """
    from onevec.encoders.pretrain import pretrain as run
    from onevec.encoders.pretrain import read_corpus
    from onevec.tokens.progress import Bar

    texts = read_corpus(corpus, column=column, where=where)
    with Bar(None, show=True, label="pretraining") as bar:
        made = run(
            texts, out, tokenizer=tokenizer, vocab_size=vocab_size, kmer=kmer, steps=steps,
            precision=precision, save_dtype=save_dtype, seed=seed, threads=threads,
            overwrite=overwrite, on_step=bar.step,
        )  # fmt: skip
    show(
        made,
        as_json,
        f"{out}: {made['steps']} steps in {made['seconds']:.0f} s; held-out masked accuracy "
        f"{100 * made['masked_accuracy']:.1f} %, commonest token "
        f"{100 * made['unigram_accuracy']:.1f} %",
    )
