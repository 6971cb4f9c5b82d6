"""Tiny encoders of the usual kinds give what transformers computes, token by token."""

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from onevec import encode
from tests.tokens.test_encoder_kinds import save_tokenizer, wave

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
RATE = 16_000
SMALL = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16,
}  # fmt: skip
CONVOLUTIONS = {
    "conv_dim": (8,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2
}  # fmt: skip
WHISPER = {
    f"{side}_{what}": n
    for side in ("encoder", "decoder")
    for what, n in (("layers", 2), ("attention_heads", 2), ("ffn_dim", 16))
}


def close(found, wanted):
    np.testing.assert_allclose(found.numpy(), np.asarray(wanted), atol=2e-4)


# --- audio: half a second, a second and a half --------------------------------------------------

AUDIO = {
    "wav2vec2": (lambda: hf.Wav2Vec2Model(hf.Wav2Vec2Config(**SMALL, **CONVOLUTIONS)),
                 hf.Wav2Vec2FeatureExtractor, [24, 74]),
    "hubert": (lambda: hf.HubertModel(hf.HubertConfig(**SMALL, **CONVOLUTIONS)),
               hf.Wav2Vec2FeatureExtractor, [24, 74]),
    "wavlm": (lambda: hf.WavLMModel(hf.WavLMConfig(**SMALL, **CONVOLUTIONS)),
              hf.Wav2Vec2FeatureExtractor, [24, 74]),
    "whisper": (lambda: hf.WhisperModel(hf.WhisperConfig(
        vocab_size=60, d_model=16, num_mel_bins=8, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1, **WHISPER)),
        lambda: hf.WhisperFeatureExtractor(feature_size=8), [25, 75]),
    "ast": (lambda: hf.ASTModel(hf.ASTConfig(**SMALL, num_mel_bins=32, max_length=256)),
            lambda: hf.ASTFeatureExtractor(num_mel_bins=32, max_length=256), [10, 30]),
}  # fmt: skip


@pytest.mark.parametrize("kind", AUDIO)
def test_audio(kind, tmp_path):
    torch.manual_seed(0)
    make, extractor, lengths = AUDIO[kind]
    make().save_pretrained(tmp_path)
    extractor().save_pretrained(tmp_path)
    waves = [wave(0.5), wave(1.5)]
    found = encode(waves, str(tmp_path), dtype="float32", progress=False)
    assert found.lengths.tolist() == lengths
    for row, each in enumerate(waves):
        alone = encode([each], str(tmp_path), dtype="float32", progress=False)
        close(alone.values, found[row])
    stretched = {"array": np.repeat(waves[0]["array"], 2), "sampling_rate": 2 * RATE}
    assert encode([stretched], str(tmp_path), progress=False).lengths.tolist() == lengths[:1]
    if kind in ("whisper", "ast"):  # whose frames of padding are compared in test_encoder_kinds
        return
    model = hf.AutoModel.from_pretrained(tmp_path).eval()
    inputs = extractor()(waves[0]["array"], sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        close(found[0], model(inputs["input_values"]).last_hidden_state[0])


# --- images -------------------------------------------------------------------------------------

VISION = {**SMALL, "image_size": 32, "patch_size": 8}
SIZE = {"height": 32, "width": 32}
IMAGES = {
    "vit": (lambda: hf.ViTModel(hf.ViTConfig(**VISION)), lambda: ViTImageProcessorPil(size=SIZE)),
    "dinov2": (lambda: hf.Dinov2Model(hf.Dinov2Config(**VISION)),
               lambda: ViTImageProcessorPil(size=SIZE)),
    "clip": (lambda: hf.CLIPVisionModel(hf.CLIPVisionConfig(**VISION)),
             lambda: CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SIZE)),
}  # fmt: skip


@pytest.mark.parametrize("kind", IMAGES)
def test_images(kind, tmp_path):
    torch.manual_seed(0)
    make, processor = IMAGES[kind]
    make().save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)) for _ in range(3)]
    found = encode(pictures, str(tmp_path), dtype="float32", progress=False)
    assert found.lengths.tolist() == [16] * 3
    pixels = hf.AutoImageProcessor.from_pretrained(tmp_path)(images=pictures, return_tensors="pt")
    model = hf.AutoModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        states = model(pixel_values=pixels["pixel_values"]).last_hidden_state
    close(found.values, states[:, 1:].reshape(-1, 16))


# --- text ---------------------------------------------------------------------------------------

LETTERS = "MKTAGWLV"
FRAMED = {"pad_token": "[PAD]", "unk_token": "[UNK]", "eos_token": "[SEP]"}
BARE = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
TEXT = {
    "bert": (lambda n: hf.BertModel(hf.BertConfig(**SMALL, vocab_size=n)), FRAMED),
    "roberta": (lambda n: hf.RobertaModel(hf.RobertaConfig(
        **SMALL, vocab_size=n, pad_token_id=0, max_position_embeddings=66)), FRAMED),
    "esm": (lambda n: hf.EsmModel(hf.EsmConfig(
        **SMALL, vocab_size=n, pad_token_id=0, mask_token_id=1,
        position_embedding_type="rotary")), FRAMED),
    "t5": (lambda n: hf.T5EncoderModel(hf.T5Config(
        vocab_size=n, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2)), FRAMED),
    "gpt2": (lambda n: hf.GPT2Model(hf.GPT2Config(
        vocab_size=n, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)), BARE),
    "modernbert": (lambda n: hf.ModernBertModel(hf.ModernBertConfig(
        **SMALL, vocab_size=n, pad_token_id=0, bos_token_id=None, eos_token_id=None,
        cls_token_id=None, sep_token_id=None)), FRAMED),
    "mamba": (lambda n: hf.MambaModel(hf.MambaConfig(
        vocab_size=n, hidden_size=16, num_hidden_layers=2, state_size=4, pad_token_id=0,
        bos_token_id=None, eos_token_id=None)), BARE),
}  # fmt: skip


@pytest.mark.parametrize("kind", TEXT)
def test_text(kind, tmp_path):
    torch.manual_seed(0)
    make, special = TEXT[kind]
    size = save_tokenizer(tmp_path, LETTERS, **special)
    make(size).save_pretrained(tmp_path)
    texts = ["MKTAG", "W", "LVLVLVLVLVLV"]
    found = encode(texts, str(tmp_path), dtype="float32", progress=False)
    assert found.lengths.tolist() == [len(text) for text in texts]
    tokenizer = hf.AutoTokenizer.from_pretrained(tmp_path)
    model = hf.AutoModel.from_pretrained(tmp_path).eval()
    model = model.get_encoder() if kind == "t5" else model
    for row, text in enumerate(texts):  # alone and without padding
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            close(found[row], model(input_ids=ids).last_hidden_state[0, : len(text)])
