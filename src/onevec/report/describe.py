"""What a file or folder holds, as plain facts: anything that onevec reads or writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onevec.errors import InputError, OnevecError, StoreError
from onevec.estimator import is_model, load
from onevec.ragged import Ragged
from onevec.tokens.adapters import kind_of
from onevec.tokens.chunks import LayeredTokens
from onevec.tokens.frames import FRAMES
from onevec.tokens.layout import bytes_text, is_store
from onevec.tokens.media import Picture, Sound, first_line
from onevec.tokens.readers import is_known, open_source

_LOOKED_AT = 1_000  # sequences of a file whose lengths are told
_SHOWN = 60  # characters of a sequence
_CALLED = {
    "text": "text sequences", "waveform": "recordings", "image": "images", "tokens": "token vectors"
}  # fmt: skip
Facts = dict[str, Any]


def describe(path: str | Path) -> Facts:
    """Describe sequences, vectors, a token store, a model, an encoder or an index.

    Parameters
    ----------
    path : path
        A file or a folder. Of a store and an index checksums are verified; of a model's weights
        only the header is read.

    Returns
    -------
    dict
        ``kind``, and what is known of it. What can be read is told even where a part of it cannot;
        ``problem`` names that part.

    Raises
    ------
    StoreError
        If it is none of them, or damaged as a whole.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"there is no file or folder {path}: pass one that exists")
    tell = next((tell for is_it, tell in _KINDS if is_it(path)), None)
    if tell is None:
        raise StoreError(
            f"{path} holds no token store, model, index, encoder, vectors or sequences that onevec "
            "knows: pass what it reads (docs/inputs.md) or what one of its commands wrote"
        )
    try:
        return tell(path)
    except OnevecError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{path} cannot be described ({first_line(error)}): one of its own files is not as "
            "onevec writes it; make it again"
        ) from error


def for_people(facts: Mapping[str, Any]) -> str:
    """Lay facts out, a line each, with numbers and lists as people read them."""
    width = max(map(len, facts)) + 2
    return "\n".join(
        f"{name.replace('_', ' '):<{width}}{_as_text(name, value)}" for name, value in facts.items()
    )


def _as_text(name: str, value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "unknown", True: "yes", False: "no"}[value]
    if isinstance(value, int):
        return bytes_text(value) if name == "bytes" else f"{value:,}"
    if isinstance(value, Mapping):
        value = [f"{key}: {_as_text('', each)}" for key, each in value.items()]
    if isinstance(value, list | tuple):
        return ", ".join(_as_text("", each) for each in value) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# --- folders of onevec --------------------------------------------------------------------------


def _index(path: Path) -> Facts:
    from onevec.use.index import Index

    return {"kind": "vector index", **Index.open(path).facts()}


def _store(path: Path) -> Facts:
    from onevec.tokens.store import TokenStore

    store = TokenStore(path)
    store.verify()
    lengths = store.lengths
    return {
        "kind": "token store",
        "sequences": len(store),
        "tokens": int(lengths.sum()),
        "dim": store.dim,
        "layers": store.layers,
        "cls": store.has_cls,
        "dtype": store.info["dtype"],
        "bytes": store.bytes,
        "longest": int(lengths.max()),
        "columns": store.columns,
        "encoder": store.fingerprint,
        "checksums": "verified",
    }


def _model(path: Path) -> Facts:
    model = load(path)
    verdict = model.verdict_
    return {
        "kind": "onevec model",
        "token_dim": model.n_features_in_,
        "dim": model.vector_.dim_out,
        "layers": model.layers_,
        "parts": model.parts_,
        "beats_mean": verdict.beats_mean,
        "expected_gain": verdict.expected_gain,
        "interval": verdict.interval,
        "verdict": verdict.sentence,
        "encoder": model.fingerprint_,
    }


def _stopped(path: Path) -> Facts:
    return {"kind": "parts of a stopped run", **_json(path / "run.json")}


# --- encoders -----------------------------------------------------------------------------------


def _encoder(path: Path) -> Facts:
    """Describe a Hugging Face folder, and how it was trained where onevec made it."""
    config, problems = {}, []
    try:
        config = _json(path / "config.json")
    except ValueError as error:
        problems.append(f"config.json cannot be read ({first_line(error)})")
    inner = next((config[n] for n in ("text_config", "vision_config") if n in config), {})
    facts: Facts = {
        "kind": "encoder",
        "architecture": ", ".join(config.get("architectures") or ()) or config.get("model_type"),
        "reads": _reads(path),
        "dim": _first_of({**inner, **config}, "hidden_size", "d_model", "n_embd"),
        "layers": _first_of(
            {**inner, **config}, "num_hidden_layers", "encoder_layers", "num_layers", "n_layer"
        ),
        "vocabulary": config.get("vocab_size"),
    }
    facts["parameters"] = _parameters(path, problems)
    facts |= _trained(path, problems)
    facts["bytes"] = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    if problems:
        facts["problem"] = "; ".join(problems)
    return {name: value for name, value in facts.items() if value is not None}


def _first_of(config: Mapping[str, Any], *names: str) -> Any:
    return next((config[name] for name in names if config.get(name) is not None), None)


def _reads(path: Path) -> str | None:
    if (path / FRAMES).is_file():
        return "frames, (n, dim) arrays"
    try:
        processor = _json(path / "preprocessor_config.json")
    except (OSError, ValueError):
        processor = {}
    if "sampling_rate" in processor:
        return f"recordings, at {processor['sampling_rate']:,} Hz"
    if any(path.glob("tokenizer*")) or any(path.glob("vocab*")):
        return "text"
    return "images" if processor else None


def _parameters(path: Path, problems: list[str]) -> int | None:
    """Count the numbers of the weights by their headers."""
    from safetensors import SafetensorError, safe_open

    count = 0
    for file in sorted(path.glob("*.safetensors")):
        if file.name == FRAMES:
            continue
        try:
            with safe_open(file, framework="numpy") as held:
                names = list(held.keys())
                count += sum(int(np.prod(held.get_slice(name).get_shape())) for name in names)
        except (SafetensorError, OSError) as error:
            problems.append(f"{file.name} cannot be read ({first_line(error)})")
    if not count and not problems and not any(path.glob("*.bin")):
        problems.append("there are no weights beside config.json")
    return count or None


def _trained(path: Path, problems: list[str]) -> Facts:
    """Tell how onevec trained an encoder."""
    for manifest, kind, names in (
        ("finetune.json", "fine-tuned encoder",
         ("model", "parameters", "trained_parameters", "sequences", "steps", "best_step")),
        ("pretrain.json", "encoder",
         ("parameters", "steps", "vocabulary", "clusters", "masked_accuracy",
          "next_token_accuracy", "unigram_accuracy")),
    ):  # fmt: skip
        if not (path / manifest).is_file():
            continue
        try:
            made = _json(path / manifest)
        except ValueError as error:
            problems.append(f"{manifest} cannot be read ({first_line(error)})")
            continue
        told = {name: made[name] for name in names if name in made}
        if isinstance(made.get("verdict"), dict):
            told["verdict"] = made["verdict"].get("sentence")
        return {"kind": kind, **told}
    return {}


def _sentence_transformer(path: Path) -> Facts:
    modules = [module.get("type", "").rpartition(".")[2] for module in _json(path / "modules.json")]
    inner = path if (path / "config.json").is_file() else path / "0_Transformer"
    about = _encoder(inner) if (inner / "config.json").is_file() else {}
    return {**about, "kind": "sentence-transformers model", "modules": modules}


def _onnx(path: Path) -> Facts:
    file = path if path.is_file() else next(_onnx_files(path))
    facts: Facts = {"kind": "ONNX model", "file": file.name, "bytes": file.stat().st_size}
    try:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            str(file), settings, providers=["CPUExecutionProvider"]
        )
        facts["inputs"] = [each.name for each in session.get_inputs()]
        facts["outputs"] = {each.name: str(each.shape) for each in session.get_outputs()}
    except ImportError:
        facts["problem"] = "its inputs are read with pip install 'onevec[onnx]'"
    except Exception as error:  # onnxruntime's own classes, all bare Exception
        facts["problem"] = f"{file.name} cannot be opened ({first_line(error)})"
    facts["tokenizer"] = any(file.parent.glob("tokenizer*")) or any(
        file.parent.parent.glob("tokenizer*")
    )
    return facts


def _onnx_files(path: Path) -> Any:
    yield from sorted([*path.glob("*.onnx"), *path.glob("onnx/*.onnx")])


# --- files --------------------------------------------------------------------------------------


def _holds_vectors(path: Path) -> bool:
    """Whether a file holds one vector per sequence, by its schema or its shape."""
    from pyarrow import parquet

    from onevec.tokens.tables import read_arrow

    try:
        if path.suffix == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            return array.ndim == 2 and array.dtype.kind in "fiu"
        if path.suffix == ".parquet":
            return "vector" in parquet.read_schema(path).names
        if path.suffix == ".arrow":
            return "vector" in read_arrow(path, 1)[0].names
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="numpy") as held:
                return "vectors" in held.keys()  # noqa: SIM118
    except Exception:  # of four libraries: whoever reads the file then says what is wrong
        return False
    return False


def _vectors(path: Path) -> Facts:
    from onevec.use.formats import read_vectors

    held = read_vectors(path)
    return {
        "kind": "vectors",
        "rows": len(held),
        "dim": held.vectors.shape[1],
        "ids": "the numbers of the rows" if held.numbered else _some(held.ids),
        "columns": held.metadata.column_names,
        "made_by": held.made_by,
        "bytes": path.stat().st_size,
    }


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


def _sequences(path: Path) -> Facts:
    """Describe a file or folder of sequences by its first ones."""
    try:
        source = open_source(path)
        chunks, rows, ids = [], [], []
        for chunk in source.chunks:
            chunks.append(chunk)
            rows += (
                list(chunk.sequences)
                if not isinstance(chunk.sequences, Ragged)
                else [chunk.sequences[row] for row in range(len(chunk))]
            )
            ids += chunk.ids or []
            if len(rows) > _LOOKED_AT:
                break
    except InputError as error:
        columns = getattr(error, "columns", None)
        if columns is None:
            raise
        return {"kind": "table", "columns": columns, "problem": str(error)}
    if not rows:
        return {"kind": "no sequences", "bytes": path.stat().st_size}
    whole = len(rows) <= _LOOKED_AT
    count = source.total or (len(rows) if whole else None)
    facts: Facts = {
        "kind": _CALLED.get(kind_of(rows), "sequences"),
        "sequences": count if count is not None else f"more than {_LOOKED_AT:,}",
        "ids": _some(ids),
        "columns": list(chunks[0].metadata),
        **_sizes(rows[:_LOOKED_AT]),
    }
    if isinstance(rows[0], str):
        facts["first"] = rows[0][:_SHOWN] + ("…" if len(rows[0]) > _SHOWN else "")
    return facts


def _sizes(rows: list[Any]) -> Facts:
    """Tell how long sequences are, in what they are counted in."""
    (head, *_) = rows
    if isinstance(head, Picture):
        return {"pixels": " x ".join(map(str, head.open().size)) + " (the first)"}
    if isinstance(head, Sound):
        rates = sorted({sound.rate for sound in rows})
        sizes, unit = [sound.seconds for sound in rows], "seconds"
        more: Facts = {"rates": rates, "channels": sorted({sound.channels for sound in rows})}
    elif isinstance(head, LayeredTokens):
        states = [next(iter(each.states.values())) for each in rows]
        sizes, unit = [len(each) for each in states], "tokens"
        more = {"dim": states[0].shape[1], "layers": sorted(head.states)}
    else:
        sizes = [len(each) for each in rows if hasattr(each, "__len__")]
        unit = "characters" if isinstance(head, str) else "tokens"
        shape = getattr(head, "shape", ())
        more = {"dim": int(shape[1])} if len(shape) == 2 else {}
    if not sizes:
        return more
    least, middle, most = (_round(each) for each in np.quantile(sizes, [0, 0.5, 1]))
    return {f"{unit}": f"{least:,} to {most:,}, half of them up to {middle:,}", **more}


def _round(value: float) -> float | int:
    return int(value) if float(value).is_integer() else round(float(value), 2)


def _page(path: Path) -> Facts:
    return {"kind": "HTML page", "bytes": path.stat().st_size}


def _json(path: Path) -> Any:
    """Read a JSON file; ValueError if it is none."""
    return json.loads(path.read_text())


def _is_known(path: Path) -> bool:
    return (
        is_known(path)
        if path.is_file()
        else any(is_known(each) for each in path.rglob("*") if each.is_file())
    )


# What comes first decides: an encoder's folder holds files that are sequences elsewhere.
_KINDS: tuple[tuple[Callable[[Path], bool], Callable[[Path], Facts]], ...] = (
    (lambda path: (path / "vector-index.json").is_file(), _index),
    (is_store, _store),
    (is_model, _model),
    (lambda path: (path / "run.json").is_file(), _stopped),
    (lambda path: (path / "modules.json").is_file(), _sentence_transformer),
    (lambda path: (path / "config.json").is_file(), _encoder),
    (lambda path: path.suffix == ".onnx" or any(_onnx_files(path)), _onnx),
    (lambda path: path.suffix in (".html", ".htm"), _page),
    (lambda path: path.is_file() and _holds_vectors(path), _vectors),
    (_is_known, _sequences),
)
