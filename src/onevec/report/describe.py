"""What a folder holds, as plain facts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onevec.errors import StoreError


@contextmanager
def _told(manifest: Path) -> Iterator[dict[str, Any]]:
    """Read what training wrote beside an encoder."""
    try:
        yield json.loads(manifest.read_text())
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{manifest} cannot be read ({type(error).__name__}): it is damaged; restore the "
            "encoder or make it again"
        ) from error


def describe(path: str | Path) -> dict[str, Any]:
    """Describe a token store (checksums verified), an index, a model or an encoder made here.

    Raises
    ------
    StoreError
        If the folder is none of them, or damaged.
    """
    path = Path(path)
    if (path / "finetune.json").is_file():
        with _told(path / "finetune.json") as made:
            names = ("model", "parameters", "trained_parameters", "sequences", "steps", "best_step")
            told = {name: made[name] for name in names}
            verdict = made["verdict"]["sentence"]
            return {"kind": "fine-tuned encoder", **told, "verdict": verdict}
    if (path / "pretrain.json").is_file():
        always = ("parameters", "steps")
        else_too = ("vocabulary", "clusters", "masked_accuracy", "next_token_accuracy")
        with _told(path / "pretrain.json") as made:
            names = [*always, *(n for n in (*else_too, "unigram_accuracy") if n in made)]
            return {"kind": "encoder", **{name: made[name] for name in names}}
    if (path / "vector-index.json").is_file():
        from onevec.use.index import Index

        return {"kind": "vector index", **Index.open(path).facts()}
    if (path / "index.json").is_file():
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
    if (path / "config.json").is_file() and (path / "model.safetensors").is_file():
        from onevec.estimator import load

        model = load(path)
        return {
            "kind": "onevec model",
            "token_dim": model.n_features_in_,
            "dim": model.vector_.dim_out,
            "layers": model.layers_,
            "parts": model.parts_,
            "beats_mean": model.verdict_.beats_mean,
            "expected_gain": model.verdict_.expected_gain,
            "interval": model.verdict_.interval,
            "verdict": model.verdict_.sentence,
            "encoder": model.fingerprint_,
        }
    raise StoreError(
        f"{path} is no token store, model, index or encoder of onevec: pass a folder that "
        "`onevec encode`, `onevec fit`, `onevec index` or `onevec pretrain` wrote"
    )
