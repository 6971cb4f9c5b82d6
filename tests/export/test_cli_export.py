"""`onevec export` end to end."""

import json
import shutil

import huggingface_hub
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from onevec.errors import StoreError
from onevec.export.sentence_transformers import to_sentence_transformers
from onevec.export.table import EXPORTS
from tests.export.conftest import encoded, fitted
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


def test_a_model_of_a_store_knows_encoder_and_layer(tmp_path, encoder, texts):
    store = encoded(texts, encoder, out=tmp_path / "store", layer=1)
    model = fitted(store, "mean")
    model.save(tmp_path / "model")
    for to, name in (("sentence-transformers", "st"), ("onnx", "onnx")):
        words = ("--to", to, "--encoder", encoder, "--out", tmp_path / name)
        code, out, failed = run("export", tmp_path / "model", *words, "--json")
        assert code == 0, failed
        assert json.loads(out)["layer"] == 1
        code, _, said = run("export", tmp_path / "model", *words, "--layer", -1, "--overwrite")
        assert (code, "was fitted to layer 1 of its encoder" in said) == (2, True), said
    found = SentenceTransformer(str(tmp_path / "st"), device="cpu").encode(texts)
    np.testing.assert_allclose(found, model.transform(store), atol=1e-4)
    model.fingerprint_ = f"{'0' * 64}@layer1"
    with pytest.raises(StoreError, match="pass that encoder"):
        to_sentence_transformers(model, encoder, tmp_path / "other")


def test_options_that_are_of_no_use_are_refused(tmp_path, folder, encoder):
    calls = {
        ("onnx", "--layer", 1): "--layer with --to onnx without --encoder",
        ("onnx", "--road", "native"): "--road with --to onnx:",
        ("hub", "--overwrite"): "--overwrite with --to hub:",
        ("hub", "--encoder", encoder): "--encoder with --to hub:",
        ("sentence-transformers", "--private"): "--private with --to sentence-transformers:",
    }
    for (to, *more), words in calls.items():
        code, _, said = run("export", folder, "--to", to, "--out", tmp_path / "x", *more)
        assert (code, words in said) == (2, True), said


def test_an_encoder_without_a_padding_token_is_one_sentence(tmp_path, encoder, tokens, folder):
    from transformers import AutoTokenizer

    bare = shutil.copytree(encoder, tmp_path / "bare")
    tokenizer = AutoTokenizer.from_pretrained(bare)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(bare)
    words = ("--to", "sentence-transformers", "--encoder", bare, "--out", tmp_path / "st")
    code, _, said = run("export", folder, *words)
    assert (code, "has no padding token" in said) == (2, True), said


def test_the_tokenizer_beside_the_graph_makes_its_inputs(tmp_path, encoder, texts, tokens):
    import onnxruntime
    from transformers import AutoTokenizer

    from onevec.export.onnx import to_onnx

    left = shutil.copytree(encoder, tmp_path / "left")
    tokenizer = AutoTokenizer.from_pretrained(left)
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained(left)
    model = fitted(tokens, "mean|std")
    to_onnx(model, tmp_path / "onnx", encoder=left, max_length=12)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "onnx")
    batch = theirs(texts, padding=True, truncation=True, return_tensors="np")
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx/model.onnx"))
    names = [each.name for each in session.get_inputs()]
    found = session.run(["vector"], {name: batch[name] for name in names})[0]
    wanted = model.transform(encoded(texts, encoder, max_length=12))
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_exports_of_what_is_not_fitted_or_of_no_use(tmp_path, encoder, tokens):
    from sklearn.exceptions import NotFittedError

    from onevec import OneVec
    from onevec.errors import InputError
    from onevec.export.onnx import to_onnx

    for call in (
        lambda: to_onnx(OneVec(8), tmp_path / "x"),
        lambda: to_sentence_transformers(OneVec(8), encoder, tmp_path / "x"),
    ):
        with pytest.raises(NotFittedError):
            call()
    model = fitted(tokens, "mean")
    with pytest.raises(InputError, match="without an encoder"):
        to_onnx(model, tmp_path / "x", max_length=9)
    with pytest.raises(InputError, match="got no samples"):
        to_sentence_transformers(model, encoder, tmp_path / "x", samples=[])
