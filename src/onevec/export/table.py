"""What a model can be exported to."""

from __future__ import annotations

EXPORTS = {
    "sentence-transformers": "a folder that SentenceTransformer(path) opens",
    "onnx": "one graph from token ids (with --encoder) or token vectors to the vector",
    "hub": "a repository of the Hugging Face hub",
}
