"""Pretraining with several objectives against masked modelling alone, on three kinds of sequences.

    python benchmarks/pretrain.py [--data DIR] [--tasks ncrna13,chess] [--recipes masked,all]

RNA, chess games and pen strokes. Each encoder is trained on the row's unlabelled train part, then
frozen; its token vectors become vectors by the mean and by `OneVec()`, scored by the protocol's
probes. Gains are paired, over the same aggregation on the masked encoder; "masked,
longer" has as many steps more as further objectives cost. Encoders are kept under .cache, and one
that was interrupted goes on. Writes benchmarks/results/pretrain.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

from onevec import encode, pretrain
from onevec.probes.outcomes import Outcome, mean_score, paired_gain
from protocol import baselines, encoders, ours, tasks
from protocol.code_key import code_key
from protocol.made_by import made_by
from protocol.producer import Context, score

OUT = Path(__file__).parent / "results/pretrain.json"
KEPT = encoders.CACHE / "pretrain"
ROWS = ("ncrna13", "chess", "omniglot")
RECIPES: dict[str, dict[str, Any]] = {
    "masked": {"objective": "masked"},
    "masked, longer": {"objective": "masked"},
    "contrastive": {"objective": "masked=1,crops=0.1"},
    "order": {"objective": "masked=1,sequence_order=0.1"},
    "all": {"objective": "masked=1,crops=0.1,sequence_order=0.1"},
    "causal": {"objective": "next_token=1,cpc=0.5", "causal": True},
}
LONGER = 2.0
Scores = dict[str, dict[str, Outcome]]


def encoder(
    row: str, recipe: str, data: Path, steps: int | None, most: int | None = None
) -> tuple[Path, dict[str, Any]]:
    """Make an encoder, or take the one that is there; its folder and manifest."""
    sequences = tasks.corpus(row, data)[:most]
    mark = code_key("onevec.encoders.pretrain") + encoders.fingerprint(sequences)
    key = f"{zlib.crc32(f'{mark} {RECIPES[recipe]} {steps}'.encode()):08x}"
    out = KEPT / f"{row}-{recipe.replace(', ', '-')}-{key}"
    if not (out / "pretrain.json").is_file():
        if recipe == "masked, longer":
            _, made = encoder(row, "masked", data, steps, most)
            steps = round(LONGER * made["steps"])
        kind = encoders.PRETRAINED[row]
        pretrain(
            sequences,
            out,
            checkpoint=out.with_suffix(".state"),
            tokenizer="auto" if kind == "frames" else kind,
            precision="bf16",
            threads=1,
            device="cpu",
            steps=steps,
            **RECIPES[recipe],
        )
    return out, json.loads((out / "pretrain.json").read_text())


def outcomes(unit: tasks.Unit, folder: Path) -> dict[str, Scores]:
    """Every probe of every target, for the mean and for `OneVec()`."""
    train, test = (
        encode(part, folder, long="window", progress=False) for part in (unit.train, unit.test)
    )
    context = Context(unit, folder.name, train, test)
    found = {}
    for result in (*baselines.mean(context, 0), *ours.onevec(context, 0)):
        found[result.name] = score(result, unit)
    return found


def compare(found: Mapping[str, dict[str, Scores]]) -> dict[str, Any]:
    """Scores of every recipe, and gains over masked modelling with their intervals."""
    table: dict[str, Any] = {}
    for recipe, by_method in found.items():
        for method, targets in by_method.items():
            for target, probes in targets.items():
                cell = {"score": round(mean_score(probes), 2)}
                if recipe != "masked" and "masked" in found:
                    gain = paired_gain(probes, found["masked"][method][target])
                    cell["gain"] = round(gain["gain"], 2)
                    cell["interval"] = [round(bound, 2) for bound in gain["interval"]]
                table.setdefault(target, {}).setdefault(recipe, {})[method] = cell
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of the data sets (else $ONEVEC_DATA)")
    parser.add_argument("--tasks", default=",".join(ROWS))
    parser.add_argument("--recipes", default=";".join(RECIPES), help="parted by semicolons")
    parser.add_argument("--steps", type=int, help="default: what pretrain takes")
    parser.add_argument("--quick", action="store_true", help="few sequences: for trying it out")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/pretrain.json")
    args = parser.parse_args()
    args.out = args.out or OUT.with_name("quick-pretrain.json" if args.quick else OUT.name)
    data = tasks.data_folder(args.data)
    torch.set_num_threads(1)
    result: dict[str, Any] = {
        "made_by": made_by(seeds=[0], threads=1),
        "recipes": RECIPES,
        "tasks": {},
    }
    for row in args.tasks.split(","):
        units = [tasks.shrink(u) if args.quick else u for u in tasks.units(row, data)]
        found: dict[str, dict[str, Any]] = {unit.id: {} for unit in units}
        made = {}
        for recipe in args.recipes.split(";"):
            folder, manifest = encoder(row, recipe, data, args.steps, 300 if args.quick else None)
            names = ("steps", "seconds", "held_out", "masked_accuracy", "unigram_accuracy")
            made[recipe] = {name: manifest[name] for name in names if name in manifest}
            for unit in units:
                found[unit.id][recipe] = outcomes(unit, folder)
                print(f"{unit.id} {recipe}: {json.dumps(compare(found[unit.id]))}", flush=True)
        tables = {unit.id: compare(found[unit.id]) for unit in units}
        result["tasks"][row] = {"encoders": made, "units": tables}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
