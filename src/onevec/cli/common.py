"""What the commands share: the application, options that recur, printing."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from onevec.files import for_json

app = typer.Typer(
    name="onevec",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""One vector per sequence, learned without labels, on top of a frozen model.

**embed** does the main job. Its steps, one by one: **encode** sequences with a frozen encoder into
a store of token vectors, **fit** a model to the store, **transform** a store to vectors.
`onevec demo` walks on proteins. No encoder? Make one with **pretrain**. The model never reads
labels: **evaluate** and the demo score with them.""",
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for machines.")]
Overwrite = Annotated[bool, typer.Option(help="Replace what stands at --out.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of every draw.")]
Column = Annotated[
    str | None, typer.Option(help="Column of the sequences; guessed when there is one candidate.")
]


def say(line: str) -> None:
    """Print to stderr: progress and warnings, no result."""
    typer.echo(line, err=True)


def show(result: dict[str, Any], as_json: bool, text: str) -> None:
    """Print a result, as one JSON object or as text."""
    typer.echo(json.dumps(for_json(result), allow_nan=False, default=str) if as_json else text)


def parts_table(parts: list[dict[str, Any]], dim: int) -> str:
    """Lay out the parts of a vector, and what it is reduced to."""
    from onevec.report.summarize import shown_parts

    width = max(len("part"), *(len(row["name"]) for row in parts))
    lines = [f"{'part':<{width}}  layer       columns  weight  holds"]
    for row in shown_parts(parts):
        line = f"{row['name']:<{width}}  {row['layer']:>5}{row['columns']:>14}"
        lines.append(f"{line}{row['weight']:>8.2f}  {row['about']}")
    whole = parts[-1]["last"]
    if dim < whole:
        lines.append(f"The {whole:,} columns are reduced to {dim:,} dimensions by PCA.")
    return "\n".join(lines)


def score_table(evaluation: dict[str, dict[str, Any]]) -> str:
    """Lay out what `evaluate` returned."""
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


def corpus_line(counts: dict[str, int]) -> str:
    """Say what became of the rows of a corpus."""
    lost = ("broken", "empty", "too_short", "duplicates", "near_duplicates", "filtered")
    named = (f"{counts[name]:,} {name.replace('_', ' ')}" for name in lost if counts[name])
    pieces = f", {counts['cut']:,} of them cut" if counts["cut"] else ""
    left_out = ", ".join(named) or "none"
    return f"{counts['read']:,} read, {counts['kept']:,} kept{pieces}; left out: {left_out}"


def pretrain_line(made: dict[str, Any]) -> str:
    """Say how a pretraining went."""
    text = f"{made['steps']} steps in {made['seconds']:.0f} s; "
    guesses = [name for name in made if name.endswith("_accuracy") and "unigram" not in name]
    for name in guesses:
        text += f"held-out {name.replace('_', ' ')} {100 * made[name]:.1f} %, "
    if guesses:
        return text + f"commonest token {100 * made['unigram_accuracy']:.1f} %"
    return text + f"held-out loss {made['held_out']['loss']:.3f}"
