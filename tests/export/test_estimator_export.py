"""`OneVec(export="sentence-transformers")`: its vectors can be made without onevec."""

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from onevec import OneVec, load
from onevec.errors import InputError
from onevec.export.sentence_transformers import to_sentence_transformers
from onevec.poolers.spec import kind_of
from onevec.vector.native import why_not_native
from onevec.vector.parts import NATIVE_WEIGHTS
from tests.export.conftest import error
from tests.test_cli import run


def test_its_parts_are_native_and_of_length_1_on_average(easy_tokens):
    tokens, _ = easy_tokens
    model = OneVec(export="sentence-transformers").fit(tokens)
    assert [part["name"] for part in model.parts_] == list(NATIVE_WEIGHTS)
    poolers = model.blocks_[-1].poolers.values()
    assert not why_not_native((kind_of(each), each.options) for each in poolers)
    vectors = model.transform(tokens).astype(np.float64)
    for part in model.parts_:
        squares = (vectors[:, part["first"] : part["last"]] ** 2).sum(1)
        assert abs(squares.mean() - 1) < 1e-4 and squares.std() > 0.01


@pytest.mark.parametrize("options", [{}, {"dim": 5}, {"parts": {"mean": 1, "moments": 0.5}}])
def test_what_it_fits_is_exported_natively(tmp_path, encoder, many, many_tokens, options):
    model = OneVec(export="sentence-transformers", **options).fit(many_tokens)
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.export == "sentence-transformers"
    facts = to_sentence_transformers(again, encoder, tmp_path / "st", road="native")
    assert facts["difference"] < 1e-4
    found = SentenceTransformer(str(tmp_path / "st"), device="cpu").encode(many)
    assert error(found, model.transform(many_tokens)) < 1e-4


def test_native_poolers_are_taken_as_told_and_others_refused(easy_tokens):
    tokens = easy_tokens[0][:60]
    options = {"dim": 4, "export": "sentence-transformers"}
    assert np.isfinite(OneVec(pooler="mean|max", **options).fit(tokens).transform(tokens)).all()
    model = OneVec(pooler="attention", training={"steps": 1}, **options).fit(tokens)
    assert model.training_ is not None
    for refused in ({"pooler": "std"}, {"objective": "vicreg"}, {"pooler": "attention|mean"}):
        with pytest.raises(InputError, match="leave export out, or choose from mean, max"):
            OneVec(**options, **refused).fit(tokens)
    with pytest.raises(InputError, match='it must be "sentence-transformers" or left out'):
        OneVec(export="onnx").fit(tokens)


def test_the_command_line_restricts_too(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "tokens.npz", **{str(n): rng.normal(size=(n, 4)) for n in range(2, 70)})
    assert run("encode", tmp_path / "tokens.npz", "--out", tmp_path / "store")[0] == 0
    fit = ("fit", tmp_path / "store", "--out", tmp_path / "model", "--dim", 2)
    code, _, failed = run(*fit, "--export", "sentence-transformers")
    assert code == 0, failed
    assert load(tmp_path / "model").export == "sentence-transformers"
    assert run(*fit, "--export", "paper", "--overwrite")[0] == 2
