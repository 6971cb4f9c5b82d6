"""`OneVec(export="sentence-transformers")`: what it chooses can be opened without onevec."""

import numpy as np
import pytest

from onevec import OneVec, load
from onevec.errors import InputError
from onevec.export.head import kind_of
from onevec.export.sentence_transformers import to_sentence_transformers
from onevec.judge import calibration
from onevec.native import native_candidates, why_not_native
from tests.test_cli import run


def test_only_native_candidates_are_compared(easy_tokens):
    tokens, _ = easy_tokens
    hopeful = calibration.Calibration({}, 9.0, {}, 5.0)  # whatever differs is better
    with calibration.use(hopeful):
        model = OneVec(dim=8, export="sentence-transformers").fit(tokens)
    names = [each.name for each in native_candidates()]
    assert [row["name"] for row in model.verdict_.candidates] == names
    assert model.verdict_.sure and model.verdict_.choice == names[1]
    assert not why_not_native((kind_of(p), p.options) for p in model.blocks_.poolers.values())


def test_the_choice_is_exported_natively(tmp_path, encoder, tokens):
    model = OneVec(dim=6, export="sentence-transformers").fit(tokens)
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.export == "sentence-transformers"
    facts = to_sentence_transformers(again, encoder, tmp_path / "st", road="native")
    assert facts["difference"] < 1e-4


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
