"""Run what is missing, keep what is done: every result lies under .cache by its content hash.

A job is one producer with one seed on one column (a unit under an encoder). Its key is the hash
of the sequences and labels, the stored token vectors, the code that decides the result and the
settings, so a result is computed again exactly when one of them changed.

A whole run takes hours, so what it found also goes into git, one file per row under
benchmarks/results/kept: another machine goes on from there, and makes the tables without an
encoder or a data set that it lacks.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import subprocess
import time
import traceback
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from onevec.judge.outcomes import mean_resampled
from protocol import encoders, methods, tasks
from protocol.producer import Context, Producer, score

RESULTS = encoders.CACHE / "quality"  # one file per job
SHELF = encoders.ROOT / "benchmarks/results/kept"  # in git: one file per row
FORMAT = 2  # of the kept files; part of every key
_LEARNED = "-learned"
RESAMPLES = 500
PACKAGES = (
    *("onevec", "torch", "numpy", "scikit-learn", "transformers", "tokenizers"),
    *("sentence-transformers", "pytorch-lifestream", "torch-geometric", "rdkit"),
)
_COMMON = (  # decides every result, whatever the method
    *(f"src/onevec/judge/{name}.py" for name in ("probes", "outcomes", "logistic")),
    *("src/onevec/ragged.py", "src/onevec/segment.py"),
    "benchmarks/protocol/producer.py",
)
UNUSABLE = (  # a row or an encoder that cannot be had here
    encoders.WeakEncoderError,
    encoders.NotMadeError,
    tasks.MissingDataError,
    ImportError,
    OSError,
)


@dataclass(frozen=True)
class Settings:
    """What a run is told; part of every key where it changes a result."""

    data: Path
    quick: bool = False
    budget: float = 60.0

    def mark(self) -> str:
        return f"format={FORMAT} {RESAMPLES} quick={self.quick} budget={self.budget}"


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


def unit_mark(unit: tasks.Unit) -> str:
    """Hash of a unit's sequences, rows and labels."""
    digest = hashlib.sha256()
    for part in (unit.train, unit.test):
        digest.update(encoders.fingerprint(part).encode())
    for target in unit.targets:
        digest.update(f"{target.name} {target.kind}".encode())
        for array in (target.train, target.y_train, target.test, target.y_test):
            digest.update(
                array.astype("U64").tobytes() if array.dtype.kind == "U" else array.tobytes()
            )
    return digest.hexdigest()


def plan(
    rows: list[str], wanted: list[str], settings: Settings
) -> tuple[list[Job], list[tuple[str, str, str]]]:
    """Jobs of some rows and methods, and what cannot run: row, encoder, reason."""
    available = methods.producers()
    jobs, impossible = [], []
    for row in rows:
        producers = [available[name] for name in wanted if available[name].applies(row)]
        try:
            marked = [(unit, unit_mark(unit)) for unit in units(row, settings)]
        except UNUSABLE as error:
            impossible.append((row, "", str(error)))
            continue
        for encoder in tasks.ROWS[row].encoders:
            try:
                contents = [_content(row, unit, encoder, settings) for unit, _ in marked]
            except UNUSABLE as error:
                impossible.append((row, encoder, str(error)))
                continue
            for (unit, mark), content in zip(marked, contents, strict=True):
                base = f"{mark} {content} {settings.mark()}"
                jobs += [
                    Job(row, unit.id, encoder, producer.name, seed, _key(base, producer, seed))
                    for producer in producers
                    for seed in range(1 if settings.quick else producer.seeds(row))
                ]
    return jobs, impossible


def _content(row: str, unit: tasks.Unit, encoder: str, settings: Settings) -> str:
    """What the token vectors of a column are."""
    return _shelved(row, unit.id, encoder, settings) or encoders.content(
        unit, encoder, settings.data
    )


def _shelved(row: str, unit: str, encoder: str, settings: Settings) -> str | None:
    """What they were on the machine whose results are on the shelf, if of the same encoder.

    Another processor rounds otherwise, and an encoder that is not here cannot be asked.
    """
    column = f"{unit} {encoder}"
    found = shelf(row).columns.get(column) or shelf(f"{row}{_LEARNED}").columns.get(column)
    if found is None or settings.quick:
        return None
    with contextlib.suppress(encoders.NotMadeError, tasks.MissingDataError):
        if _made_by(encoder, settings) != found["made_by"]:
            return None
    return found["content"]


def _made_by(encoder: str, settings: Settings) -> str:
    if encoder == "frames":
        return encoder
    return f"{encoders.mark(encoder, settings.data)} {encoders.code_hash(encoders.STORE_CODE)}"


def _key(base: str, producer: Producer, seed: int) -> str:
    code = encoders.code_hash(producer.code + _COMMON)
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
            if result.known == {}:  # what is said of methods, not a method
                rows.append({"target": None, "seconds": result.seconds, "note": result.note})
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
    meta = {"job": job.__dict__, "error": error, "rows": rows, "state": state()}
    meta["seconds"] = round(seconds, 1)  # fit and probes
    RESULTS.mkdir(parents=True, exist_ok=True)
    part = job.path.with_suffix(f".{os.getpid()}.npz")
    np.savez_compressed(part, meta=np.array(json.dumps(meta)), **arrays)
    part.replace(job.path)
    return seconds, error


def fill_stores(rows: list[str], settings: Settings, workers: int) -> None:
    """Encode what is not stored yet; what fails here fails, and is told, in `plan`."""
    columns = {}  # each store once: two columns of one encoder share theirs
    for row in rows:
        with contextlib.suppress(*UNUSABLE):
            for unit in units(row, settings):
                for encoder in tasks.ROWS[row].encoders:
                    if _shelved(row, unit.id, encoder, settings) is None:
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


@functools.cache
def state() -> dict[str, Any]:
    """Commit, machine and versions under which a result is made."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=encoders.ROOT, capture_output=True, text=True, check=False
        ).stdout.strip()

    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "src", "benchmarks/protocol")),
        "machine": f"{platform.platform()}, {os.cpu_count()} cores",
        "versions": versions,
    }


def load(job: Job) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """A kept result: what `do` wrote, here or on the shelf; None if there is none."""
    if job.path.is_file():
        with np.load(job.path) as held:
            arrays = {name: held[name] for name in held.files if name != "meta"}
            return json.loads(str(held["meta"])), arrays
    return shelf(shelf_name(job)).jobs.get(job.key)


# --- what is kept in git ------------------------------------------------------------------------


@dataclass
class Shelf:
    """Kept results of a row by key, and what the token vectors of its columns were."""

    columns: dict[str, dict[str, str]] = field(default_factory=dict)
    jobs: dict[str, tuple[dict[str, Any], dict[str, np.ndarray]]] = field(default_factory=dict)


def shelf_name(job: Job) -> str:
    """Learned heads, which have a table of their own, lie apart."""
    return f"{job.row}{_LEARNED if job.producer in _learned() else ''}"


@functools.cache  # asked for every job, and making the table takes a while
def _learned() -> frozenset[str]:
    known = methods.producers().items()
    return frozenset(name for name, each in known if each.family == "learned")


@functools.lru_cache(maxsize=2 * len(tasks.ROWS))
def shelf(name: str) -> Shelf:
    """Read the results of a row that are in git."""
    path = SHELF / f"{name}.npz"
    if not path.is_file():
        return Shelf()
    with np.load(path) as held:
        about, drawn = json.loads(held["about"].tobytes()), held["drawn"] / np.float32(100)
    found = Shelf(about["columns"])
    for key, meta in about["jobs"].items():
        places = meta.pop("places")
        found.jobs[key] = meta, {name: drawn[at] for name, at in places.items()}
    return found


def shelve(jobs: list[Job], settings: Settings) -> None:
    """Put every kept result of these jobs into git's folder, draws to a hundredth of a point."""
    by_name: dict[str, list[Job]] = {}
    for job in jobs:
        by_name.setdefault(shelf_name(job), []).append(job)
    SHELF.mkdir(parents=True, exist_ok=True)
    for name, its in by_name.items():
        row = its[0].row
        known = {unit.id: unit for unit in units(row, settings)}
        columns, kept, drawn = dict(shelf(name).columns), {}, []
        for job in its:
            found = load(job)
            if found is None:
                continue
            places = {}
            for place, draws in found[1].items():
                places[place] = len(drawn)
                drawn.append(np.round(draws * 100).astype(np.int16))
            kept[job.key] = found[0] | {"places": places}
            with contextlib.suppress(encoders.NotMadeError, tasks.MissingDataError):
                columns[f"{job.unit} {job.encoder}"] = {
                    "made_by": _made_by(job.encoder, settings),
                    "content": _content(row, known[job.unit], job.encoder, settings),
                }
        if not kept:
            continue
        part = SHELF / f".{name}.npz"
        about = json.dumps({"columns": columns, "jobs": kept}).encode()
        np.savez_compressed(part, about=np.frombuffer(about, np.uint8), drawn=np.array(drawn))
        part.replace(SHELF / f"{name}.npz")
