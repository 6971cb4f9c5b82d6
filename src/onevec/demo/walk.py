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
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onevec.errors import MissingExtraError

if TYPE_CHECKING:
    from onevec.estimator import OneVec
    from onevec.tokens.store import TokenStore
    from onevec.use.embed import Embedded


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


@dataclass(frozen=True)
class _Part:
    """A part of the data, embedded: also as the mean's variants, and how long it took."""

    made: Embedded
    store: TokenStore
    methods: dict[str, np.ndarray]
    encoding: float
    fitting: float


def _embed(part: dict[str, list[str]], encoder: Path, out: Path, model: OneVec) -> _Part:
    """Embed proteins with a model, which is fitted to them if it is not fitted yet."""
    import pyarrow as pa

    from onevec.tokens.store import TokenStore
    from onevec.use.embed import embed
    from onevec.use.formats import read_vectors

    times = [time.perf_counter()]
    store = out.with_suffix("")
    made = embed(
        pa.table(part),
        encoder,
        out=out,
        model=model,
        store=store,
        say=lambda line: times.append(time.perf_counter()),  # once, when all is encoded
        column="sequence",
        id_column="uniprot",
        long="window",
    )
    times.append(time.perf_counter())
    tokens = TokenStore(store)
    vectors = made.model.transform_baselines(tokens) | {"onevec": read_vectors(out).vectors}
    return _Part(made, tokens, vectors, times[1] - times[0], times[2] - times[1])


def run_demo(
    report: str | Path | None, say: Callable[[str], None], random_state: int = 0
) -> dict[str, Any]:
    """Embed ``val``, fitted to without labels, and ``test``; score on ``test``; write the report.

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
        # What `onevec embed` does; the token vectors are kept for the variants of the mean.
        start = OneVec(random_state=random_state)
        first = _embed(val, encoder, Path(room) / "val.parquet", start)
        second = _embed(test, encoder, Path(room) / "test.parquet", first.made.model)
        model, stores = first.made.model, (first.store, second.store)
        tokens = sum(int(store.lengths.sum()) for store in stores)
        encoded = first.encoding + second.encoding
        say(
            f"Encode   {tokens / 1e6:.2f} M token vectors of {first.store.dim} dimensions "
            f"in {encoded:.0f} s"
        )
        columns = ", ".join(f"{p['last'] - p['first']} {p['name']}" for p in model.parts_)
        say(
            f"Fit      without labels in {first.fitting:.0f} s: {model.vector_.dim_out} "
            f"dimensions, side by side ({columns})"
        )
        vectors = {name: (memory, second.methods[name]) for name, memory in first.methods.items()}
        say("Score    kNN and 10-shot; the labels are used here only")
        table = evaluate(vectors, val["location"], test["location"])
        if report:
            from onevec.report.html import write
            from onevec.report.summarize import summarize

            summary = summarize(
                model,
                title="onevec demo: where in the cell is a protein?",
                lengths=first.store.lengths.numpy(),
                evaluation=table,
                maps={"mean": vectors["mean"][1], "onevec": vectors["onevec"][1]},
                labels=test["location"],
                facts={
                    "fitted on": f"{len(first.store)} proteins (val)",
                    "scored on": f"{len(second.store)} proteins (test)",
                    "encoder's masked accuracy": f"{100 * made['masked_accuracy']:.1f} %",
                    "seconds to encode": f"{encoded:.0f}",
                    "seconds to fit": f"{first.fitting:.0f}",
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
