"""Encoder and the parts of the vector as one ONNX graph, run in onnxruntime on ragged batches.

Proteins and an encoder that come with onevec. Prints the largest difference between the graph's
vectors and those of the model.
"""

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from transformers import AutoTokenizer

import onevec
from onevec.demo.walk import encoder_folder, load_proteins
from onevec.export.onnx import to_onnx

texts = [text[:length] for length, text in enumerate(load_proteins()["test"]["sequence"][:60], 1)]
with encoder_folder() as encoder, tempfile.TemporaryDirectory() as room:
    tokens = onevec.encode(texts, encoder, dtype="float32", progress=False)
    model = onevec.OneVec().fit(tokens)
    folder = Path(room) / "proteins"
    to_onnx(model, folder, encoder=encoder)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for first in range(0, len(texts), 8):
        batch = tokenizer(texts[first : first + 8], padding=True, return_tensors="np")
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        found.append(session.run(["vector"], inputs)[0])
    print(f"largest difference: {np.abs(np.vstack(found) - model.transform(tokens)).max():.1e}")
