"""From raw sequences to a file of vectors: encode a sample, fit to it, embed everything."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from onevec import __version__
from onevec.errors import InputError, OnevecError
from onevec.estimator import OneVec, is_model, load
from onevec.files import appears_whole, check_target
from onevec.tokens.encoding import Encoding, Known
from onevec.tokens.layout import is_store
from onevec.tokens.store import TokenStore
from onevec.use.formats import check_file, save_vectors
from onevec.use.parts import Parts
from onevec.use.vectors import model_fingerprint, write_vectors

_RUN, _MODEL = "run.json", "model"  # in the folder of a run


@dataclass(frozen=True)
class Embedded:
    """What `embed` made, and where it stands.

    Attributes
    ----------
    out : Path
        The file of vectors.
    shape : tuple of int
        Of the vectors, (sequences, dim).
    model : OneVec
        Fitted.
    model_path : Path or None
        Where the model was saved; None where a fitted one was applied.
    report : Path or None
        The report of the fit; None where nothing was fitted, or the extra ``report`` is missing.
    sample : int or None
        How many sequences the model was fitted to; None where nothing was fitted.
    """

    out: Path
    shape: tuple[int, int]
    model: OneVec
    model_path: Path | None = None
    report: Path | None = None
    sample: int | None = None


def embed(
    sequences: Any,
    encoder: Any = None,
    *,
    out: str | Path,
    model: OneVec | str | Path | None = None,
    model_out: str | Path | None = None,
    report: str | Path | None = None,
    store: str | Path | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda line: None,
    **encoding: Any,
) -> Embedded:
    """Turn raw sequences into a file of vectors; without a fitted model, fit one on the way.

    A random sample, of as many sequences as the model's ``effort`` looks at, is encoded and fitted
    to, without labels. Then all sequences go through encoder and model chunk by chunk, those of
    the sample without being encoded again. Memory does not grow with their number.

    Parameters
    ----------
    sequences : as of `onevec.encode`
        Raw sequences, arrays, or a token store. Of an iterator the first sequences are the sample.
    encoder : as of `onevec.encode`, optional
        By default that of the model.
    out : path
        File of the vectors: .parquet, .arrow, .safetensors or .npy.
    model : OneVec or path, optional
        A fitted one, or its folder, is applied. One that is not fitted says how to fit.
    model_out : path, optional
        Folder of the fitted model; ``NAME-model`` beside ``NAME.parquet`` by default.
    report : path, optional
        HTML file; ``NAME-report.html`` by default.
    store : path, optional
        Folder of a token store to make and keep. By default no token vector is kept.
    overwrite : bool
        Replace vectors and model that stand there.
    say : callable
        Takes the lines that tell a person what happens.
    **encoding
        Further arguments of `onevec.encode`: ``column``, ``max_length``, ``batch_tokens`` ...

    Returns
    -------
    Embedded

    Raises
    ------
    InputError
        For input that breaks a rule, or a place that is taken.
    StoreError
        If the encoder is not the model's, or parts of a killed run are of other sequences.

    Notes
    -----
    After a kill the same call goes on: parts of the result are kept in ``OUT.parts`` and joined
    at the end. At most one part, of some thousand sequences, is computed again.

    Examples
    --------
    ::

        made = embed("proteins.fasta", "my-encoder", out="vectors.parquet")
        print(made.model.verdict_.sentence)
        embed("more.fasta", out="more.parquet", model="vectors-model")
    """
    out = check_file(Path(out), overwrite)
    told = load(model) if isinstance(model, str | Path) else OneVec() if model is None else model
    fits = not hasattr(told, "vector_")
    if fits:
        changed = {} if encoder is None else {"encoder": encoder}
        told = OneVec(**{**told.get_params(deep=False), **changed})
    elif model_out or report:
        raise InputError(
            f"got {'model_out' if model_out else 'report'} with a fitted model: nothing is fitted; "
            "leave it out"
        )
    if encoding.get("dtype") == "int8" and store is None:
        raise InputError('got dtype="int8": it needs a token store; pass store=... (--store)')
    places = _Places.beside(out, model_out, report, fits=fits)
    if isinstance(sequences, TokenStore) or _is_store(sequences):
        if encoder is not None or encoding or store is not None:
            raise InputError(
                f"got the token store {sequences}, which is encoded already: leave encoder, its "
                "options and store out"
            )
        places.check(overwrite)
        tokens = sequences if isinstance(sequences, TokenStore) else TokenStore(sequences)
        return _of_store(tokens, told, places, fits=fits, overwrite=overwrite)
    if store is not None:
        places.check(overwrite)
        tokens = _kept(sequences, encoder, Path(store), told, encoding)
        say(f"Store    {store}: {len(tokens):,} sequences, {tokens.price}")
        return _of_store(tokens, told, places, fits=fits, overwrite=overwrite)
    given: dict[str, Any] = {"fits": fits, "overwrite": overwrite, "say": say, "encoding": encoding}
    return _streamed(sequences, encoder, told, places, **given)


@dataclass(frozen=True)
class _Places:
    """Where the results go."""

    out: Path
    parts: Path
    model: Path | None = None
    report: Path | None = None

    @classmethod
    def beside(cls, out: Path, model: Any, report: Any, *, fits: bool) -> _Places:
        parts = out.with_name(f"{out.name}.parts")
        if not fits:
            return cls(out, parts)
        model = Path(model) if model else out.with_name(f"{out.stem}-model")
        has = all(importlib.util.find_spec(name) for name in ("jinja2", "matplotlib"))
        usual = out.with_name(f"{out.stem}-report.html") if has else None
        return cls(out, parts, model, Path(report) if report else usual)

    def check(self, overwrite: bool) -> None:
        """Refuse places that are taken, before any work."""
        if self.model is not None:
            check_target(self.model, overwrite, what="onevec model", ours=is_model)
        if self.report is not None:
            from onevec.report.html import check_report

            check_report(self.report)


@dataclass(frozen=True)
class _Run:
    """The folder of a run that may be killed: what it does, the sample, the model, the parts."""

    folder: Path
    resumed: bool

    @classmethod
    def open(cls, folder: Path, facts: dict[str, Any], overwrite: bool) -> _Run:
        """Make the folder, or find what a killed run of the same facts left in it."""
        before = _read_facts(folder)
        if before == facts:
            return cls(folder, True)
        if before is not None and not overwrite:
            name = next(n for n in {**facts, **before} if facts.get(n) != before.get(n))
            raise InputError(
                f"{folder} holds parts of a run that was stopped, whose {name} is "
                f"{before.get(name)!r} and not {facts.get(name)!r}: run the same command again, "
                "remove that folder, or pass overwrite=True (--overwrite)"
            )
        if before is not None:
            shutil.rmtree(folder)
        elif folder.exists():
            raise InputError(f"{folder} exists and is not of onevec: choose another name for out")
        folder.mkdir(parents=True)
        with appears_whole(folder / _RUN) as file:
            file.write_text(json.dumps(facts, indent=1) + "\n")
        return cls(folder, False)

    @property
    def sample(self) -> Path:
        """Token store of the sample."""
        return self.folder / "sample"

    @property
    def model(self) -> Path:
        """The model that was fitted to it."""
        return self.folder / _MODEL


def _read_facts(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / _RUN).read_text())
    except (OSError, ValueError):
        return None


def _facts(sequences: Any, encoder: Any, model: OneVec, encoding: dict[str, Any]) -> dict[str, Any]:
    """Say what a run does, in words that JSON holds; the sequences are checked part by part."""
    is_place = isinstance(sequences, str | Path)
    options = {n: v for n, v in encoding.items() if n not in ("ids", "metadata", "progress")}
    facts: dict[str, Any] = {
        "onevec": __version__,
        "sequences": str(sequences) if is_place else type(sequences).__name__,
        "encoder": str(encoder) if isinstance(encoder, str | Path) else type(encoder).__name__,
        "options": {name: str(value) for name, value in sorted(options.items())},
    }
    if hasattr(model, "vector_"):
        return facts | {"model": model_fingerprint(model)}
    given = {n: v for n, v in model.get_params(deep=False).items() if n != "encoder"}
    return facts | {"fit": {name: str(value) for name, value in sorted(given.items())}}


def _is_store(sequences: Any) -> bool:
    return isinstance(sequences, str | Path) and is_store(Path(sequences))


def _kept(
    sequences: Any, encoder: Any, place: Path, model: OneVec, encoding: dict[str, Any]
) -> TokenStore:
    """Encode everything into a store that stays; one that a killed run left is gone on with."""
    if hasattr(model, "vector_"):
        opened = model.open(sequences, encoder, **encoding)
    else:
        opened = model.open_to_fit(sequences, **encoding)
    if not is_store(place):
        check_target(place, False, what="token store")
    tokens = opened.write(place, resume=is_store(place))
    opened.tell()
    return tokens


def _of_store(
    tokens: TokenStore, model: OneVec, places: _Places, *, fits: bool, overwrite: bool
) -> Embedded:
    """Fit to a store, where that is asked for, and embed what it holds."""
    if fits:
        model.fit(tokens)
        _save(model, tokens, places, overwrite)
    rows, dim = write_vectors(model, tokens, places.out, overwrite)
    made = Embedded(places.out, (rows, dim), model)
    if not fits:
        return made
    sample = min(len(tokens), model.most_sequences)
    return replace(made, model_path=places.model, report=places.report, sample=sample)


def _streamed(
    sequences: Any,
    encoder: Any,
    model: OneVec,
    places: _Places,
    *,
    fits: bool,
    overwrite: bool,
    say: Callable[[str], None],
    encoding: dict[str, Any],
) -> Embedded:
    """Embed chunk by chunk, and fit to a sample before, where that is asked for."""
    if not _same(places.model, places.parts / _MODEL):  # as if killed just before the end
        places.check(overwrite)
    run = _Run.open(places.parts, _facts(sequences, encoder, model, encoding), overwrite)
    try:
        if fits:
            opened, known, model = _fit_to_sample(sequences, model, run, say, encoding)
        else:
            opened, known = model.open(sequences, encoder, **encoding), None
        parts = Parts(run.folder)
        if parts.rows:
            say(f"Resume   {parts.rows:,} vectors are there, in {run.folder}")
        _run_through(model, opened, known, parts)
        if known is not None:
            _save(model, known.store, places, overwrite)
        pieces = parts.pieces(model_fingerprint(model))
        save_vectors(pieces, places.out, overwrite)
        parts.remove()
    except OnevecError:
        if not run.resumed:  # it would fail again
            shutil.rmtree(run.folder, ignore_errors=True)
        raise
    made = Embedded(places.out, (pieces.rows, pieces.dim), model)
    if known is None:
        return made
    return replace(made, model_path=places.model, report=places.report, sample=len(known.rows))


def _fit_to_sample(
    sequences: Any,
    model: OneVec,
    run: _Run,
    say: Callable[[str], None],
    encoding: dict[str, Any],
) -> tuple[Encoding, Known, OneVec]:
    """Encode the sample and fit the model to it, or find what a killed run has made of both."""
    opened, known, total = model.sample(sequences, run.sample, resume=True, **encoding)
    say(_sample_line(model, known, total, isinstance(sequences, Iterator)))
    if is_model(run.model):
        model = load(run.model).set_params(encoder=model.encoder)
    else:
        model.fit(known.store).save(run.model)
    return opened, known, model


def _run_through(model: OneVec, opened: Encoding, known: Known | None, parts: Parts) -> None:
    """Embed what is not there yet; one chunk is in memory, and the vectors of one part."""
    opened.chunks = parts.remaining(opened.chunks)
    opened.total = None if opened.total is None else opened.total - parts.rows
    for part in opened.kept_states(known):
        parts.append(part.chunk, model.transform_encoded(part))
    parts.flush()
    opened.tell()


def _sample_line(model: OneVec, known: Known, total: int | None, first: bool) -> str:
    count, most = len(known.rows), model.most_sequences
    if count < most or count == total:
        return f"Sample   all {count:,} sequences"
    where = "the first, as the input can be read only once"
    if not first:
        where = f"drawn from {total:,} with seed {model.random_state}"
    why = f"effort {model.effort!r} looks at no more"
    return f"Sample   {count:,} sequences to fit to ({why}), {where}"


def _same(place: Path | None, model: OneVec | Path) -> bool:
    """Whether a folder holds this very model."""
    if place is None or not is_model(place) or (isinstance(model, Path) and not is_model(model)):
        return False
    return model_fingerprint(place) == model_fingerprint(model)


def _save(model: OneVec, sample: TokenStore, places: _Places, overwrite: bool) -> None:
    """Save model and report; a model that a killed run saved just before may stand there."""
    assert places.model is not None
    if not _same(places.model, model):
        model.save(places.model, overwrite=overwrite)
    if places.report is None:
        return
    from onevec.report.html import write
    from onevec.report.summarize import summarize

    summary = summarize(
        model,
        title=f"onevec: {places.out.name}",
        lengths=np.asarray(sample.lengths),
        facts={"fitted to": f"{len(sample):,} sequences"},
    )
    write(summary, places.report)
