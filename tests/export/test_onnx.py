"""Graphs: every pooler on padded batches, and whole models in onnxruntime."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from transformers import AutoTokenizer

from onevec import OneVec, Ragged
from onevec.errors import InputError, StoreError
from onevec.export import onnx as exporting
from onevec.export.onnx import GRAPH, to_onnx
from onevec.poolers import POOLERS
from onevec.poolers.segments import PaddedSegments
from onevec.vector.parts import PARTS
from tests.export.conftest import encoded, error, fitted

DIM = 12
OPTIONS = {  # besides the defaults: what changes the path through a function
    "pna": [{"length_scalers": True}],
    "covariance": [{"centre": "sample", "signed_root": True}],
    "bag": [{"soft": False}],
    "vlad": [{"soft": True, "intra_normalise": True}],
    "fisher": [{"power": False, "normalise": False}],
    "random_projection": [{"nonlinearity": "tanh", "reduce": "max"}],
    "lagged_covariance": [{"lags": (1, 3), "differences": False}],
    "bigrams": [{"soft": True}],
    "whitened_parts": [{"power": 1.0, "width": 3}],
    "query_attention": [{"values": "linear"}],
    "multihead_attention": [{"seeds": 2}],
    "recurrent": [{"bidirectional": True}],
    "netvlad": [{"intra_normalise": True}],
}
GROUPS = {
    "recipe": "mean|std|quantiles|covariance|vlad|dct|lagged_covariance|bigrams|kernel_transport",
    "statistics": "first|last|max|min|statistics|moments|power_means|pna|position_weighted",
    "weights": "sif|idf|codeword_sif|codeword_idf|correlation|segment_means",
    "books": "bag|fisher|optimal_transport|sliced_wasserstein|kernel_mean|random_projection",
    "order": "random_convolutions|whitened_parts|recurrent|convolution|residual",
    "attention": "attention|gated_attention|attentive_statistics|query_attention|latent_attention",
    "sets": "multihead_attention|deep_sets|power_mean|token_graph",
    "trained": "trained_transport|trained_sliced_wasserstein|netvlad",
}


@pytest.fixture(scope="module")
def ragged():
    source = torch.Generator().manual_seed(0)
    lengths = torch.tensor([1, 2, 3, 5, 8, 30, 17, 4] * 12)
    values = torch.randn(int(lengths.sum()), DIM, generator=source)
    values = values * torch.linspace(0.5, 2, DIM) + torch.linspace(-1, 3, DIM)
    ids = torch.randint(0, 40, (len(values),), generator=source)
    return Ragged(values, lengths, {"ids": ids})


def rectangle(sequences, longest, fill):
    """Pad a Ragged on the right."""
    place = torch.arange(longest)
    mask = place < sequences.lengths.unsqueeze(1)
    values = torch.full((*mask.shape, sequences.dim), fill)
    values[mask] = sequences.values
    ids = torch.zeros(mask.shape, dtype=torch.int64)
    ids[mask] = sequences.fields["ids"]
    return values, mask, ids


EXPORTED = [name for name in POOLERS if name != "layer_mix"]  # it reads several layers


def test_the_groups_hold_every_pooler():
    assert set("|".join(GROUPS.values()).split("|")) == set(EXPORTED)


def padded(pooler, sequences, longest, fill):
    values, mask, ids = rectangle(sequences, longest, fill)
    return pooler.pool(PaddedSegments(values.flatten(0, 1), mask, {"ids": ids.flatten()}))


@pytest.mark.parametrize("name", EXPORTED)
def test_poolers_give_the_same_on_padded_sequences(ragged, name):
    for options in ({}, *OPTIONS.get(name, [])):
        pooler = POOLERS[name](**options).fit(ragged)
        with torch.no_grad():
            torch.manual_seed(1)
            for parameter in pooler.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
            some = ragged[5:13]
            wanted = pooler(some)
            found = padded(pooler, some, 33, fill=7.0)
        assert error(found.numpy(), wanted.numpy()) < 1e-5, options


@pytest.mark.parametrize("name", EXPORTED)
def test_poolers_give_finite_vectors_without_a_token(ragged, name):
    pooler = POOLERS[name]().fit(ragged)
    empty = Ragged(torch.zeros(0, DIM), torch.tensor([0, 0]), {"ids": torch.zeros(0).long()})
    with torch.no_grad():
        torch.testing.assert_close(padded(pooler, empty, 4, fill=0.0), pooler(empty))


def feed(session, inputs):
    wanted = {entry.name for entry in session.get_inputs()}
    return session.run(None, {k: np.asarray(v) for k, v in inputs.items() if k in wanted})[0]


def check(folder, ragged, model):
    facts = to_onnx(model, folder / "onnx")
    assert facts["difference"] < 1e-4
    onnx.checker.check_model(str(folder / "onnx" / GRAPH))
    session = onnxruntime.InferenceSession(str(folder / "onnx" / GRAPH))
    for first, last in ((0, 1), (0, 2), (1, 4), (4, 8), (3, 8)):
        some = ragged[first:last]
        longest = int(some.lengths.max())
        for width in (longest, longest + 5):
            values, mask, ids = rectangle(some, width, fill=float("nan"))
            inputs = {"tokens": values, "mask": mask.long(), "ids": ids}
            assert error(feed(session, inputs), model.transform(some)) < 1e-4
    return facts, session


def test_a_graph_of_the_recipe_on_ragged_batches(tmp_path, ragged):
    facts, session = check(tmp_path, ragged, fitted(ragged, GROUPS["recipe"]))
    assert facts["inputs"] == ["tokens", "mask"]
    shapes = {entry.name: entry.shape for entry in session.get_inputs()}
    assert all(isinstance(size, str) for size in (*shapes["tokens"][:2], *shapes["mask"]))
    assert shapes["tokens"][2] == DIM and session.get_outputs()[0].name == "vector"
    card = (tmp_path / "onnx/README.md").read_text()
    assert '{"tokens": tokens, "mask": mask}' in card and "library_name" in card


def test_a_graph_that_reads_ids(tmp_path, ragged):
    facts, _ = check(tmp_path, ragged, fitted(ragged, "idf|max"))
    assert facts["inputs"] == ["tokens", "mask", "ids"]


DEFAULT = [{}, {"dim": 9}, {"parts": [name for name in PARTS if name != "cls"]}]


@pytest.mark.parametrize("options", DEFAULT, ids=["default", "shortened", "all parts"])
def test_graphs_of_parts(tmp_path, ragged, options):
    model = OneVec(**options).fit(ragged)
    assert len(model.parts_) >= 3
    check(tmp_path, ragged, model)


def test_a_graph_of_the_mean_that_is_kept(tmp_path, ragged):
    model = OneVec().fit(ragged[:20])
    assert [part["name"] for part in model.parts_] == ["mean"]
    check(tmp_path, ragged, model)


def test_a_graph_of_several_layers_from_token_vectors(tmp_path, layered_model, layered):
    facts = to_onnx(layered_model, tmp_path / "onnx")
    assert facts["inputs"] == ["tokens", "mask", "cls"] and facts["layers"] == [3, 1]
    assert facts["difference"] < 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / GRAPH))
    wanted = layered_model.transform(layered)
    stores = [layered.layer(layer) for layer in facts["layers"]]
    for rows in ([0], [0, 5, 1], [9, 8, 7, 6]):
        held = [store[np.array(rows)] for store in stores]
        several = [
            rectangle(each, int(each.lengths.max()) + 2, fill=float("nan"))[:2] for each in held
        ]
        given = {
            "tokens": torch.stack([values for values, _ in several], dim=2),
            "mask": several[0][1].long(),
            "cls": torch.stack([store.cls_rows(np.array(rows)) for store in stores], dim=1),
        }
        assert error(feed(session, given), wanted[rows]) < 1e-4


def test_a_graph_of_several_layers_from_token_ids(tmp_path, bert, layered_model, layered, proteins):
    facts = to_onnx(layered_model, tmp_path / "onnx", encoder=bert)
    assert facts["layer"] == [3, 1] and facts["difference"] < 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / GRAPH))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "onnx")
    wanted = layered_model.transform(layered)
    for rows in ([0], [0, 4], [2, 9, 1, 30]):
        batch = tokenizer([proteins[row] for row in rows], padding=True, return_tensors="np")
        assert error(feed(session, batch), wanted[rows]) < 1e-4
    graph = onnx.load(str(tmp_path / "onnx" / GRAPH)).graph
    gathers = [node for node in graph.node if node.op_type == "Softmax"]
    assert len(gathers) == 3  # one attention for each layer of the encoder: it runs once


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_graphs_of_every_pooler(tmp_path, ragged, group):
    check(tmp_path, ragged, fitted(ragged, GROUPS[group]))


INNER = {"layer": 1, "special_tokens": True, "max_length": 12}


@pytest.mark.parametrize("options", [{}, pytest.param(INNER, marks=pytest.mark.slow)])
def test_a_graph_from_token_ids(tmp_path, encoder, texts, options):
    tokens = encoded(texts, encoder, **options)
    model = fitted(tokens, "mean|std|dct|idf|max")
    facts = to_onnx(model, tmp_path / "onnx", encoder=encoder, licence="mit", **options)
    assert facts["inputs"] == ["input_ids", "attention_mask"] and facts["difference"] < 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / GRAPH))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "onnx")
    wanted = model.transform(tokens)
    for rows in ([0], [0, 1], [4, 1, 6], [2, 5, 3, 8, 0]):
        batch = tokenizer(
            [texts[row] for row in rows], padding=True, truncation=True,
            max_length=facts["max_length"], return_tensors="np",
        )  # fmt: skip
        assert error(feed(session, batch), wanted[rows]) < 1e-4
    card = (tmp_path / "onnx/README.md").read_text()
    assert 'license: "mit"' in card and str(tmp_path) not in card


def refused(folder, model, kind=InputError, **options):
    with pytest.raises(kind) as caught:
        to_onnx(model, folder / "onnx", **options)
    assert not list(folder.iterdir())
    return str(caught.value)


def test_refusals_leave_nothing(tmp_path, ragged, encoder, tokens, monkeypatch):
    model = fitted(tokens, "mean")
    model.fingerprint_ = "sha256:of-another"
    assert "pass that encoder" in refused(tmp_path, model, StoreError, encoder=encoder)
    layers = ragged.values.unsqueeze(1).expand(-1, 3, -1)
    mixed = Ragged(ragged.values, ragged.lengths, {"layers": layers})
    assert "reads the token field 'layers'" in refused(tmp_path, fitted(mixed, "layer_mix"))

    def fails(*_):
        raise RuntimeError("no such operation")

    with monkeypatch.context() as patched:
        patched.setattr(exporting, "_export", fails)
        assert "cannot write this model as a graph" in refused(tmp_path, fitted(ragged, "mean"))
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    assert "nothing was written" in refused(tmp_path, fitted(ragged, "mean"))


def test_what_stands_there_is_kept(tmp_path, ragged):
    (tmp_path / "onnx").mkdir()
    with pytest.raises(InputError, match="it is no ONNX export"):
        to_onnx(fitted(ragged, "mean"), tmp_path / "onnx", overwrite=True)


def test_onevec_reads_the_manifest_of_what_it_wrote(tmp_path, ragged):
    to_onnx(fitted(ragged, "mean"), tmp_path / "onnx")
    facts = json.loads((tmp_path / "onnx/onevec.json").read_text())
    assert facts["road"] == "onnx" and facts["dim"] == 6
    assert to_onnx(fitted(ragged, "mean"), tmp_path / "onnx", overwrite=True)["difference"] < 1e-4
