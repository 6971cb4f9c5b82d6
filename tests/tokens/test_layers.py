"""Several hidden states and the classification token in one store."""

import functools
import json

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onevec import encode, pretrain
from onevec.errors import InputError, StoreError
from onevec.ragged import Ragged
from onevec.tokens import encoding
from onevec.tokens.frozen import CallableEncoder
from onevec.tokens.layout import bytes_text
from onevec.tokens.store import TokenStore, TokenStoreWriter

from .conftest import ALPHABET, tiny_tokenizer

CLOSE = {"atol": 1e-5, "rtol": 0}
# One unit in the last place of float16 at the size of these states, and half a step of int8.
ATOL = {"float32": 1e-5, "float16": 2e-3, "int8": 5e-2}


def states(folder, text):
    """All hidden states of one text, (layers, tokens, dim), by transformers."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        found = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
    return torch.stack([*found.hidden_states[:-1], found.last_hidden_state])[:, 0]


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of a few sequences."""
    writer = functools.partial(TokenStoreWriter, shard_bytes=2_000)
    monkeypatch.setattr(encoding, "TokenStoreWriter", writer)


@pytest.fixture
def ragged_texts():
    """One-token sequences, a full input, and lengths between."""
    rng = np.random.default_rng(1)
    lengths = [1, 1, 2, 62, 1, 3, 5, 8, 1, 13, 21, 34, 55, 62, 1]
    return ["".join(rng.choice(list(ALPHABET), size=n)) for n in lengths]


@pytest.mark.parametrize(
    ("layers", "depth", "known"),
    [
        ("last", 12, [12]),
        ("middle", 12, [6]),
        ("last,middle", 12, [6, 12]),
        ("last, 6", 12, [6, 12]),
        ("12,6", 12, [6, 12]),
        ("all", 3, [1, 2, 3]),
        ("0,all", 3, [0, 1, 2, 3]),
        ("middle,last", 1, [1]),
        ("middle", 7, [3]),
        ([-1, "middle", 12, 12], 12, [6, 12]),
        ((0, -13), 12, [0]),
        (-2, 12, [11]),
        (np.int64(4), 12, [4]),
        (np.array([4, 2]), 12, [2, 4]),
        ("-1", 12, [12]),
        ("last", None, [-1]),
        ([-1, "last"], None, [-1]),
    ],
)
def test_names_of_layers(layers, depth, known):
    encoder = CallableEncoder(len)
    encoder.depth = depth
    assert encoder.known_layers(layers) == known


@pytest.mark.parametrize("layers", ["", "first", "1;2", "last,", [], 1.5, True, None, [[1]], {1}])
def test_what_names_no_layer(layers):
    with pytest.raises(InputError, match=r'got layers=.*: pass "last"'):
        encode(["ACD"], len, layers=layers)


def test_layers_that_an_encoder_does_not_have(bert, tmp_path):
    for layers in ("4", [-5], "last,9"):
        with pytest.raises(InputError, match="which has 3: pass 0"):
            encode(["ACD"], bert, layers=layers, out=tmp_path / "s")
    for layers in ("middle", "all", "last,0"):
        with pytest.raises(InputError, match="does not say how many layers it has"):
            encode(["ACD"], len, layers=layers, out=tmp_path / "s")
    with pytest.raises(InputError, match="several need a store"):
        encode(["ACD"], bert, layers="all")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("kind", ["bert", "sentence_folder"])
@pytest.mark.usefixtures("small_shards")
def test_content_and_cls_are_the_models_states(request, ragged_texts, tmp_path, kind, dtype):
    folder, bert = request.getfixturevalue(kind), request.getfixturevalue("bert")
    options = {"dtype": dtype, "batch_tokens": 150}
    store = encode(ragged_texts, folder, out=tmp_path / "s", layers="last,middle,0", **options)
    store.verify()
    assert len(store.info["shards"]) > 3
    assert store.layers == [0, 1, 3]
    assert store.current_layer == 3
    assert store.has_cls
    for layer in store.layers:
        read = store.layer(layer)
        assert read.cls.dtype == np.float32
        assert read.cls.shape == (len(ragged_texts), 16)
        for row, text in enumerate(ragged_texts):
            expected = states(bert, text)[layer]
            near = {"atol": ATOL[dtype], "rtol": 1e-3 if dtype == "float16" else 0}
            torch.testing.assert_close(read[row].float(), expected[1:-1], **near)
            exact = {"atol": 1e-5, "rtol": 0 if dtype == "float32" else 2**-10}
            torch.testing.assert_close(torch.from_numpy(read.cls[row]), expected[0], **exact)
    # One layer alone, or without CLS (in memory), has the same content, bit for bit.
    alone = encode(ragged_texts, folder, out=tmp_path / "t", **options)
    assert alone.layers == [3]
    np.testing.assert_array_equal(alone.cls, store.cls)
    if dtype != "int8":  # whose scales are those of a shard
        assert torch.equal(alone[:].values, store[:].values)
        memory = encode(ragged_texts, folder, **options)
        assert torch.equal(memory.values, store[:].values)
        assert store.stacked()[2:5].fields["layers"].shape == (65, 3, 16)


def test_one_pass_for_all_layers(bert, proteins, tmp_path, monkeypatch):
    from transformers import BertModel

    passes = []
    forward = BertModel.forward
    monkeypatch.setattr(BertModel, "forward", lambda *a, **k: passes.append(1) or forward(*a, **k))
    encode(proteins, bert, out=tmp_path / "one", special_tokens=True, batch_tokens=200)
    one = len(passes)
    store = encode(proteins, bert, out=tmp_path / "all", layers="all", batch_tokens=200)
    assert len(passes) == 2 * one
    assert one > 1
    assert store.layers == [1, 2, 3]


def test_special_tokens_among_the_tokens_leave_no_cls(bert, proteins, tmp_path):
    store = encode(proteins, bert, out=tmp_path / "s", special_tokens=True, layers="all")
    assert store.lengths.tolist() == [len(text) + 2 for text in proteins]
    assert not store.has_cls
    assert store.cls is None
    with pytest.raises(InputError, match="has no classification token: its encoder has none, or"):
        store.cls_rows([0])


def test_cls_of_windows_is_their_mean(bert, tmp_path):
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list(ALPHABET), size=n)) for n in (7, 100, 62)]
    options = {"layers": "middle,last", "dtype": "float32", "overlap": 20}
    store = encode(texts, bert, out=tmp_path / "s", long="window", **options)
    windows = [texts[1][:62], texts[1][38:]]  # the last is full: it moves back
    for layer in (1, 3):
        cls = store.layer(layer).cls_rows(slice(None))
        mean = torch.stack([states(bert, window)[layer, 0] for window in windows]).mean(0)
        torch.testing.assert_close(cls[1], mean, **CLOSE)
        torch.testing.assert_close(cls[2], states(bert, texts[2])[layer, 0], **CLOSE)
    with pytest.warns(UserWarning, match="1 sequences were longer than 64"):
        cut = encode(texts, bert, out=tmp_path / "t", dtype="float32")
    torch.testing.assert_close(cut.cls_rows([1])[0], states(bert, windows[0])[3, 0], **CLOSE)


def test_cls_of_an_onnx_encoder(onnx_folder, bert, proteins, tmp_path):
    store = encode(proteins, onnx_folder, out=tmp_path / "s", dtype="float32")
    assert store.layers == [-1]
    torch.testing.assert_close(store.cls_rows([5])[0], states(bert, proteins[5])[-1, 0], **CLOSE)


def test_cls_of_images(vit, tmp_path):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (40 + i, 30, 3), dtype=np.uint8) for i in range(5)]
    options = {"dtype": "float32", "layers": "all"}
    store = encode(images, vit, out=tmp_path / "s", **options)
    whole = encode(images, vit, out=tmp_path / "t", special_tokens=True, **options)
    assert store.layers == [1, 2]
    assert not whole.has_cls
    for layer in (1, 2):
        read, kept = store.layer(layer), whole.layer(layer)
        assert read.lengths.tolist() == [16] * 5
        for row in range(5):
            assert torch.equal(read.cls_rows([row])[0], kept[row][0])
            assert torch.equal(read[row], kept[row][1:])


def gpt2(folder):
    from transformers import GPT2Config, GPT2Model

    config = GPT2Config(vocab_size=25, n_positions=64, n_embd=16, n_layer=2, n_head=2)
    GPT2Model(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)  # with [CLS] in front, which sees nothing here


def t5(folder):
    from tokenizers.processors import TemplateProcessing
    from transformers import T5Config, T5Model

    T5Model(
        T5Config(vocab_size=25, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    ).save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A [SEP]", special_tokens=[("[SEP]", 3)]
    )
    tokenizer.save_pretrained(folder)


def causal(folder):
    options = {"steps": 2, "dim": 16, "layers": 2, "heads": 2, "context": 64}
    pretrain([ALPHABET, ALPHABET[::-1]] * 20, folder, causal=True, **options)


@pytest.mark.parametrize("make", [gpt2, t5, causal])
def test_encoders_without_cls(make, proteins, tmp_path):
    make(tmp_path / "m")
    store = encode(proteins, tmp_path / "m", out=tmp_path / "s", layers="last,1")
    assert store.layers == [1, 2]
    assert store.lengths.tolist() == [len(text) for text in proteins]
    assert store.cls is None


def test_a_pretrained_encoder_has_cls(proteins, tmp_path):
    options = {"steps": 2, "dim": 16, "layers": 1, "heads": 2, "context": 64}
    pretrain(proteins * 4, tmp_path / "m", **options)
    store = encode(proteins, tmp_path / "m", out=tmp_path / "s", layers="last,middle")
    assert store.layers == [1]
    expected = states(tmp_path / "m", proteins[3])[1, 0]
    torch.testing.assert_close(store.cls_rows([3])[0], expected, atol=1e-5, rtol=2**-10)


def test_audio_arrays_and_functions_have_no_cls(wav2vec, tmp_path):
    wave = np.random.default_rng(0).standard_normal(400).astype(np.float32)
    waves = [{"array": wave, "sampling_rate": 16_000}] * 2
    arrays = [np.ones((3, 4), dtype=np.float32)]
    assert encode(waves, wav2vec, out=tmp_path / "a", layers="all").cls is None
    assert encode(arrays, out=tmp_path / "b").cls is None
    assert encode(["AB"], lambda s: arrays, out=tmp_path / "c").cls is None


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.usefixtures("small_shards")
def test_a_run_that_stops_in_the_middle(bert, ragged_texts, tmp_path, monkeypatch, dtype):
    options = {"layers": "all", "dtype": dtype, "batch_tokens": 16}
    whole = encode(ragged_texts, bert, out=tmp_path / "whole", **options)
    run, calls = encoding.Encoding._run, []

    def stopped(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run(*args)

    with monkeypatch.context() as patch:
        patch.setattr(encoding.Encoding, "_run", stopped)
        with pytest.raises(KeyboardInterrupt):
            encode(ragged_texts, bert, out=tmp_path / "s", **options)
    with pytest.raises(StoreError, match="is half-written"):
        TokenStore(tmp_path / "s")
    with pytest.raises(StoreError, match="its layers is"):
        encode(ragged_texts, bert, out=tmp_path / "s", resume=True, dtype=dtype)
    store = encode(ragged_texts, bert, out=tmp_path / "s", resume=True, **options)
    store.verify()
    assert store.ids == whole.ids
    for layer in (1, 2, 3):
        one, other = store.layer(layer), whole.layer(layer)
        np.testing.assert_allclose(one.cls, other.cls, atol=2e-3)
        torch.testing.assert_close(
            one[:].values.float(), other[:].values.float(), atol=ATOL[dtype], rtol=1e-3
        )


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=15),
    dim=st.integers(1, 5),
    layers=st.sampled_from([[4], [2, 4], [0, 2, 4]]),
    dtype=st.sampled_from(["float16", "int8", "float32"]),
    shard_bytes=st.integers(1, 300),
    data=st.data(),
)
def test_round_trip(tmp_path_factory, lengths, dim, layers, dtype, shard_bytes, data):
    path = tmp_path_factory.mktemp("store") / "s"
    count, rng = len(lengths), np.random.default_rng(0)
    values = {
        k: Ragged.from_list([rng.standard_normal((n, dim)).astype(np.float32) for n in lengths])
        for k in layers
    }
    front = {k: rng.standard_normal((count, dim)).astype(np.float32) for k in layers}
    cut = data.draw(st.integers(0, count))
    options = {"dtype": dtype, "layers": layers, "shard_bytes": shard_bytes}
    with TokenStoreWriter(path, **options) as writer:
        for rows in (slice(0, cut), slice(cut, count)):
            if rows.start < rows.stop:
                writer.append(
                    {k: ragged[rows] for k, ragged in values.items()},
                    cls={k: states[rows] for k, states in front.items()},
                )
    with TokenStoreWriter(path.with_name("plain"), **options) as writer:
        writer.append(values)
    store, plain = TokenStore(path), TokenStore(path.with_name("plain"))
    store.verify()
    assert plain.cls is None
    rows = data.draw(st.lists(st.integers(-count, count - 1), max_size=8))
    for layer in layers:
        read = store.layer(layer)
        stored = front[layer] if dtype == "float32" else front[layer].astype(np.float16)
        np.testing.assert_array_equal(read.cls, stored)
        picked = stored[rows].reshape(-1, dim)
        np.testing.assert_array_equal(read.cls_rows(np.array(rows, dtype=int)), picked)
        if dtype != "int8":
            assert torch.equal(read[:].values, plain.layer(layer)[:].values)


def test_what_the_writer_refuses(tmp_path):
    values = np.ones((2, 3), dtype=np.float32)
    tokens = [values, values]
    for cls in (values[:1], values[:, :2], values * np.nan, values[0]):
        with (
            pytest.raises(InputError, match=r"finite numbers of shape \(rows, dim\) = \(2, 3\)"),
            TokenStoreWriter(tmp_path / "s") as writer,
        ):
            writer.append(tokens, cls=cls)
    with (
        pytest.raises(InputError, match=r"layers \[1\] for a store of layers \[1, 2\]"),
        TokenStoreWriter(tmp_path / "s", layers=[1, 2]) as writer,
    ):
        both = dict.fromkeys((1, 2), Ragged.from_list(tokens))
        writer.append(both, cls={1: values})
    for first, second in ((values, None), (None, values)):
        with (
            pytest.raises(InputError, match="all rows of a store have one or none has"),
            TokenStoreWriter(tmp_path / "s", shard_bytes=1) as writer,
        ):
            writer.append(tokens, cls=first)
            writer.append(tokens, cls=second)
    assert not (tmp_path / "s").exists()


def test_cls_beyond_float16_is_clipped_and_counted(tmp_path):
    large = np.full((1, 3), 1e5, dtype=np.float32)
    with (
        pytest.warns(UserWarning, match='3 values beyond .* use dtype="float32" to'),
        TokenStoreWriter(tmp_path / "s", dtype="int8") as writer,
    ):
        writer.append([large], cls=large)
    assert TokenStore(tmp_path / "s").cls.tolist() == [[65504.0] * 3]


def test_damage_and_stores_of_earlier_versions(bert, tmp_path):
    path = tmp_path / "s"
    store = encode(["ACD", "A"], bert, out=path)
    shard = path / "shard-00000.arrow"
    content = shard.read_bytes()
    place = content.rindex(store.cls.astype(np.float16).tobytes())
    shard.write_bytes(content[: place + 1] + b"\x01" + content[place + 2 :])
    with pytest.raises(StoreError, match="its checksum is not the recorded one"):
        TokenStore(path).verify()
    index = json.loads((path / "index.json").read_text())
    index.pop("cls")
    (path / "index.json").write_text(json.dumps(index))
    assert TokenStore(path).cls is None
    (path / "index.json").write_text(json.dumps({**index, "cls": "yes"}))
    with pytest.raises(StoreError, match="index is damaged"):
        TokenStore(path)


def test_the_price(bert, proteins, tmp_path):
    one = encode(proteins, bert, out=tmp_path / "one")
    two = encode(proteins, bert, out=tmp_path / "two", layers="last,middle")
    small = encode(proteins, bert, out=tmp_path / "small", layers="last,middle", dtype="int8")
    assert one.bytes == (tmp_path / "one/shard-00000.arrow").stat().st_size
    tokens = sum(map(len, proteins))
    assert two.bytes - one.bytes == pytest.approx((tokens + 30) * 32, abs=1_500)
    assert two.bytes - small.bytes == pytest.approx(tokens * 32, abs=1_500)
    layer = bytes_text((tokens + 30) * 32)
    assert two.price == (
        f"2 layers (1, 3) with CLS: {bytes_text(two.bytes)} in float16, {layer} a layer; int8 "
        f"would take {bytes_text(two.bytes - tokens * 32)}"
    )
    assert small.price.endswith(f"float16 would take {bytes_text(small.bytes + tokens * 32)}")
    assert one.price.startswith(f"layer 3 with CLS: {bytes_text(one.bytes)} in float16; int8")
    assert two.price in repr(two)
    arrays = encode([np.ones((2, 3), dtype=np.float32)], out=tmp_path / "a", dtype="float32")
    assert arrays.price.startswith(f"{bytes_text(arrays.bytes)} in float32; float16 would take")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (999.7, "1 kB"), (1_310_000_000, "1.31 GB"),
     (655_000_000, "655 MB"), (999_600_000, "1 GB"), (2e12, "2 TB")],
)  # fmt: skip
def test_bytes_as_text(count, text):
    assert bytes_text(count) == text


@pytest.mark.usefixtures("small_shards")
def test_the_bar_says_what_it_will_take(bert, ragged_texts, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    encode(ragged_texts, bert, out=tmp_path / "s", batch_tokens=16)
    assert "kB of about" in capsys.readouterr().err
