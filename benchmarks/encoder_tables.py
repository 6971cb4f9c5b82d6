"""Tables of finetune.json and pretrain.json, apart from the scripts that make them."""

from __future__ import annotations

from typing import Any

from protocol.report import interval, number


def tuning_table(found: dict[str, Any]) -> str:
    """Score, gain over the frozen mean and seconds of every row of finetune.json."""
    lines = ["| task | encoder | row | score | gain | seconds |", "|---|---|---|--:|--:|--:|"]
    for task, entry in found["rows"].items():
        about = f"{task} | {entry['encoder']}"
        for name, row in entry["rows"].items():
            kept = " (start kept)" * (name.startswith("fine-tuned") and not entry["best step"])
            gain = "" if name == "frozen + mean" else _gain(row)
            cells = (name + kept, number(row["score"]), gain, f"{row['seconds']:.0f}")
            lines.append(f"| {about} | {' | '.join(cells)} |")
            about = " | "
    return "\n".join(lines)


def side_by_side_table(found: dict[str, Any]) -> str:
    """Time and score of both packages, for every recipe of finetune.json."""
    lines = [
        "| task, recipe, precision | steps | seconds, theirs | ours | ratio | score, theirs | ours "
        "| gain |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, entry in found["peers"].items():
        seconds, score = entry["seconds"], entry["score"]
        cells = (
            name.removesuffix(", last"),
            str(entry["steps"]),
            *(f"{min(seconds[who]):.0f}" for who in ("theirs", "ours")),
            f"{entry['time ratio']:.2f}",
            *(number(score[who]) for who in ("theirs", "ours")),
            _gain(entry),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def pretraining_table(found: dict[str, Any]) -> str:
    """What every mixture of objectives made of an encoder, over masked modelling alone."""
    lines = [
        "| task | objectives | steps | seconds | masked accuracy | mean | gain | onevec | gain |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in found["tasks"].values():
        for unit, targets in row["units"].items():
            for target, recipes in targets.items():
                about = unit if len(targets) == 1 else f"{unit}, {target}"
                for recipe, methods in recipes.items():
                    made = row["encoders"][recipe]
                    right = made.get("masked_accuracy")
                    cells = [
                        f"{made['steps']:,}",
                        f"{made['seconds']:,.0f}",
                        "" if right is None else f"{100 * right:.0f} %",
                    ]
                    for name in ("mean", "onevec"):
                        cells += [number(methods[name]["score"]), _gain(methods[name])]
                    lines.append(f"| {about} | {recipe} | {' | '.join(cells)} |")
                    about = ""
    return "\n".join(lines)


def _gain(row: dict[str, Any]) -> str:
    return interval(row if "gain" in row else None)
