"""Every kind of encoder that `encode` opens."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from onevec import encode
from onevec.errors import InputError, MissingExtraError
from onevec.tokens.frozen import cut_windows
from onevec.tokens.store import TokenStore

CLOSE = {"atol": 1e-5, "rtol": 0}


def reference(folder, text, layer=-1):
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        return model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)[
            "hidden_states"
        ][layer][0]


def test_text_equals_transformers(bert, proteins):
    tokens = encode(proteins, bert, dtype="float32", batch_tokens=100)
    assert tokens.lengths.tolist() == [len(p) for p in proteins]
    for row in (0, 7, 29):
        torch.testing.assert_close(tokens[row], reference(bert, proteins[row])[1:-1], **CLOSE)
    alphabet = "ACDEFGHIKLMNPQRSTVWY"
    expected = [5 + alphabet.index(letter) for letter in "".join(proteins)]
    assert tokens.fields["ids"].tolist() == expected


def test_inner_layers_and_special_tokens(bert, proteins, tmp_path):
    store = encode(proteins, bert, out=tmp_path / "s", layers=[0, -2, -1], dtype="float32")
    assert store.layers == [0, 2, 3]
    for layer in (0, 2, 3):
        expected = reference(bert, proteins[3], layer)[1:-1]
        torch.testing.assert_close(store.layer(layer)[3], expected, **CLOSE)
    torch.testing.assert_close(store.layer(-2)[3], store.layer(2)[3])
    assert store.fingerprint.endswith("@layer3")
    assert store.layer(0).fingerprint.endswith("@layer0")
    whole = encode(proteins, bert, special_tokens=True, dtype="float32")
    torch.testing.assert_close(whole[3], reference(bert, proteins[3]), **CLOSE)
    with pytest.raises(InputError, match="which has 3: pass 0"):
        encode(proteins, bert, layers=7)


@pytest.mark.parametrize("kind", ["bert", "sentence_folder", "onnx_folder"])
def test_alone_or_in_a_batch(kind, request, proteins):
    folder = request.getfixturevalue(kind)
    together = encode(proteins, folder, dtype="float32", batch_tokens=500)
    for row in (0, 11, 29):
        alone = encode([proteins[row]], folder, dtype="float32")
        torch.testing.assert_close(alone.values, together[row], **CLOSE)
    torch.testing.assert_close(
        together[11], reference(request.getfixturevalue("bert"), proteins[11])[1:-1], **CLOSE
    )


def test_sentence_transformer_object(sentence_folder, bert, proteins):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(sentence_folder), device="cpu")
    for layer in (-1, 1):
        of_object = encode(proteins, model, layers=layer, dtype="float32")
        of_folder = encode(proteins, bert, layers=layer, dtype="float32")
        torch.testing.assert_close(of_object.values, of_folder.values, **CLOSE)


def test_minilm_mean_is_its_embedding(minilm):
    from sentence_transformers import SentenceTransformer

    texts = ["RNA folds.", "A protein is a chain of amino acids, and it folds.", "logs"]
    model = SentenceTransformer(str(minilm), device="cpu")
    tokens = encode(texts, minilm, special_tokens=True, dtype="float32")
    means = torch.stack([torch.nn.functional.normalize(t.mean(0), dim=0) for t in tokens])
    torch.testing.assert_close(means, torch.from_numpy(model.encode(texts)), **CLOSE)


def test_images(vit, tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (40 + i, 30, 3), dtype=np.uint8) for i in range(5)]
    arrays = encode(images, vit, dtype="float32")
    pictures = [Image.fromarray(image) for image in images]
    assert arrays.lengths.tolist() == [16] * 5
    torch.testing.assert_close(encode(pictures, vit, dtype="float32").values, arrays.values)
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number}.png")
    paths = [str(tmp_path / f"{number}.png") for number in range(5)]
    torch.testing.assert_close(encode(paths, vit, dtype="float32").values, arrays.values)
    torch.testing.assert_close(encode(images[2:3], vit, dtype="float32").values, arrays[2], **CLOSE)
    assert encode(images, vit, special_tokens=True).lengths.tolist() == [17] * 5
    with pytest.raises(InputError, match=r"there is no file .*none\.png"):
        encode([paths[0], str(tmp_path / "none.png")], vit)


def test_audio(wav2vec):
    rng = np.random.default_rng(0)
    bare = [rng.standard_normal(n).astype(np.float32) for n in (400, 900, 400, 650)]
    waves = [{"array": wave, "sampling_rate": 16_000} for wave in bare]
    with pytest.warns(UserWarning, match="4 waveforms do not say their sampling rate .* at 16000"):
        encode(bare, wav2vec)
    tokens = encode(waves, wav2vec, dtype="float32")
    assert tokens.lengths.tolist() == [18, 43, 18, 31]
    for row in range(4):
        alone = encode(waves[row : row + 1], wav2vec, dtype="float32")
        torch.testing.assert_close(alone.values, tokens[row], **CLOSE)
    with pytest.warns(UserWarning, match="1 waveforms were longer than 700 samples"):
        assert encode(waves, wav2vec, max_length=700).lengths[1] < 43
    with pytest.raises(InputError, match="no waveform"):
        encode([bare[0], np.array([np.nan], dtype=np.float32)], wav2vec)
    with pytest.raises(InputError, match="cannot read a waveform of 3 samples"):
        encode([bare[0][:3]], wav2vec)


def test_callable():
    def spell(sequences):
        return [np.array([[float(ord(c)), 1.0] for c in s], dtype=np.float32) for s in sequences]

    tokens = encode(["ab", "c"], spell, dtype="float32")
    assert tokens.values.tolist() == [[97, 1], [98, 1], [99, 1]]
    assert tokens.lengths.tolist() == [2, 1]
    with pytest.raises(InputError, match="returned 1 arrays for 2 sequences"):
        encode(["ab", "c"], lambda s: spell(s[:1]))
    with pytest.raises(InputError, match="returned NoneType for 2"):
        encode(["ab", "c"], lambda s: None)
    with pytest.raises(
        InputError, match=r"got layers=2 for .* gives the last only: leave layers out"
    ):
        encode(["ab", "c"], spell, layers=2)
    steps = encode([np.arange(3), np.arange(2)], lambda s: [np.eye(4)[x] for x in s])
    assert steps.lengths.tolist() == [3, 2]


def test_too_long_is_cut_with_one_warning(bert):
    texts = ["A" * 100, "C" * 62, "D" * 63]
    with pytest.warns(UserWarning, match="2 sequences were longer than 64 and were cut") as seen:
        tokens = encode(texts, bert)
    assert len(seen) == 1
    assert tokens.lengths.tolist() == [62, 62, 62]
    with pytest.raises(InputError, match="positions for 64 tokens"):
        encode(texts, bert, max_length=128)


def test_windows_give_one_vector_per_token(bert):
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("ACDE"), size=n)) for n in (200, 62, 63, 5)]
    tokens = encode(texts, bert, long="window", overlap=20, dtype="float32")
    assert tokens.lengths.tolist() == [200, 62, 63, 5]
    again = ["ACDE".index(letter) for letter in texts[0]]
    assert [int(i) for i in tokens.fields["ids"][:200]] == [[5, 6, 7, 8][i] for i in again]
    # Far from any border a token's vector is that of the window it was read in.
    torch.testing.assert_close(tokens[0][:50], reference(bert, texts[0][:62])[1:51], **CLOSE)
    framed = encode(texts, bert, long="window", overlap=20, special_tokens=True)
    assert framed.lengths.tolist() == [202, 64, 65, 7]
    with pytest.raises(InputError, match="overlap=64 for windows of 62"):
        encode(texts, bert, long="window")


@pytest.mark.parametrize("length", [10, 11, 17, 64, 101])
@pytest.mark.parametrize("overlap", [0, 3, 8, 9])
def test_windows_cover_each_token_once(length, overlap):
    windows = cut_windows(length, 10, overlap)
    kept = [t for _, _, first, last in windows for t in range(first, last)]
    assert kept == list(range(length))
    for start, stop, first, last in windows:
        assert stop - start == 10
        assert start <= first <= last <= stop
    for (_, stop, _, last), (start, _, _, _) in pairwise(windows):
        assert abs((last - start) - (stop - last)) <= 1  # the middle of the overlap


def test_bf16_is_near(bert, proteins):
    half = encode(proteins, bert, precision="bf16", dtype="float32")
    full = encode(proteins, bert, dtype="float32")
    assert (half.values - full.values).abs().mean() < 0.05


def test_fingerprint_knows_the_weights(bert, sentence_folder, minilm, tmp_path):
    from transformers import AutoModel, AutoTokenizer

    first = encode(["ACD"], bert, out=tmp_path / "a").fingerprint
    assert encode(["MK"], bert, out=tmp_path / "b").fingerprint == first
    assert encode(["MK"], sentence_folder, out=tmp_path / "c").fingerprint == first
    model = AutoModel.from_pretrained(bert)
    with torch.no_grad():
        model.encoder.layer[0].output.dense.bias[0] += 1
    model.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(bert).save_pretrained(tmp_path / "other")
    assert encode(["MK"], tmp_path / "other", out=tmp_path / "d").fingerprint != first
    assert TokenStore(tmp_path / "a").info["encoder"]["name"] == str(bert)


def test_weights_that_are_missing_are_told(bert, tmp_path):
    from safetensors.torch import load_file, save_file
    from transformers import AutoModel, AutoTokenizer

    AutoModel.from_pretrained(bert).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(bert).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("encoder.layer.1.output.dense.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.warns(UserWarning, match="1 weights of .* are random"):
        encode(["ACD"], tmp_path)


def test_unknown_encoders(tmp_path, bert, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *a, **k: 1 / 0)
    for name in ("nobody/nothing", "/no/such/folder"):
        with pytest.raises(InputError, match="there is no encoder"):
            encode(["ACD"], name)
    with pytest.raises(InputError, match="holds no encoder"):
        encode(["ACD"], tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="cannot load"):
        encode(["ACD"], tmp_path)
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot read the ONNX encoder"):
        encode(["ACD"], tmp_path / "broken.onnx")
    with pytest.raises(InputError, match="got a Linear as encoder"):
        encode(["ACD"], torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match="got a int as encoder"):
        encode(["ACD"], 3)
    with pytest.raises(InputError, match="raw text without an encoder"):
        encode(["ACD"])
    with pytest.raises(InputError, match="leave the encoder out"):
        encode([np.zeros((3, 4))], bert)
    with pytest.raises(InputError, match="does not have: use"):
        encode(["ACD"], bert, device="toaster")


def test_empty_sequences_are_named(bert, tmp_path):
    with pytest.raises(InputError, match="sequence 1 is empty"):
        encode(["ACD", ""], bert, out=tmp_path / "s")
    assert not (tmp_path / "s").exists()
    with pytest.raises(InputError, match="sequence 1 is a int"):
        encode(["ACD", 3], bert)
    with pytest.raises(InputError, match="got no sequences"):
        encode([], bert)


def test_missing_packages(bert, proteins, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'onevec\[hf\]'"):
        encode(proteins, bert)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (bert.parent / "empty.onnx").write_bytes(b"")
    with pytest.raises(MissingExtraError, match=r"pip install 'onevec\[onnx\]'"):
        encode(proteins, bert.parent / "empty.onnx")


def test_a_pretrained_folder(tmp_path, proteins):
    from onevec import pretrain

    pretrain(proteins * 4, tmp_path / "m", steps=2, dim=16, layers=1, heads=2, context=32)
    tokens = encode(proteins, tmp_path / "m", long="window", overlap=8)
    assert tokens.lengths.tolist() == [len(protein) for protein in proteins]
