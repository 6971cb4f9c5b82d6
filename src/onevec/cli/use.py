"""What vectors are for: search, similarity, near-duplicates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onevec.cli.common import Column, Json, Overwrite, Seed, app, show

Metric = Annotated[
    str | None, typer.Option(help="cosine (default), dot or euclidean; an index has its own.")
]


@app.command()
def index(
    vectors: Annotated[
        Path | None, typer.Argument(help=".parquet, .arrow, .safetensors or .npy")
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="Folder of the index, new or to change.")],
    kind: Annotated[str | None, typer.Option(help="exact (default) or hnsw.")] = None,
    metric: Annotated[str | None, typer.Option(help="cosine (default), dot or euclidean.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Kept as float32 (default) or float16.")] = None,
    options: Annotated[str, typer.Option(help="Of hnsw: 'ef_search=128,links=16'.")] = "",
    add: Annotated[bool, typer.Option("--add", help="Add VECTORS to the index at --out.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="With --add: known ids too.")] = False,
    delete: Annotated[
        Path | None, typer.Option(help="Text file of ids to delete from the index at --out.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make vectors searchable in a LanceDB table, or add to and delete from one.

    Each change is one commit: it is made whole or not at all.

    Example: `onevec index vectors.parquet --out index --kind hnsw`
    """
    from onevec.errors import InputError
    from onevec.files import check_target
    from onevec.use.folder import is_index
    from onevec.use.search import build_index, change_index

    settings = {"kind": kind, "metric": metric, "dtype": dtype}
    changed = {}
    if add or delete is not None:
        given = [f"--{name}" for name, value in settings.items() if value is not None]
        if given or options:
            raise InputError(
                f"got {(*given, '--options')[0]} with --add or --delete: an index stays of its "
                "kind; leave it out, or build another"
            )
        if overwrite:
            raise InputError(
                "got --overwrite with --add or --delete, which change the index at --out: leave it "
                "out"
            )
        if add != (vectors is not None):
            raise InputError("VECTORS and --add go together: pass both, or --delete alone")
        if replace and not add:
            raise InputError("got --replace with --delete alone: it goes with --add")
        made, changed = change_index(out, vectors, delete, replace)
    elif replace:
        raise InputError("got --replace without --add: pass both to change the index at --out")
    elif vectors is None:
        raise InputError("got no VECTORS: pass a file of vectors, or --delete")
    else:
        check_target(out, overwrite, what="vector index", ours=is_index)
        made = build_index(vectors, out, settings, options, overwrite)
    facts = made.facts()
    said = "".join(f", {count:,} {what}" for what, count in changed.items() if count)
    show(
        {"index": str(out), **facts, **changed},
        as_json,
        f"{out}: {facts['count']:,} vectors of {facts['dim']} dimensions, {facts['search']} by "
        f"{facts['metric']}, recall@10 {facts['recall@10']:.3f}{said}",
    )


@app.command()
def search(
    index: Annotated[Path, typer.Argument(help="Folder of the index.")],
    queries: Annotated[
        str | None, typer.Argument(help="File of vectors; with --model of sequences, or a store.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="One raw sequence, instead of QUERIES.")] = None,
    k: Annotated[int, typer.Option("--k", "-k", help="Hits for each query.")] = 10,
    where: Annotated[
        str | None, typer.Option(help="SQL filter: \"length > 100 AND family = 'RNase'\".")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="Model folder, for raw sequences.")] = None,
    encoder: Annotated[str | None, typer.Option(help="The model's encoder.")] = None,
    column: Column = None,
    id_column: Annotated[str | None, typer.Option(help="Column that names the queries.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Longest input in tokens.")] = None,
    long: Annotated[
        str | None, typer.Option(help="Longer ones: truncate (default), or window.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Hits as .parquet, .arrow, .jsonl or .csv.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Find the nearest vectors of queries, of vectors or of raw sequences.

    `chance` is how many hits as good chance alone would give the query: below 0.01 is a find.

    Example: `onevec search index --model model --encoder encoder --text MKTAYIAKQR`
    """
    from onevec.errors import InputError
    from onevec.use.formats import check_table, save_table
    from onevec.use.index import Index
    from onevec.use.search import hits
    from onevec.use.search import search as run

    if out is not None:
        check_table(out, overwrite)
    elif overwrite:
        raise InputError("got --overwrite without --out: name the file to replace")
    if (queries is None) == (text is None):
        raise InputError("pass either QUERIES or --text")
    if model is None and (text is not None or encoder is not None):
        raise InputError("raw sequences need --model, and --encoder where they are no arrays")
    encoding = {
        name: value
        for name, value in {
            "column": column, "id_column": id_column, "max_length": max_length, "long": long
        }.items()
        if value is not None
    }  # fmt: skip
    if model is None and encoding:
        option = next(iter(encoding)).replace("_", "-")
        raise InputError(f"got --{option} without --model: it is of use for raw sequences alone")
    opened = Index.open(index)
    asked = queries if text is None else [text]
    found = run(opened, asked, k, where, model=model, encoder=encoder, **encoding)
    table = hits(opened, found)
    shape = {"queries": len(found.queries), "hits": found.ids.shape[1]}
    if out is not None:
        save_table(table, out, overwrite)
        said = f"{out}: {shape['hits']} hits for each of {shape['queries']:,} queries"
        show({"out": str(out), **shape}, as_json, said)
        return
    rows = [{name: _short(value) for name, value in row.items()} for row in table.to_pylist()]
    lines = ["\t".join(table.column_names), *("\t".join(map(str, r.values())) for r in rows)]
    show({**shape, "found": rows}, as_json, "\n".join(lines))


@app.command()
def similarity(
    vectors: Annotated[Path, typer.Argument(help="File of vectors with ids, or an index.")],
    one: Annotated[str, typer.Argument(help="Id of a vector.")],
    other: Annotated[str | None, typer.Argument(help="Another; else the nearest ones.")] = None,
    k: Annotated[
        int | None, typer.Option("--k", "-k", min=1, help="How many nearest ones (5).")
    ] = None,
    metric: Metric = None,
    as_json: Json = False,
) -> None:
    """Say how similar two vectors are, and how unusual that is among random pairs.

    Example: `onevec similarity vectors.parquet P12345 Q67890`
    """
    from onevec.errors import InputError
    from onevec.use.search import similar

    if other is not None and k is not None:
        raise InputError(f"got --k {k} and the other's id {other!r}: pass one of them")
    facts = similar(vectors, one, other, k or 5, metric)
    show(facts, as_json, "\n".join(facts["sentences"]))


@app.command()
def duplicates(
    vectors: Annotated[Path, typer.Argument(help="File of vectors, or an index.")],
    out: Annotated[Path, typer.Option(help="Groups as .parquet, .arrow, .jsonl or .csv.")],
    threshold: Annotated[float | None, typer.Option(help="Smallest score of a pair.")] = None,
    chance: Annotated[
        float | None,
        typer.Option(help="Or: how many pairs chance may give in all; default 0.01."),
    ] = None,
    metric: Metric = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Group near-duplicates; rows whose id is their group are those to keep.

    Example: `onevec duplicates vectors.parquet --out groups.csv --threshold 0.98`
    """
    from onevec.use.search import duplicates as run

    facts = run(vectors, out, threshold, chance, metric, seed=seed, overwrite=overwrite)
    show(
        facts,
        as_json,
        f"{out}: {facts['groups']:,} groups hold {facts['in_groups']:,} of {facts['vectors']:,} "
        f"vectors at {facts['threshold']:.4f} or more, the largest {facts['largest']:,}; "
        f"{facts['kept']:,} are left when one of each is kept",
    )


def _short(value: object) -> object:
    return float(f"{value:.4g}") if isinstance(value, float) else value
