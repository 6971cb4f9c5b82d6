"""`onevec export` end to end."""

import json

import huggingface_hub
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from onevec.export.table import EXPORTS
from tests.export.conftest import fitted
from tests.test_cli import run


@pytest.fixture
def folder(tmp_path, tokens):
    return fitted(tokens, "mean").save(tmp_path / "model")


def test_sentence_transformers(tmp_path, encoder, texts, tokens, folder):
    to = ("--to", "sentence-transformers", "--encoder", encoder, "--out", tmp_path / "st")
    code, out, failed = run("export", folder, *to)
    assert code == 0, failed
    assert "opened by plain SentenceTransformer" in out and "6 dimensions" in out
    wanted = fitted(tokens, "mean").transform(tokens)
    found = SentenceTransformer(str(tmp_path / "st"), device="cpu").encode(texts)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    code, out, _ = run("export", folder, *to, "--road", "module", "--overwrite", "--json")
    assert code == 0 and json.loads(out)["road"] == "module"
    code, out, _ = run("export", folder, *to, "--road", "module", "--overwrite")
    assert "trust_remote_code=True) where onevec is installed" in out


def test_onnx_and_hub(tmp_path, folder, monkeypatch):
    code, out, failed = run("export", folder, "--to", "onnx", "--out", tmp_path / "onnx")
    assert code == 0, failed
    assert "model.onnx from tokens and mask; checked" in out

    class FakeApi:
        def __init__(self, token=None):
            pass

        def create_repo(self, repo_id, **options):
            pass

        def upload_folder(self, **options):
            return "https://hub/commit"

    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    code, out, _ = run("export", folder, "--to", "hub", "--out", "me/vectors", "--json")
    assert code == 0 and json.loads(out) == {"hub": "me/vectors", "commit": "https://hub/commit"}


def test_refusals(tmp_path, folder):
    code, _, said = run("export", folder, "--to", "paper", "--out", tmp_path / "x")
    assert code == 2 and all(name in said for name in EXPORTS)
    code, _, said = run("export", folder, "--to", "sentence-transformers", "--out", tmp_path / "x")
    assert code == 2 and "name the one of the fit" in said
    code, _, said = run("export", tmp_path / "no", "--to", "onnx", "--out", tmp_path / "x")
    assert code == 2 and "holds no config.json" in said
