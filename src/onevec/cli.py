"""The command line. Each command parses, calls one public function and prints."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from onevec.errors import OnevecError

app = typer.Typer(
    name="onevec",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""One vector per sequence, learned without labels, on top of a frozen model.

The way: **encode** sequences with a frozen encoder into a store of token vectors, **fit** on the
store, **transform** a store to vectors. `onevec demo` walks it on proteins. No encoder? Make one
with **pretrain**. Only **evaluate** reads labels.""",
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for machines.")]
Overwrite = Annotated[bool, typer.Option(help="Replace what stands at --out.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of every draw.")]
Column = Annotated[
    str | None, typer.Option(help="Column of the sequences; guessed when there is one candidate.")
]


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _print(result: dict[str, Any], as_json: bool, text: str) -> None:
    typer.echo(json.dumps(result) if as_json else text)


def _table(evaluation: dict[str, dict[str, Any]]) -> str:
    from onevec.report.summarize import METHOD_NAMES

    lines = [f"{'':<18}{'dim':>5}{'kNN':>8}{'10-shot':>9}{'gain':>8}   95 % interval"]
    for name, row in evaluation.items():
        line = f"{METHOD_NAMES.get(name, name):<18}{row['dim']:>5}"
        line += f"{row['knn']:>8.1f}{row['shot10']:>9.1f}"
        if "gain" in row:
            low, high = row["interval"]
            line += f"{row['gain']:>+8.1f}   {low:+.1f} … {high:+.1f}"
        lines.append(line)
    return "\n".join(lines)


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
    _print(
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
    _print(
        made,
        as_json,
        f"{out}: {made['steps']} steps in {made['seconds']:.0f} s; held-out masked accuracy "
        f"{100 * made['masked_accuracy']:.1f} %, commonest token "
        f"{100 * made['unigram_accuracy']:.1f} %",
    )


@app.command()
def fit(
    store: Annotated[Path, typer.Argument(help="Token store.")],
    out: Annotated[Path, typer.Option(help="Folder of the model to write.")],
    dim: Annotated[int, typer.Option(help="Dimensions of the vector.")] = 64,
    effort: Annotated[str, typer.Option(help="quick, standard or thorough.")] = "quick",
    pooler: Annotated[
        str, typer.Option(help="auto, or such as 'mean|std|vlad' or 'attention', which learns.")
    ] = "auto",
    objective: Annotated[
        str, typer.Option(help="What poolers learn for: 'info_nce', or 'vicreg=0.5,info_nce=1'.")
    ] = "auto",
    steps: Annotated[
        int | None, typer.Option(help="Training steps; default by effort: 100, 400 or 1,500.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="File from which a killed training goes on.")
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Learn the aggregation from a store, without labels, and say whether it beats the mean.

    Example: `onevec fit store --out model --dim 64`
    """
    from onevec.estimator import OneVec, is_model
    from onevec.files import check_target
    from onevec.train.head import first_process

    check_target(out, overwrite, what="onevec model", ours=is_model)
    training = {"steps": steps, "checkpoint": checkpoint, "progress": True}
    model = OneVec(
        dim, effort=effort, pooler=pooler, objective=objective, training=training,
        random_state=seed,
    ).fit(store)  # fmt: skip
    if not first_process():  # of `torchrun`: every process has the same model
        return
    model.save(out, overwrite=overwrite)
    _print(
        {"model": str(out), "verdict": model.verdict_.as_dict()}, as_json, model.verdict_.sentence
    )


@app.command()
def transform(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    store: Annotated[Path, typer.Argument(help="Token store.")],
    out: Annotated[Path, typer.Option(help="vectors.npy, or .parquet with the ids.")],
    check_encoder: Annotated[bool, typer.Option(help="Refuse a store of another encoder.")] = True,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Turn a store into one vector per sequence.

    Example: `onevec transform model store --out vectors.parquet`
    """
    from onevec.estimator import load
    from onevec.use.vectors import check_file, write_vectors

    check_file(out, overwrite)
    fitted = load(model).set_params(check_encoder=check_encoder)
    shape = write_vectors(fitted, store, out)
    _print(
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
    """Score onevec and the mean's variants with labels: the only command that reads them.

    Example: `onevec evaluate model train-store --test test-store --labels family`
    """
    from onevec.use.vectors import evaluate_stores

    result = evaluate_stores(model, store, labels, test=test, random_state=seed)
    _print(result, as_json, _table(result))


@app.command()
def report(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    as_json: Json = False,
) -> None:
    """Write the verdict and its evidence as one HTML file.

    Example: `onevec report model --out report.html`
    """
    from onevec.estimator import load
    from onevec.report.html import check_report, write
    from onevec.report.summarize import summarize

    check_report(out)
    write(summarize(load(model), title=f"onevec: {model.name}"), out)
    _print({"report": str(out)}, as_json, f"{out} written")


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="Token store, model or encoder folder.")],
    as_json: Json = False,
) -> None:
    """Say what a folder holds; a store's checksums are verified.

    Example: `onevec inspect store`
    """
    from onevec.report.describe import describe

    facts = describe(path)
    _print(facts, as_json, "\n".join(f"{name:<16}{value}" for name, value in facts.items()))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="HTML report to write.")] = Path("report.html"),
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Walk the whole way on real proteins that come with onevec (two to three minutes).

    Example: `onevec demo`
    """
    from onevec.demo.walk import run_demo
    from onevec.use.vectors import METHODS

    result = run_demo(out, _say, seed)
    table = _table({name: result[name] for name in METHODS})
    _print(
        result, as_json, f"\n{table}\n\nVerdict  {result['verdict']['sentence']}\nReport   {out}"
    )


def main() -> None:
    """Run the command line; a rule that is broken ends with one sentence and exit code 2."""
    warnings.showwarning = lambda message, *_, **__: _say(f"onevec: warning: {message}")
    try:
        app()
    except (OnevecError, OSError) as error:
        typer.echo(f"onevec: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
