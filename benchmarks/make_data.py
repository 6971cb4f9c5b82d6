"""Make the demo's data file from the public DeepLoc subset.

python benchmarks/make_demo_data.py DATA_DIR
"""

import csv
import gzip
import io
import sys
from pathlib import Path

csv.field_size_limit(10**7)
OUT = Path(__file__).parents[1] / "src/onevec/demo/data/deeploc.csv.gz"


def main(folder: str) -> None:
    source = Path(folder) / "deeploc_small" / "deeploc_small.csv.gz"
    with gzip.open(source, "rt", newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if row["split"] in ("val", "test")]
    # A class of 23 proteins that only `val` has; exact duplicates; test items that occur in val.
    rows = [row for row in rows if row["location"] != "Cytoplasm-Nucleus"]
    kept = {
        row["sequence"]: row for row in reversed(sorted(rows, key=lambda r: r["split"] == "test"))
    }
    rows = [row for row in rows if kept[row["sequence"]] is row]
    text = io.StringIO()
    writer = csv.DictWriter(
        text,
        ["split", "uniprot", "location", "sequence"],
        extrasaction="ignore",
        lineterminator="\n",
    )
    writer.writeheader()
    writer.writerows(rows)
    with (
        OUT.open("wb") as raw,
        gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as packed,
    ):
        packed.write(text.getvalue().encode())
    print(f"{OUT}: {len(rows)} proteins, {OUT.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(sys.argv[1])
