"""The walk behind ``onevec demo``: protein localisation with a frozen encoder that ships."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import io
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from onevec.errors import MissingExtraError


def load_proteins() -> dict[str, dict[str, list[str]]]:
    """Read the shipped data: for "val" and "test" the columns uniprot, location, sequence."""
    raw = (files("onevec.demo") / "data" / "deeploc.csv.gz").read_bytes()
    text = io.StringIO(gzip.decompress(raw).decode())
    parts: dict[str, dict[str, list[str]]] = {}
    for row in csv.DictReader(text):
        columns = parts.setdefault(row["split"], {"uniprot": [], "location": [], "sequence": []})
        for name, column in columns.items():
            column.append(row[name])
    return parts


@contextmanager
def encoder_folder() -> Iterator[Path]:
    """Give the path of the shipped encoder, also where the package lies in an archive."""
    with as_file(files("onevec.demo") / "encoder") as folder:
        yield folder


def run_demo(
    report: str | Path | None, say: Callable[[str], None], random_state: int = 0
) -> dict[str, Any]:
    """Encode, fit on ``val`` without labels, score on ``test``, write the report.

    Parameters
    ----------
    report : path or None
        Where the HTML report goes; None writes none.
    say : callable
        Takes the lines that tell a person what happens.
    """
    for package, extra in (("transformers", "hf"), ("matplotlib", "report")):
        if importlib.util.find_spec(package) is None and (extra == "hf" or report):
            raise MissingExtraError(package, "hf,report")
    from onevec.estimator import OneVec
    from onevec.probes.probes import evaluate
    from onevec.tokens.encode import encode
    from onevec.tokens.store import TokenStore
    from onevec.use.vectors import every_method

    if report:
        from onevec.report.html import check_report

        check_report(report)
    began = time.perf_counter()
    parts = load_proteins()
    val, test = parts["val"], parts["test"]
    say(
        f"Data     {len(val['sequence']):,} proteins to fit on (val), "
        f"{len(test['sequence']):,} to score on (test)"
    )
    say(
        f"         for example {val['uniprot'][0]}: {val['sequence'][0][:48]}… "
        f"({len(val['sequence'][0])} residues)"
    )
    with tempfile.TemporaryDirectory() as room, encoder_folder() as encoder:
        made = json.loads((encoder / "pretrain.json").read_text())
        say(
            f"Encoder  {made['parameters'] / 1e6:.1f} M parameters, frozen; masked accuracy "
            f"{100 * made['masked_accuracy']:.1f} % (commonest token "
            f"{100 * made['unigram_accuracy']:.1f} %); it never saw test"
        )
        stores: dict[str, TokenStore] = {}
        for name, part in parts.items():
            store = encode(
                part["sequence"],
                encoder,
                out=Path(room) / name,
                long="window",
                ids=part["uniprot"],
                metadata={"location": part["location"]},
            )
            assert isinstance(store, TokenStore)
            stores[name] = store
        tokens = sum(int(store.lengths.sum()) for store in stores.values())
        encoded = time.perf_counter() - began
        say(
            f"Encode   {tokens / 1e6:.2f} M token vectors of {stores['val'].dim} dimensions "
            f"in {encoded:.0f} s"
        )
        start = time.perf_counter()
        model = OneVec(random_state=random_state).fit(stores["val"])
        fitted = time.perf_counter() - start
        columns = ", ".join(f"{p['last'] - p['first']} {p['name']}" for p in model.parts_)
        say(
            f"Fit      without labels in {fitted:.0f} s: {model.vector_.dim_out} dimensions, "
            f"side by side ({columns})"
        )
        scored = every_method(model, stores["test"])
        vectors = {
            name: (memory, scored[name])
            for name, memory in every_method(model, stores["val"]).items()
        }
        say("Score    kNN and 10-shot; the labels are used here only")
        table = evaluate(vectors, val["location"], test["location"])
        if report:
            from onevec.report.html import write
            from onevec.report.summarize import summarize

            summary = summarize(
                model,
                title="onevec demo: where in the cell is a protein?",
                lengths=stores["val"].lengths.numpy(),
                evaluation=table,
                maps={"mean": vectors["mean"][1], "onevec": vectors["onevec"][1]},
                labels=test["location"],
                facts={
                    "fitted on": f"{len(stores['val'])} proteins (val)",
                    "scored on": f"{len(stores['test'])} proteins (test)",
                    "encoder's masked accuracy": f"{100 * made['masked_accuracy']:.1f} %",
                    "seconds to encode": f"{encoded:.0f}",
                    "seconds to fit": f"{fitted:.0f}",
                },
            )
            write(summary, report)
    return {
        "dim": model.vector_.dim_out,
        "parts": model.parts_,
        **table,
        "verdict": model.verdict_.as_dict(),
        "masked_accuracy": made["masked_accuracy"],
        "unigram_accuracy": made["unigram_accuracy"],
        "seconds": round(time.perf_counter() - began, 1),
    }
