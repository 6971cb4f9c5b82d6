"""Points, neighbours and names of chess openings, for embedding-atlas and as a picture."""

import csv
import gzip
import tempfile
from pathlib import Path

from onevec import OneVec, encode
from onevec.report.html import write
from onevec.report.summarize import summarize_store
from onevec.use.explore import explore
from onevec.use.vectors import write_vectors

ROOT = Path(__file__).parents[1] / "benchmarks"

with gzip.open(ROOT / "data/chess_openings/chess_openings.csv.gz", "rt") as handle:
    rows = list(csv.DictReader(handle))[::10]

with tempfile.TemporaryDirectory() as room:
    folder = Path(room)
    store = encode(
        [r["moves"] for r in rows],
        ROOT / "encoders/chess",
        out=folder / "store",
        metadata={name: [r[name] for r in rows] for name in ("name", "volume")},
        progress=False,
    )
    model = OneVec().fit(store)
    write_vectors(model, folder / "store", folder / "vectors.parquet")
    found = explore(folder / "vectors.parquet", folder / "points.parquet", store=folder / "store")
    print(f"{found['rows']} points, placed by {found['method']}; look at them with")
    print(f"  {found['command']}")

    summary = summarize_store(model, store, title="Chess openings", colour="volume")
    page = write(summary, folder / "report.html")
    print(f"a report with their picture: {page.stat().st_size / 1024:.0f} KiB")
