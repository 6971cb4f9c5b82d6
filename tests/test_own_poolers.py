"""Poolers with options, and a user's own: fitted, saved, opened in a new process, exported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from typer.testing import CliRunner

from onevec import OneVec, Ragged, load
from onevec.cli import app
from onevec.errors import InputError, StoreError
from onevec.poolers import POOLERS, Concat, make_pooler
from onevec.poolers.spec import blocks_of, read_spec
from onevec.tokens.writer import TokenStoreWriter

from .plugged import Energy, Forgetful, Late, RaggedOnly

NAME = "tests.plugged.Energy"


@pytest.fixture(name="tokens", scope="module")
def made():
    rng = np.random.default_rng(0)
    return [rng.normal(size=(n, 6)).astype(np.float32) for n in rng.integers(1, 20, size=60)]


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ("mean", [("mean", {})]),
        (" mean | vlad:codes=8, soft=true ", [("mean", {}), ("vlad", {"codes": 8, "soft": True})]),
        ("covariance:centre=sample+std", [("covariance", {"centre": "sample"}), ("std", {})]),
        (
            "lagged_covariance:lags=[1,2],rank=3",
            [("lagged_covariance", {"lags": [1, 2], "rank": 3})],
        ),
        ({"mean": None, "vlad": {"codes": 8}}, [("mean", {}), ("vlad", {"codes": 8})]),
        (POOLERS["vlad"](codes=8), [("vlad", {"codes": 8})]),
        (Energy(3.0), [(NAME, {"times": 3.0})]),
        (Energy(), [(NAME, {})]),
        (RaggedOnly(), [("tests.plugged.RaggedOnly", {})]),
    ],
)
def test_what_is_asked_for(spec, wanted):
    assert read_spec(spec) == wanted
    assert list(blocks_of(spec).values()) == wanted


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("vlad:8", "write options as NAME:OPTION=VALUE"),
        ("vlad:cods=8", "does not take the options {'cods': 8}: it takes codes"),
        ("mean|vladd:codes=8", "did you mean 'vlad'"),
        ({"vlad": 8}, "pass text such as"),
        ({}, "pass text such as"),
        (Forgetful(), "takes times and lists none in option_names"),
        (Energy(object()), "must be numbers, text or lists"),
        ("nowhere.Mine", "import or define Mine of 'nowhere' first"),
    ],
)
def test_what_cannot_be_read(spec, words, tokens):
    for act in (lambda: blocks_of(spec), lambda: OneVec(pooler=spec).fit(tokens)):
        with pytest.raises(InputError, match=words) as caught:
            act()
        assert "\n" not in str(caught.value)


def test_options_in_text_in_a_mapping_and_in_an_instance_are_the_same(tokens):
    specs = ["vlad:codes=3", {"vlad": {"codes": 3}}, POOLERS["vlad"](codes=3)]
    found = [OneVec(5, pooler=spec).fit(tokens).transform(tokens) for spec in specs]
    other = OneVec(5, pooler="vlad").fit(tokens).transform(tokens)
    for each in found[1:]:
        np.testing.assert_array_equal(each, found[0])
    assert np.abs(other - found[0]).max() > 1e-3


def test_poolers_of_one_name_with_different_options_stand_side_by_side(tokens):
    model = OneVec(6, pooler="vlad:codes=2|vlad:codes=3|kernel_mean:bandwidth=0.5").fit(tokens)
    poolers = model.blocks_[-1].poolers
    assert list(poolers) == [
        "vlad(codes=2)", "vlad(codes=3)", "kernel_mean(bandwidth=0_5)", "mean",
    ]  # fmt: skip
    assert [poolers[name].codes for name in ("vlad(codes=2)", "vlad(codes=3)")] == [2, 3]


def test_a_learned_pooler_with_options(tokens, tmp_path):
    model = OneVec(4, pooler="attention:hidden=5", training={"steps": 2}).fit(tokens * 2)
    assert model.blocks_[-1].poolers["attention(hidden=5)"].hidden == 5
    opened = load(model.save(tmp_path / "m"))
    np.testing.assert_allclose(opened.transform(tokens), model.transform(tokens), atol=1e-6)


@pytest.mark.parametrize(
    "parameters",
    [
        {"pooler": Energy(3.0)},
        {"pooler": Concat([("std", {}), (NAME, {"times": 3.0})])},
        {"pooler": {"std": {}, NAME: {"times": 3.0}}},
        {"parts": {"mean": 1, "mine": Energy(3.0)}},
        {"parts": {"mean": 1, "mine": {"std": {}, "vlad": {"codes": 2}}}},
        {"parts": {"mean": 1, "vlad:codes=2": 0.5}},
    ],
    ids=str,
)
def test_saved_and_opened(parameters, tokens, tmp_path):
    model = clone(OneVec(5, **parameters)).fit(tokens)
    opened = load(model.save(tmp_path / "m"))
    np.testing.assert_allclose(opened.transform(tokens), model.transform(tokens), atol=1e-6)
    again = clone(opened).fit(tokens)  # the parameters are those of the fit
    np.testing.assert_allclose(again.transform(tokens), model.transform(tokens), atol=1e-6)


def test_an_own_part_is_the_pooler_half_whitened(tokens):
    model = OneVec(parts={"mean": 1, "mine": Energy(3.0)}).fit(tokens)
    assert [part["name"] for part in model.parts_] == ["mean", "mine"]
    lengths = np.linalg.norm(model.transform(tokens)[:, 6:], axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)


def test_a_registered_pooler_goes_by_its_name(tokens, tmp_path, monkeypatch):
    monkeypatch.setitem(POOLERS, "energy", Energy)
    model = OneVec(5, pooler="energy:times=3").fit(tokens)
    assert type(make_pooler("mean|energy").members[1]) is Energy
    path = model.save(tmp_path / "m")
    monkeypatch.delitem(POOLERS, "energy")
    np.testing.assert_allclose(load(path).transform(tokens), model.transform(tokens), atol=1e-6)
    parts = OneVec(parts="mean,energy=0.5")
    with pytest.raises(InputError, match="choose from"):
        parts.fit(tokens)


def opened_elsewhere(path, first):
    code = f"{first}\nimport onevec\nprint(onevec.load({str(path)!r}).vector_.dim_out)"
    root = Path(__file__).parents[1]
    paths = os.pathsep.join([str(root), str(root / "src")])
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=path.parent,
        env=os.environ | {"PYTHONPATH": paths},
    )  # fmt: skip


@pytest.mark.parametrize("which", ["pooler", "parts"])
def test_a_new_process_opens_it_or_names_the_missing_class(which, tokens, tmp_path):
    own = {"pooler": Energy(3.0)} if which == "pooler" else {"parts": {"mean": 1, "e": Energy()}}
    path = OneVec(5, **own).fit(tokens).save(tmp_path / "m")
    assert opened_elsewhere(path, "import tests.plugged").stdout.strip() == "5"
    error = opened_elsewhere(path, "").stderr.strip().splitlines()[-1]
    assert error.endswith(
        f"the pooler {NAME!r} is a class that this process does not know: "
        "import or define Energy of 'tests.plugged' first"
    )
    assert "damaged" not in error


def test_a_pooler_that_could_not_be_opened_again_is_refused_at_once(tokens, tmp_path):
    model = OneVec(5, pooler=Late()).fit(tokens)
    with pytest.raises(InputError, match="its _build must make every buffer"):
        model.save(tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_class_that_changed_is_named(tokens, tmp_path, monkeypatch):
    path = OneVec(5, pooler=Energy()).fit(tokens).save(tmp_path / "m")
    monkeypatch.setattr(Energy, "_build", Late._build)
    with pytest.raises(StoreError, match=f"the pooler {NAME} does not take the state") as caught:
        load(path)
    assert "damaged" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_learned_pooler_is_no_part(tokens):
    with pytest.raises(InputError, match="the part 'mine', which is trained"):
        OneVec(parts={"mean": 1, "mine": POOLERS["attention"]()}).fit(tokens)
    with pytest.raises(InputError, match="options have no place in such a text"):
        OneVec(parts="mean,vlad:codes=2").fit(tokens)
    with pytest.raises(InputError, match="the part 'mine': pooler 'vlad' does not take"):
        OneVec(parts={"mean": 1, "mine": {"vlad": {"cods": 2}}}).fit(tokens)


def test_exports(tokens, tmp_path):
    pytest.importorskip("onnxruntime")
    from onevec.export.onnx import to_onnx

    for number, own in enumerate(({"pooler": Energy(3.0)}, {"parts": {"mean": 1, "e": Energy()}})):
        facts = to_onnx(OneVec(5, **own).fit(tokens), tmp_path / f"onnx{number}")
        assert facts["difference"] < 1e-4
    model = OneVec(5, pooler=RaggedOnly()).fit(tokens)
    with pytest.raises(InputError, match=r"tests\.plugged\.RaggedOnly .* onevec\.poolers\.Segm"):
        to_onnx(model, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    with pytest.raises(InputError, match="has no counterpart"):
        OneVec(pooler=Energy(), export="sentence-transformers").fit(tokens)


def test_the_command_line_takes_options(tokens, tmp_path):
    store, out = tmp_path / "store", tmp_path / "model"
    with TokenStoreWriter(store, dtype="float32") as writer:
        writer.append(Ragged.from_list(tokens))
    done = CliRunner().invoke(
        app, ["fit", str(store), "--out", str(out), "--dim", "4", "--pooler", "mean|vlad:codes=2"]
    )
    assert done.exit_code == 0, done.output
    config = json.loads((out / "config.json").read_text())
    assert config["poolers"]["-1"]["vlad(codes=2)"][1]["codes"] == 2
