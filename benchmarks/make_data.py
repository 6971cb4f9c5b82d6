"""Make the data files that ship: the demo's, and those of the quick benchmark.

    python benchmarks/make_data.py DATA_DIR

Sources and licences stand in NOTICE.
"""

import csv
import gzip
import io
import json
import shutil
import sys
from pathlib import Path

csv.field_size_limit(10**7)
ROOT = Path(__file__).parents[1]
DEMO = ROOT / "src/onevec/demo/data/deeploc.csv.gz"
QUICK = ROOT / "benchmarks/data"
AS_THEY_ARE = (
    "chess_openings/chess_openings.csv.gz",
    "hand_gesture/point_history.npz",
    "banking77/banking77.csv.gz",
    "ucr_uea_small/JapaneseVowels.jsonl.gz",
)


def demo(folder: Path) -> None:
    """The validation and test parts of DeepLoc, less duplicates."""
    source = folder / "deeploc_small" / "deeploc_small.csv.gz"
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
    pack(DEMO, text.getvalue())


def quick(folder: Path) -> None:
    """The quick benchmark's sets; Omniglot without the times, which no frame reads."""
    for name in AS_THEY_ARE:
        (QUICK / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, QUICK / name)
    name = "omniglot_strokes/omniglot_strokes.jsonl.gz"
    lines = []
    with gzip.open(folder / name, "rt") as handle:
        for line in handle:
            row = json.loads(line)
            row["strokes"] = [[[x, y] for x, y, _ in stroke] for stroke in row["strokes"]]
            lines.append(json.dumps(row, separators=(",", ":")))
    pack(QUICK / name, "\n".join(lines) + "\n")


def pack(out: Path, text: str) -> None:
    """Write gzip that depends on the content alone."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        out.open("wb") as raw,
        gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as packed,
    ):
        packed.write(text.encode())
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    demo(Path(sys.argv[1]))
    quick(Path(sys.argv[1]))
