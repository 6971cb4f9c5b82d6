"""Hidden states and classification tokens in exports: which, and what a folder says of them."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer

from onevec import OneVec, encode
from onevec.errors import InputError, StoreError
from onevec.export.onnx import GRAPH, to_onnx
from onevec.export.sentence_transformers import to_sentence_transformers
from onevec.export.sentence_transformers_module import OneVecPooling
from tests.export.conftest import encoded, error, fitted
from tests.tokens.conftest import ALPHABET, bert, tiny_tokenizer  # noqa: F401  (a fixture)


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(3)
    lengths = [1, 1, 2, *rng.integers(1, 40, 97)]
    return ["".join(rng.choice(list(ALPHABET), size=n)) for n in lengths]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """An encoder with a final normalisation, which its last inner state does not have."""
    from transformers import CLIPTextConfig, CLIPTextModel

    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=25, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64, pad_token_id=0, bos_token_id=2,
        eos_token_id=3,
    )  # fmt: skip
    model = CLIPTextModel(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "final_layer_norm" in name:
                weight.add_(torch.randn_like(weight))
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def by_onnx(folder, texts):
    """Run the graph of a folder on texts, a few at a time."""
    session = onnxruntime.InferenceSession(str(folder / GRAPH))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    names, found = [entry.name for entry in session.get_inputs()], []
    for first in range(0, len(texts), 7):
        batch = tokenizer(texts[first : first + 7], padding=True, return_tensors="np")
        found.append(session.run(None, {name: batch[name] for name in names})[0])
    return np.concatenate(found)


def by_sentence_transformers(folder, texts):
    opened = SentenceTransformer(
        str(folder), device="cpu", local_files_only=True, trust_remote_code=True
    )
    return opened.encode(texts, batch_size=7, show_progress_bar=False)


def check(folder, model, encoder, texts, wanted, **options):
    """Export by every road, and compare."""
    graph = to_onnx(model, folder / "onnx", encoder=encoder, **options)
    assert error(by_onnx(folder / "onnx", texts), wanted) < 1e-4
    module = to_sentence_transformers(model, encoder, folder / "st", **options)
    assert error(by_sentence_transformers(folder / "st", texts), wanted) < 1e-4
    assert graph["layer"] == module["layer"]
    return module


def test_the_last_state_of_several_is_the_normalised_one(tmp_path, clip, texts):
    store = encoded(texts, clip, out=tmp_path / "store", layer="last,middle")
    model = OneVec(layers="last,middle", parts="mean,plain").fit(store)
    facts = check(tmp_path, model, clip, texts, model.transform(store))
    assert facts["layer"] == [3, 1]


def test_a_model_of_the_classification_token_alone(tmp_path, bert, texts):  # noqa: F811
    store = encoded(texts, bert, out=tmp_path / "store", layer=2)
    model = OneVec(parts="cls").fit(store)
    check(tmp_path, model, bert, texts, model.transform(store))
    facts = to_onnx(model, tmp_path / "vectors")
    assert "cls" in facts["inputs"] and facts["difference"] < 1e-4


def test_a_mapping_says_which_states_they_are(tmp_path, bert, texts):  # noqa: F811
    held = {
        layer: encode(texts, bert, layers=layer, dtype="float32", progress=False)
        for layer in (1, 3)
    }
    model = OneVec(layers="all").fit(held)
    assert model.layers_ == [3, 1] and model.fingerprint_ is None
    facts = check(tmp_path, model, bert, texts, model.transform(held))
    assert facts["layer"] == [3, 1]
    with pytest.raises(StoreError, match="fitted to layer 3, 1 of its encoder: leave layer"):
        to_sentence_transformers(model, bert, tmp_path / "x", layer=3)
    # Bare arrays do not say; the argument does.
    inner, bare = (OneVec(parts="mean,plain").fit(each) for each in ({1: held[1]}, held[1]))
    for model, options in ((inner, {}), (bare, {"layer": 1})):
        facts = to_sentence_transformers(model, bert, tmp_path / "st", overwrite=True, **options)
        assert facts["layer"] == 1
        found = by_sentence_transformers(tmp_path / "st", texts)
        assert error(found, bare.transform(held[1])) < 1e-4


def test_a_pooler_that_mixes_layers_is_refused_by_every_road(tmp_path, bert, texts):  # noqa: F811
    store = encoded(texts, bert, out=tmp_path / "store", layer=[1, 3])
    model = fitted(store, "layer_mix")
    calls = (
        lambda: to_onnx(model, tmp_path / "x"),
        lambda: to_onnx(model, tmp_path / "x", encoder=bert),
        lambda: to_sentence_transformers(model, bert, tmp_path / "x"),
    )
    for call in calls:
        with pytest.raises(InputError, match="reads the token field"):
            call()


def test_an_encoder_without_a_classification_token_is_refused(tmp_path, bert, texts):  # noqa: F811
    store = encoded(texts, bert, out=tmp_path / "store")
    model = OneVec(parts="mean,cls", check_encoder=False).fit(store)
    with pytest.raises(InputError, match="puts none before a text"):
        to_onnx(model, tmp_path / "x", encoder=bert, special_tokens=True)


def test_cards_say_what_goes_in(tmp_path, bert, texts):  # noqa: F811
    store = encoded(texts, bert, out=tmp_path / "store", layer="last,middle")
    model = OneVec(layers="last,middle", parts="mean,cls").fit(store)
    to_onnx(model, tmp_path / "vectors")
    card = (tmp_path / "vectors/README.md").read_text()
    assert '{"tokens": tokens, "mask": mask, "cls": cls}' in card
    assert "`tokens` (batch, tokens, layers, dim) float32" in card
    assert "`cls` (batch, layers, dim) float32" in card
    assert "hidden states 3, 1, in this order" in card
    assert json.loads((tmp_path / "vectors/onevec.json").read_text())["layers"] == [3, 1]
    to_sentence_transformers(model, bert, tmp_path / "st", licence="mit")
    card = (tmp_path / "st/README.md").read_text()
    assert "- hidden states: 3, 1\n" in card and "reads several layers" in card
    weighted = fitted(encode(texts, bert, dtype="float32", progress=False), "idf|max")
    to_onnx(weighted, tmp_path / "ids")
    card = (tmp_path / "ids/README.md").read_text()
    assert "`tokens` (batch, tokens, dim) float32" in card and "`ids` (batch, tokens)" in card
    assert "hidden states" not in card


def test_the_graph_s_inputs_have_the_shapes_that_are_documented(tmp_path, bert, texts):  # noqa: F811
    store = encoded(texts, bert, out=tmp_path / "store", layer="last,middle")
    model = OneVec(layers="last,middle", parts="mean,cls").fit(store)
    to_onnx(model, tmp_path / "vectors")
    graph = onnx.load(str(tmp_path / "vectors" / GRAPH)).graph
    sizes = {
        entry.name: [axis.dim_value or axis.dim_param for axis in entry.type.tensor_type.shape.dim]
        for entry in graph.input
    }
    assert sizes["tokens"][2:] == [2, 16] and sizes["cls"][1:] == [2, 16]
    assert sizes["tokens"][:2] == sizes["mask"] and sizes["cls"][0] == sizes["mask"][0]
    assert all(isinstance(size, str) for size in sizes["mask"])


def test_an_empty_text_without_special_tokens_stands_last(texts):
    rng = np.random.default_rng(0)
    tokens = [rng.normal(size=(n, 6)).astype(np.float32) for n in rng.integers(1, 9, 60)]
    model = OneVec().fit(tokens)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 0]])
    values = torch.randn((3, 3, 6), generator=torch.Generator().manual_seed(0))
    given = {"token_embeddings": values, "input_ids": mask, "attention_mask": mask}
    found = OneVecPooling(model)(given)["sentence_embedding"].numpy()
    assert np.isfinite(found).all()
    assert error(found[:2], model.transform([values[0, :2], values[1]])) < 1e-4
