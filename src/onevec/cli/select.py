"""What vectors are for beyond search: choosing what to label, looking at all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onevec.cli.common import Json, Overwrite, Seed, app, show

Vectors = Annotated[Path, typer.Argument(help="Vectors: .npy, .parquet, .arrow, .safetensors.")]


@app.command()
def select(
    vectors: Vectors,
    out: Annotated[Path, typer.Option(help="File of the choice: .parquet, .csv, or .txt of ids.")],
    count: Annotated[int | None, typer.Option(help="How many to choose.")] = None,
    method: Annotated[
        str,
        typer.Option(
            help="facility_location, max_coverage, k_center, determinantal, density_balanced, "
            "deduplicate or random."
        ),
    ] = "facility_location",
    labelled: Annotated[
        Path | None, typer.Option(help="What is labelled already: .txt of ids, or vectors.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="deduplicate: cosine from which two are the same.")
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Choose what to label first, by the vectors alone.

    Example: `onevec select vectors.parquet --count 100 --out chosen.csv`
    """
    from onevec.use.chosen import select_file

    facts = select_file(
        vectors, out, count, method, labelled=labelled, threshold=threshold, random_state=seed,
        overwrite=overwrite,
    )  # fmt: skip
    show(
        facts,
        as_json,
        f"{out}: {facts['chosen']:,} of {facts['of']:,} vectors by {method}; mean cosine with the "
        f"nearest chosen one {facts['coverage']:.3f} ({facts['random_coverage']:.3f} for as many "
        "at random)",
    )


@app.command()
def explore(
    vectors: Vectors,
    out: Annotated[Path, typer.Option(help="Parquet file of the points.")],
    store: Annotated[
        Path | None, typer.Option(help="Token store of the same: text and metadata come along.")
    ] = None,
    neighbours: Annotated[int, typer.Option(help="Of each point; 0 leaves them out.")] = 15,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Place vectors on a plane, with neighbours, for embedding-atlas to show.

    Example: `onevec explore vectors.parquet --store store --out points.parquet`
    """
    from onevec.use.explore import explore as run

    facts = run(vectors, out, store=store, count=neighbours, random_state=seed, overwrite=overwrite)
    show(
        facts,
        as_json,
        f"{out}: {facts['rows']:,} points, placed by {facts['method']}\n"
        f"Look at them with (pip install embedding-atlas)\n  {facts['command']}",
    )
