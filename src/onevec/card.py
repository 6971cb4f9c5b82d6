"""The model card: what a model is, on what evidence, from what data, and what it is for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_LIBRARIES = {"onevec": "onevec", "onnx": "onnx"}
_USE = {
    "onevec": """```python
import onevec

model = onevec.load("{name}")   # a folder; of the hub: onevec.export.hub.from_pretrained
model.set_params(encoder=encoder)  # the encoder that the model was fitted with, where it is now
vectors = model.encode(sequences)  # (sequences, {dim}), fp32
```""",
    "native": """```python
from sentence_transformers import SentenceTransformer  # {least} or newer; onevec is not needed

vectors = SentenceTransformer("{name}").encode(texts)  # (texts, {dim})
```""",
    "onnx": """```python
import onnxruntime

session = onnxruntime.InferenceSession("{name}/model.onnx")
(vectors,) = session.run(["vector"], {{{fed}}})  # (batch, {dim}), fp32
```

{note}""",
    "module": """```python
from sentence_transformers import SentenceTransformer  # and onevec {onevec} or newer

vectors = SentenceTransformer("{name}", trust_remote_code=True).encode(texts)  # (texts, {dim})
```

`trust_remote_code=True` is needed because the pooling is a class of the installed package onevec
({reason}); no code is loaded from this folder.""",
}


def model_card(
    config: Mapping[str, Any],
    export: Mapping[str, Any] | None = None,
    *,
    name: str = "path-or-hub-name",
    licence: str | None = None,
    base_model: str | None = None,
) -> str:
    """Return the card of a model as Markdown with a YAML front matter.

    Parameters
    ----------
    config : mapping
        What `OneVec.save` writes as ``config.json``.
    export : mapping, optional
        What `to_sentence_transformers` reports, where the card is of such a folder.
    name : str
        How the example names the model.
    licence : str, optional
        An identifier of the hub such as ``"apache-2.0"``.
    base_model : str, optional
        Hub name of the encoder.
    """
    export = export or {"road": "onevec", "dim": config["vector_dim"]}
    road = export["road"]
    matter = {
        "library_name": _LIBRARIES.get(road, "sentence-transformers"),
        "pipeline_tag": "feature-extraction" if road in _LIBRARIES else "sentence-similarity",
        "tags": ["onevec", "sentence-embedding", "feature-extraction", "unsupervised"],
    }
    matter |= {"license": licence} if licence else {}
    matter |= {"base_model": base_model} if base_model else {}
    # JSON is YAML, and escapes what a name may hold.
    front = "\n".join(f"{key}: {json.dumps(value)}" for key, value in matter.items())
    sections = {
        "Verdict": config["verdict"]["sentence"],
        "How to use": _USE[road].format(**_words(name, export)),
        "What it is": f"{_facts(config, export)}\n\n{_parts(config)}",
        "Intended use": (
            "Search, similarity, clustering, and classifiers with few labels, on sequences like "
            "those it was fitted to. Vectors of different models cannot be compared."
        ),
        "Limits": _limits(export),
        "Licence": licence or "Not stated by the author. The encoder's own licence applies to it.",
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return f"---\n{front}\n---\n\n# A onevec model\n\n{body}\n"


def _words(name: str, export: Mapping[str, Any]) -> dict[str, Any]:
    inputs = export.get("inputs", ())
    layers = export.get("layers", ())
    several = len(layers) > 1
    notes = {
        "tokens": f"`tokens` (batch, tokens, {'layers, ' * several}dim) float32",
        "mask": "`mask` (batch, tokens) int64, ones, then zeros",
        "ids": "`ids` (batch, tokens) int64, the vocabulary entries",
        "cls": "`cls` (batch, layers, dim) float32, the classification token",
    }
    note = "; ".join(notes[each] for each in inputs if each in notes) + "."
    if several:
        note += f" Layers are the hidden states {', '.join(map(str, layers))}, in this order."
    if "input_ids" in inputs:
        note = "The tokenizer stands in the folder; pad on the right. Both inputs are int64."
    fed = ", ".join(f'"{each}": {each}' for each in inputs)
    return {"name": name, "least": "6.0", "reason": "", "fed": fed, "note": note, **export}


def _parts(config: Mapping[str, Any]) -> str:
    """Return a table of the parts and their columns in the whole vector."""
    lines = ["| part | columns | weight | holds |", "|---|--:|--:|---|"]
    first = 0
    for part in config["vector"]["parts"]:
        last = first + part["width"]
        weight, about = part["part"]["weight"], part["part"]["about"]
        lines.append(f"| {part['name']} | {first} to {last - 1} | {weight:.2g} | {about} |")
        first = last
    if config["vector"]["shorter"] is not None:
        lines += ["", f"Their {first} columns are reduced to {config['vector_dim']} by PCA."]
    return "\n".join(lines)


def _facts(config: Mapping[str, Any], export: Mapping[str, Any]) -> str:
    facts = {
        "vector": f"{config['vector_dim']} dimensions, from tokens of {config['token_dim']}",
        "encoder": export.get("encoder") or "the one that made the token vectors",
        "hidden states": _layers(export.get("layer", config["layers"])),
        "encoder fingerprint": f"`{config['fingerprint'] or 'none: fitted to ready arrays'}`",
    }
    facts = {key: value for key, value in facts.items() if value}
    data = config.get("data")
    if data:
        facts["fitted to"] = f"{data['sequences']:,} sequences, {data['tokens']:,} token vectors"
        facts["data fingerprint"] = f"`{data['fingerprint']}`"
    if "difference" in export:
        facts["checked"] = (
            f"opened and compared with onevec when written: largest difference "
            f"{export['difference']:.0e} of the vectors' root mean square norm"
        )
    return "\n".join(f"- {key}: {value}" for key, value in facts.items())


def _layers(layers: int | Sequence[int]) -> str:
    """Name the hidden states that are read; none where bare arrays do not say."""
    numbers = [layers] if isinstance(layers, int) else layers
    return ", ".join(str(layer) for layer in numbers if layer >= 0)


def _limits(export: Mapping[str, Any]) -> str:
    limits = [
        "The verdict says what such vectors gained elsewhere; it promises nothing about labels.",
        "The vectors inherit the encoder's blind spots and biases.",
    ]
    if "max_length" in export:
        most = export["max_length"]
        limits.append(
            f"Inputs longer than {most:,} tokens are cut."
            if most
            else "The encoder names no longest input; very long ones need much memory."
        )
        limits.append("An empty text gets a constant vector without meaning; onevec refuses it.")
        limits.append("Run it in fp32: whitening enlarges what half precision rounds away.")
    return "\n".join(f"- {limit}" for limit in limits)
