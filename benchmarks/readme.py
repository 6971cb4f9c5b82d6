"""Write the measured tables into the README and the docs, between their markers.

    python benchmarks/readme.py [--check | --demo]

Reads benchmarks/results/demo.json, quality.json and baselines-v1.json (`quality.py`), use.json
(`use.py`, `use_select.py`), finetune.json and pretrain.json; every table says which version and
commit made it. With `--check` a page that differs is an error, and nothing is written; with
`--demo` the demo runs first.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import encoder_tables
import use
import use_select
from onevec.report.summarize import METHOD_NAMES
from protocol import report
from protocol.made_by import line, made_by

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BEGIN, END = "<!-- figures: benchmarks/readme.py -->", "<!-- end of figures -->"
USE = ROOT / "docs/use.md"
BEGIN_USE, END_USE = "<!-- use: benchmarks/readme.py -->", "<!-- end of use -->"
QUALITY = ROOT / "docs/quality.md"
ENCODERS = ROOT / "docs/encoders.md"
BEGIN_ENCODERS, END_ENCODERS = "<!-- encoders: benchmarks/readme.py -->", "<!-- end of encoders -->"
BEGIN_QUALITY, END_QUALITY = "<!-- quality: benchmarks/readme.py -->", "<!-- end of quality -->"


def results(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks/results" / f"{name}.json").read_text())


def table(rows: dict[str, dict[str, Any]]) -> str:
    lines = ["| | dimensions | kNN | 10-shot | gain over the mean |", "|---|--:|--:|--:|--:|"]
    for name, row in rows.items():
        gain = ""
        if "gain" in row:
            low, high = row["interval"]
            gain = f"{row['gain']:+.1f} [{low:+.1f}, {high:+.1f}]".replace("-", "−")
        label = METHOD_NAMES.get(name, name)
        label = f"**{label}**" if name == "onevec" else label
        lines.append(
            f"| {label} | {row['dim']} | {row['knn']:.1f} | {row['shot10']:.1f} | {gain} |"
        )
    return "\n".join(lines)


def figures() -> str:
    demo = results("demo")
    rows = {name: row for name, row in demo.items() if isinstance(row, dict) and "knn" in row}
    return "\n\n".join(
        [
            BEGIN,
            f"**Protein localisation** (10 classes, `make demo`; masked accuracy "
            f"{100 * demo['masked_accuracy']:.0f} %, commonest token "
            f"{100 * demo['unigram_accuracy']:.0f} %). "
            f"Verdict: {demo['verdict']['sentence']}",
            table(rows),
            "Fitted without labels on the train part, scored on the test part that neither the "
            "encoder nor the fit saw: balanced accuracy in %, gain in the mean of the two with its "
            "95 % interval (paired bootstrap). The gain is over the mean at its own dimensions. "
            f"Made with {line(demo['made_by'])}.",
            END,
        ]
    )


def quality() -> str:
    """The README's short table of onevec, once there is one for this default."""
    found, baselines = quality_results()
    if found is None:
        return f"{BEGIN_QUALITY}\n{END_QUALITY}"
    whole = report.with_baselines(found, baselines)
    return "\n\n".join(
        [
            BEGIN_QUALITY,
            report.made_line(found, baselines),
            report.at_a_glance(whole),
            "Macro scores at 64 dimensions (the mean at its own, onevec also whole) and gains over "
            "the native mean with 95 % intervals; of PyG's operators the best is shown:",
            report.macro_table(whole["macro"], report.brief(whole["macro"])),
            "![Gain over the mean by task](benchmarks/results/quality-gain.svg)",
            "All tasks: [benchmarks/results/quality.md](benchmarks/results/quality.md).",
            END_QUALITY,
        ]
    )


def quality_results() -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    return report.read(report.RESULTS / "quality.json"), report.read(report.baselines_file())


def quality_page() -> str:
    """Baselines of this version of the protocol, and the encoders they were computed on."""
    _, baselines = quality_results()
    assert baselines is not None
    return "\n\n".join(
        [
            BEGIN_QUALITY,
            report.made_line(baselines, None),
            report.macro_table(baselines["macro"], report.brief(baselines["macro"])),
            report.encoder_table(baselines["encoders"]),
            END_QUALITY,
        ]
    )


def used() -> str:
    if not (ROOT / "benchmarks/results/use.json").is_file():
        return f"{BEGIN_USE}\n{END_USE}"
    found = results("use")
    parts = [BEGIN_USE]
    if "search" in found:
        parts += ["## Search", use.markdown(found["search"])]
    if "selection" in found:
        parts += ["## Selection", use_select.markdown(found["selection"])]
    return "\n\n".join([*parts, END_USE])


def encoders() -> str:
    tuned, made = results("finetune"), results("pretrain")
    lines = {row["made by"]: None for part in ("rows", "peers") for row in tuned[part].values()}
    items = [f"- The first two tables: {text}." for text in lines]
    return "\n\n".join(
        [
            BEGIN_ENCODERS,
            "\n".join([*items, f"- The third table: {line(made['made_by'])}."]),
            "## Tuning the encoder, or the aggregation alone",
            encoder_tables.tuning_table(tuned),
            "## Beside sentence-transformers",
            encoder_tables.side_by_side_table(tuned),
            "## Several objectives",
            encoder_tables.pretraining_table(made),
            END_ENCODERS,
        ]
    )


PLACES = (
    (README, BEGIN, END, figures),
    (README, BEGIN_QUALITY, END_QUALITY, quality),
    (QUALITY, BEGIN_QUALITY, END_QUALITY, quality_page),
    (USE, BEGIN_USE, END_USE, used),
    (ENCODERS, BEGIN_ENCODERS, END_ENCODERS, encoders),
)


def run_demo() -> None:
    """Run the demo as its users do, and keep what it found."""
    words = [sys.executable, "-m", "onevec.cli", "demo", "--json", "--out", "report.html"]
    ran = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    found = {"made_by": made_by(seeds=[0]), **json.loads(ran.stdout)}
    (ROOT / "benchmarks/results/demo.json").write_text(json.dumps(found) + "\n")


def main() -> None:
    if "--demo" in sys.argv:
        run_demo()
    for path, begin, end, make in PLACES:
        text = path.read_text()
        before, rest = text.split(begin)
        _, after = rest.split(end)
        fresh = before + make() + after
        if "--check" in sys.argv and fresh != text:
            raise SystemExit(
                f"the figures of {path.name} are not those of benchmarks/results: run this"
            )
        if fresh != text:
            path.write_text(fresh)


if __name__ == "__main__":
    main()
