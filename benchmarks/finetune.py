"""Tuning the encoder against tuning the aggregation, and against sentence-transformers' recipes.

    python benchmarks/finetune.py [--data DIR] [--only trec] [--steps 200] [--part rows,peers]

Rows: frozen + mean, frozen + onevec, fine-tuned + mean, fine-tuned + onevec, with the seconds of
one core that each takes to fit (with the evaluations that choose a state), scored by the probes of
quality.py. Where `finetune` keeps the start, the last state, which it refused, stands beside them.
Peers: SimCSE and TSDAE by sentence-transformers' own trainer and losses, from the same weights,
for the same steps, batches, rate and lengths as ours, in turns; both are then read by
sentence-transformers. Text starts from all-MiniLM-L6-v2 cut after its third layer. One thread;
labels only score. Every part that is done is cached under .cache, so that a run which was stopped
goes on, and written to benchmarks/results/finetune.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))

from onevec import OneVec, encode
from onevec.encoders.finetune import finetune
from onevec.files import appears_whole
from onevec.probes.outcomes import Outcome, mean_score, paired_gain
from protocol import encoders, peers, tasks
from protocol.code_key import code_key
from protocol.made_by import line, made_by
from protocol.producer import Result, pooled, score

OUT = Path(__file__).parent / "results/finetune.json"
KEPT = encoders.CACHE / "finetune/results"
ROWS: dict[str, tuple[str, dict[str, Any]]] = {  # task: encoder and settings
    "banking77": ("minilm-3", {}),
    "trec": ("minilm-3", {}),
    "stackoverflow20": ("minilm-3", {}),
    "ncrna13": ("ncrna13", {"learning_rate": 3e-4}),
    "chess": ("chess", {"learning_rate": 3e-4}),
    "omniglot": ("omniglot", {"learning_rate": 3e-4}),
}
PEERS: dict[str, tuple[str, dict[str, Any]]] = {  # sentence-transformers' settings for both
    "simcse": ("simcse", {"batch": 128, "learning_rate": 5e-5, "max_length": 32}),
    "tsdae": ("denoising", {"batch": 8, "learning_rate": 3e-5, "max_length": 75}),
}
Table = dict[str, tuple[dict[str, Outcome], float]]  # of rows: outcomes, and seconds of one core


def start_of(name: str) -> Path:
    """Folder of the encoder that a task starts from."""
    if name != "minilm-3":
        encoders.manifest(name)  # one sentence where it is not made
        return encoders.folder(name)
    path = encoders.CACHE / "finetune" / name
    if not path.is_dir():
        with peers._quiet(), appears_whole(path) as part:
            peers._minilm(3).save_pretrained(str(part), create_model_card=False)
    return path


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns and its seconds of one core: a busy machine does not matter."""
    began = time.process_time()
    return work(), time.process_time() - began


def outcomes(unit: tasks.Unit, train: np.ndarray, test: np.ndarray) -> dict[str, Outcome]:
    """Every probe of every target, side by side."""
    found = score(Result("", train, test), unit)
    return {f"{target}/{probe}": o for target, each in found.items() for probe, o in each.items()}


def aggregated(unit: tasks.Unit, encoder: Path) -> Table:
    """Mean and onevec of an encoder as it is, with seconds."""
    train, spent = timed(lambda: encode(unit.train, encoder, long="window", progress=False))
    test = encode(unit.test, encoder, long="window", progress=False)
    means = [pooled("mean", part) for part in (train, test)]
    model, fitted = timed(lambda: OneVec().fit(train))
    vectors = [model.transform(part) for part in (train, test)]
    return {
        "mean": (outcomes(unit, *means), spent),
        "onevec": (outcomes(unit, *vectors), spent + fitted),
    }


def tuned(
    unit: tasks.Unit, start: Path, options: dict[str, Any], frozen: Table
) -> tuple[dict[str, Any], Table]:
    """Fine-tune an encoder: its manifest and its rows."""
    with tempfile.TemporaryDirectory() as room:
        out = Path(room) / "tuned"
        made = finetune(start, unit.train, out, threads=1, **options)
        # Where the start is kept, the tuned encoder is the frozen one.
        found = aggregated(unit, out) if made["best_step"] else frozen
    seconds = made["training_seconds"] + made["selection_seconds"]
    return made, {name: (o, spent + seconds) for name, (o, spent) in found.items()}


def rows(unit: tasks.Unit, name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The four rows of a task; where the start is kept, also those of the last state."""
    start = start_of(name)
    frozen = aggregated(unit, start)
    made, kept = tuned(unit, start, options, frozen)
    stages = {"frozen": frozen, "fine-tuned": kept}
    if not made["best_step"]:
        again, last = tuned(unit, start, options | {"keep": "last", "compare": False}, frozen)
        if again["best_step"] == again["steps"]:  # no alarm stopped it
            stages["last state"] = last
    found = {f"{stage} + {k}": row for stage, each in stages.items() for k, row in each.items()}
    base = found["frozen + mean"][0]
    table = {
        row: {"score": round(mean_score(o), 2), "seconds": round(s, 1)} | _gain(o, base)
        for row, (o, s) in found.items()
    }
    return {
        "encoder": name,
        "settings": options,
        "steps": made["steps"],
        "best step": made["best_step"],
        "verdict": made["verdict"]["sentence"],
        "better without labels": made["verdict"]["better"],
        "rows": table,
    }


def _gain(ours: dict[str, Outcome], base: dict[str, Outcome]) -> dict[str, Any]:
    gain = paired_gain(ours, base)
    low, high = gain["interval"]
    return {"gain": round(gain["gain"], 2), "interval": [round(low, 2), round(high, 2)]}


# --- side by side with sentence-transformers ------------------------------------------------------


def train_theirs(name: str, start: Path, texts: list[str], steps: int, precision: str) -> Any:
    """A recipe of sentence-transformers by its own trainer: model, and seconds of training."""
    import datasets
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer import losses

    settings = PEERS[name][1]
    model = SentenceTransformer(str(start), device="cpu", local_files_only=True)
    whole, model.max_seq_length = model.max_seq_length, settings["max_length"]
    rng = np.random.default_rng(0)
    if name == "simcse":
        loss: Any = losses.MultipleNegativesRankingLoss(model)
        first = texts
    else:
        loss = losses.DenoisingAutoEncoderLoss(model, tie_encoder_decoder=True)
        first = [peers._delete(text, rng) for text in texts]
    data = datasets.Dataset.from_dict({"first": first, "second": texts})
    with tempfile.TemporaryDirectory() as room:
        arguments = SentenceTransformerTrainingArguments(
            room,
            max_steps=steps,
            per_device_train_batch_size=settings["batch"],
            learning_rate=settings["learning_rate"],
            bf16=precision == "bf16",
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            seed=0,
        )
        trainer = SentenceTransformerTrainer(
            model=model, args=arguments, train_dataset=data, loss=loss
        )
        _, seconds = timed(trainer.train)
    model.max_seq_length = whole
    return model.eval(), seconds


def train_ours(name: str, start: Path, texts: list[str], precision: str, args: Any) -> Any:
    """The same with ours: the model as sentence-transformers opens it, and the manifest.

    With ``--keep last`` nothing selects a state: the last one is compared with their last one.
    With ``--keep best`` our label-free early stop does, as it does for users.
    """
    from sentence_transformers import SentenceTransformer

    objective, settings = PEERS[name]
    with tempfile.TemporaryDirectory() as room:
        out = Path(room) / "ours"
        made = finetune(
            start, texts, out, objective=objective, steps=args.peer_steps,
            evaluations=1 if args.keep == "last" else 4, keep=args.keep, compare=False,
            precision=precision, threads=1, held_out=0.01, **settings,
        )  # fmt: skip
        model = SentenceTransformer(str(out), device="cpu", local_files_only=True)
    return model.eval(), made


def side_by_side(unit: tasks.Unit, name: str, precision: str, args: Any) -> dict[str, Any]:
    """One recipe, theirs and ours in turns."""
    start, steps = start_of("minilm-3"), args.peer_steps
    texts = peers._with_words(unit.train)
    spent: dict[str, list[float]] = {"theirs": [], "ours": []}
    for _ in range(args.rounds):
        with peers._seeded(0), peers._quiet():
            theirs, seconds = train_theirs(name, start, texts, steps, precision)
            spent["theirs"].append(seconds)
            ours, made = train_ours(name, start, texts, precision, args)
            spent["ours"].append(made["training_seconds"])
        print(name, precision, spent, flush=True)
    scored = {
        who: outcomes(unit, *(_encode(model, part) for part in (unit.train, unit.test)))
        for who, model in (("theirs", theirs), ("ours", ours))
    }
    return {
        "steps": steps,
        "seconds": {who: [round(s, 1) for s in each] for who, each in spent.items()},
        "time ratio": round(min(spent["ours"]) / min(spent["theirs"]), 3),
        "best step": made["best_step"],
        "score": {who: round(mean_score(o), 2) for who, o in scored.items()},
        **_gain(scored["ours"], scored["theirs"]),
    }


def _encode(model: Any, texts: list[str]) -> np.ndarray:
    return peers.TextEncoder(model, 0).encode(texts)


def cached(
    key: tuple[Any, ...], encoder: str, work: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Do a part, or read what came of it: by data, settings, code and encoder."""
    key = (*key, code_key("finetune"), encoders.hash_folder(start_of(encoder)))
    path = KEPT / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.json"
    if not path.is_file():
        found = work() | {"made by": line(made_by(seeds=[0], threads=1))}
        path.parent.mkdir(parents=True, exist_ok=True)
        with appears_whole(path) as part:
            part.write_text(json.dumps(found))
    return json.loads(path.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of the data sets (else $ONEVEC_DATA)")
    parser.add_argument("--only", default="", help="tasks, with commas between")
    parser.add_argument("--part", default="rows,peers")
    parser.add_argument("--steps", type=int, help="of rows; default as finetune's")
    parser.add_argument("--peer-steps", type=int, default=60)
    parser.add_argument("--recipes", default=",".join(PEERS))
    parser.add_argument("--precision", default="fp32,bf16")
    parser.add_argument("--keep", default="last", choices=("last", "best"))
    parser.add_argument("--rounds", type=int, default=2, help="turns of each peer")
    parser.add_argument("--sizes", type=int, nargs=2, default=(0, 0), help="most train, most test")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    data = tasks.data_folder(args.data)
    torch.set_num_threads(1)
    names = args.only.split(",") if args.only else list(ROWS)
    result = json.loads(args.out.read_text()) if args.out.is_file() else {"rows": {}, "peers": {}}
    for name in names:
        encoder, options = ROWS[name]
        (unit, *_) = tasks.units(name, Path(data))
        unit = tasks.shrink(unit, *args.sizes) if any(args.sizes) else unit
        options = options | ({"steps": args.steps} if args.steps else {})
        mark = encoders.unit_mark(unit)
        todo: dict[tuple[str, str], Callable[[], dict[str, Any]]] = {}
        settings = {"rows": (mark, options), "peers": (mark, args.peer_steps, args.rounds)}
        if "rows" in args.part:
            todo["rows", name] = partial(rows, unit, encoder, options)
        if "peers" in args.part and encoder == "minilm-3":
            for recipe in args.recipes.split(","):
                for precision in args.precision.split(","):
                    place = "peers", f"{name}, {recipe}, {precision}, {args.keep}"
                    todo[place] = partial(side_by_side, unit, recipe, precision, args)
        for (part, place), work in todo.items():
            result[part][place] = cached((place, *settings[part]), encoder, work)
            print(place, json.dumps(result[part][place], indent=1), flush=True)
            args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
