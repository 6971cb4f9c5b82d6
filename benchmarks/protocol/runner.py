"""Run what is missing: every result is cached under .cache, outside git, by what decides it.

A job is one producer with one seed on one column (a unit under an encoder). Its key is the hash of
the sequences and labels, the stored token vectors, the settings, the versions of the packages, and
the code of the producer and of the probes with all that they import (`protocol.code_key`). So a
result is computed again exactly when one of these changed.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import time
import traceback
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from onevec.probes.outcomes import mean_resampled
from protocol import encoders, methods, tasks
from protocol.code_key import code_key
from protocol.made_by import versions
from protocol.producer import Context, Producer, score

RESULTS = encoders.CACHE / "quality"  # one file per job
FORMAT = 3  # of the cached files; part of every key
RESAMPLES = 500
UNUSABLE = (  # a row or an encoder that cannot be had here
    encoders.WeakEncoderError,
    encoders.NotMadeError,
    tasks.MissingDataError,
    ImportError,
    OSError,
)


@dataclass(frozen=True)
class Settings:
    """Settings of a run; ``budget`` are the seconds of one core that a peer trains."""

    data: Path
    quick: bool = False
    budget: float = 60.0


@dataclass(frozen=True)
class Job:
    """One producer, one seed, one column."""

    row: str
    unit: str
    encoder: str
    producer: str
    seed: int
    key: str

    @property
    def path(self) -> Path:
        return RESULTS / f"{self.key}.npz"

    @property
    def column(self) -> tuple[str, str, str]:
        return self.row, self.unit, self.encoder


# --- what there is to do ------------------------------------------------------------------------


@functools.lru_cache(maxsize=2)
def units(row: str, settings: Settings) -> list[tasks.Unit]:
    found = tasks.units(row, settings.data)
    return [tasks.shrink(unit) for unit in found] if settings.quick else found


def plan(
    rows: list[str], wanted: list[str], settings: Settings
) -> tuple[list[Job], list[tuple[str, str, str]]]:
    """Jobs of some rows and methods, and what cannot run: row, encoder, reason."""
    available = methods.producers()
    jobs, impossible = [], []
    for row in rows:
        producers = [available[name] for name in wanted if available[name].applies(row)]
        try:
            marked = [(unit, encoders.unit_mark(unit)) for unit in units(row, settings)]
        except UNUSABLE as error:
            impossible.append((row, "", str(error)))
            continue
        for encoder in tasks.ROWS[row].encoders:
            try:
                contents = [encoders.content(unit, encoder, settings.data) for unit, _ in marked]
            except UNUSABLE as error:
                impossible.append((row, encoder, str(error)))
                continue
            for (unit, mark), content in zip(marked, contents, strict=True):
                base = f"{mark} {content} {settings.budget} {FORMAT} {RESAMPLES} {versions()}"
                jobs += [
                    Job(row, unit.id, encoder, producer.name, seed, _key(base, producer, seed))
                    for producer in producers
                    for seed in range(1 if settings.quick else producer.seeds(row))
                ]
    return jobs, impossible


def _key(base: str, producer: Producer, seed: int) -> str:
    code = code_key(*producer.modules)
    return hashlib.sha256(f"{base} {producer.name} {seed} {code}".encode()).hexdigest()[:24]


# --- doing it -----------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _column(row: str, unit_id: str, encoder: str, settings: Settings) -> Context:
    unit = next(unit for unit in units(row, settings) if unit.id == unit_id)
    train, test = encoders.tokens(unit, encoder, settings.data)
    return Context(unit, encoder, train, test, settings.budget)


def do(job: Job, settings: Settings) -> tuple[float, str | None]:
    """Run a job and keep its results; seconds and the error, if there was one."""
    began = time.perf_counter()
    error = None
    rows: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    producer = methods.producers()[job.producer]
    try:
        context = _column(*job.column, settings)
        unit = context.unit
        kinds = {target.name: target.kind for target in unit.targets}
        for result in producer.run(context, job.seed):
            for target, probes in score(result, unit).items():
                place = f"r{len(rows)}"
                # One seed per unit: paired between methods and encoders, not between units.
                drawn = mean_resampled(probes, RESAMPLES, zlib.crc32(unit.id.encode()))
                arrays[place] = drawn.astype(np.float32)
                rows.append(
                    {
                        "method": result.name,
                        "family": producer.family,
                        "target": target,
                        "kind": kinds[target],
                        "counted": unit.counted,
                        "dim": result.dim,
                        "seconds": round(result.seconds, 3),
                        "probes": {name: round(p.score(), 3) for name, p in probes.items()},
                        **({"note": result.note} if result.note else {}),
                    }
                )
    except Exception as problem:  # a peer that cannot run is reported, not left out
        error = f"{type(problem).__name__}: {problem}".splitlines()[0]
        if os.environ.get("ONEVEC_BENCH_TRACE"):
            traceback.print_exc()
    seconds = time.perf_counter() - began
    meta = {"job": job.__dict__, "error": error, "rows": rows}
    meta["seconds"] = round(seconds, 1)  # fit and probes
    RESULTS.mkdir(parents=True, exist_ok=True)
    part = job.path.with_suffix(f".{os.getpid()}.npz")
    np.savez_compressed(part, meta=np.array(json.dumps(meta)), **arrays)
    part.replace(job.path)
    return seconds, error


def fill_stores(rows: list[str], settings: Settings, workers: int) -> None:
    """Encode what is not stored yet; what fails here is reported by `plan`."""
    columns = {}  # each store once: two columns of one encoder share theirs
    for row in rows:
        with contextlib.suppress(*UNUSABLE):
            for unit in units(row, settings):
                for encoder in tasks.ROWS[row].encoders:
                    columns[unit.id, encoders.store_name(encoder)] = row, unit.id, encoder

    def tell(done: int, name: tuple[str, str]) -> None:
        print(f"tokens [{done}/{len(columns)}] {' '.join(name)}", flush=True)

    if workers == 1:
        for done, (name, column) in enumerate(columns.items(), 1):
            _encode(column, settings)
            tell(done, name)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        waiting = {pool.submit(_encode, c, settings): name for name, c in columns.items()}
        for done, ready in enumerate(as_completed(waiting), 1):
            ready.result()
            tell(done, waiting[ready])


def run(
    jobs: list[Job], settings: Settings, workers: int
) -> Iterator[tuple[Job, float, str | None]]:
    """Run jobs in processes of one thread each, or here for one worker; yield them as they end.

    Threads of several processes would wait for each other, and time is counted per core.
    """
    if workers == 1:
        for job in jobs:
            with one_thread():
                yield job, *do(job, settings)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        # Jobs of a column follow each other, so that a worker has its tokens at hand.
        waiting = {pool.submit(_do_alone, job, settings): job for job in jobs}
        for done in as_completed(waiting):
            yield waiting[done], *done.result()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Keep numerical libraries to one thread for a while."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)


def _do_alone(job: Job, settings: Settings) -> tuple[float, str | None]:
    with one_thread():
        return do(job, settings)


def _encode(column: tuple[str, str, str], settings: Settings) -> None:
    with one_thread(), contextlib.suppress(*UNUSABLE):
        _column(*column, settings)


def settled(job: Job) -> bool:
    """Whether a result is kept that need not be tried again: one, or a peer's own refusal."""
    found = load(job)
    return found is not None and (found[0]["error"] or "PeerError").startswith("PeerError")


def load(job: Job) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """A kept result: what `do` wrote; None if there is none."""
    if not job.path.is_file():
        return None
    with np.load(job.path) as held:
        arrays = {name: held[name] for name in held.files if name != "meta"}
        return json.loads(str(held["meta"])), arrays
