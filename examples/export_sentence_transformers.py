"""A fitted model as a sentence-transformers folder, opened again without onevec's help.

Proteins and an encoder that come with onevec. Prints the largest difference between the vectors
of the exported folder and those of the model.
"""

import tempfile
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

import onevec
from onevec.demo.walk import encoder_folder, load_proteins
from onevec.export.sentence_transformers import to_sentence_transformers

texts = [text[:100] for text in load_proteins()["test"]["sequence"][:120]]
with encoder_folder() as encoder, tempfile.TemporaryDirectory() as room:
    tokens = onevec.encode(texts, encoder, dtype="float32", progress=False)
    model = onevec.OneVec(export="sentence-transformers").fit(tokens)
    folder = Path(room) / "proteins"
    facts = to_sentence_transformers(model, encoder, folder)
    print(f"road: {facts['road']}")  # native: plain modules of sentence-transformers
    found = SentenceTransformer(str(folder), device="cpu").encode(texts)
    print(f"largest difference: {np.abs(found - model.transform(tokens)).max():.1e}")
