"""Encoders that pad, that have a decoder, and that do not know what they are given."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTModel,
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from onevec import encode

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
RATE = 16_000


def wave(seconds):
    times = np.arange(int(seconds * RATE)) / RATE
    samples = (0.5 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)
    return {"array": samples, "sampling_rate": RATE}


def save_tokenizer(folder, letters, **special):
    known = [*special.values(), *letters]
    made = Tokenizer(
        models.WordLevel({each: i for i, each in enumerate(known)}, special["unk_token"])
    )
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    if "eos_token" in special:
        eos = special["eos_token"]
        made.post_processor = processors.TemplateProcessing(
            single=f"$A {eos}", special_tokens=[(eos, known.index(eos))]
        )
    PreTrainedTokenizerFast(tokenizer_object=made, **special).save_pretrained(folder)
    return len(known)


def test_whisper_gives_frames_of_real_sound_alone(tmp_path):
    torch.manual_seed(0)
    sizes = {f"{side}_{what}": n for side in ("encoder", "decoder")
             for what, n in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 16))}  # fmt: skip
    config = WhisperConfig(
        vocab_size=60, d_model=16, num_mel_bins=8, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1, **sizes,
    )  # fmt: skip
    WhisperModel(config).save_pretrained(tmp_path)
    WhisperFeatureExtractor(feature_size=8).save_pretrained(tmp_path)
    found = encode([wave(1), wave(2.5), wave(0.01)], str(tmp_path), progress=False)
    assert found.lengths.tolist() == [50, 125, 1]  # fifty a second
    with pytest.warns(UserWarning, match=r"1 waveforms were longer than 480,000 samples \(30 s\)"):
        assert encode([wave(31)], str(tmp_path), progress=False).lengths.tolist() == [1500]


def test_ast_gives_patches_of_real_sound_alone(tmp_path):
    torch.manual_seed(0)
    config = ASTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        num_mel_bins=32, max_length=256,
    )  # fmt: skip
    ASTModel(config).save_pretrained(tmp_path)
    ASTFeatureExtractor(num_mel_bins=32, max_length=256).save_pretrained(tmp_path)
    found = encode([wave(1), wave(2)], str(tmp_path), progress=False)
    bands = (32 - 16) // 10 + 1
    assert found.lengths.tolist() == [10 * bands, 20 * bands]  # a patch for ten frames of 10 ms
    whole = ASTModel.from_pretrained(tmp_path).eval()
    features = ASTFeatureExtractor.from_pretrained(tmp_path)(
        [wave(1)["array"]], sampling_rate=RATE, return_tensors="pt"
    )
    with torch.no_grad():
        states = whole(**features).last_hidden_state[0, 2:].reshape(bands, -1, 16)
    np.testing.assert_allclose(
        found[0].float().numpy(), states[:, :10].reshape(-1, 16).numpy(), atol=2e-3
    )


@pytest.mark.parametrize("two_sided", [False, True])
def test_t5_folders_open_as_encoders(two_sided, tmp_path, recwarn):
    torch.manual_seed(0)
    size = save_tokenizer(
        tmp_path, "MKTAGW", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    config = T5Config(
        vocab_size=size, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2,
        is_encoder_decoder=two_sided,
    )  # fmt: skip
    model = T5EncoderModel(config).eval()
    model.save_pretrained(tmp_path)
    found = encode(["MKTA", "GGW"], str(tmp_path), dtype="float32", progress=False)
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([[3, 4, 5, 6, 1]])).last_hidden_state[0, :4]
    torch.testing.assert_close(found[0], wanted, atol=1e-5, rtol=0)
    assert not [each for each in recwarn if "random" in str(each.message)]


def test_unknown_tokens_are_told(tmp_path):
    torch.manual_seed(0)
    size = save_tokenizer(tmp_path, "ACGU", pad_token="<pad>", unk_token="<unk>")
    config = BertConfig(
        vocab_size=size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"4 of 8 tokens \(50.0 %\) .* 1 sequences .* lower-case"):
        encode(["ACGU", "acgu"], str(tmp_path), progress=False)
    with pytest.warns(UserWarning, match=r"1 of 8 tokens .* 0 sequences .* check that"):
        encode(["ACGU", "ACXU"], str(tmp_path), progress=False)
    encode(["ACGU" * 10] * 3, str(tmp_path), progress=False)
