"""Recordings and images as files, lists, columns and folders; frames of them without an encoder."""

import io
import subprocess
import sys

import datasets
import numpy as np
import pyarrow as pa
import pytest
import soundfile
from PIL import Image
from scipy.signal import resample_poly

from onevec import OneVec, encode
from onevec.errors import InputError, MissingExtraError
from onevec.tokens.media import Picture, Sound, as_media, as_rgb
from onevec.tokens.readers import open_source
from onevec.tokens.store import TokenStore

RATE = 16_000


def tone(seconds, rate=RATE, pitch=440.0):
    return (0.5 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate)).astype("f4")


def rows(data, **options):
    found, ids = [], []
    for chunk in open_source(data, **options).chunks:
        found += list(chunk.sequences)
        ids += chunk.ids
    return found, ids


@pytest.fixture
def recordings(tmp_path):
    """A folder as people have it: other rates, stereo, subfolders, and files that are none."""
    folder = tmp_path / "sounds"
    (folder / "dogs").mkdir(parents=True)
    soundfile.write(folder / "a.wav", tone(0.5), RATE)
    soundfile.write(folder / "dogs" / "b.flac", tone(0.5, 44_100), 44_100)
    stereo = np.stack([tone(0.25, 8_000), np.zeros(2_000, "f4")], 1)
    soundfile.write(folder / "dogs" / "c.ogg", stereo, 8_000)
    (folder / "._a.wav").write_bytes(b"\0\5\x16\7")  # what macOS leaves behind
    (folder / "README.md").write_text("about")
    return folder


NAMES = ["a.wav", "dogs/b.flac", "dogs/c.ogg"]


def test_folders_of_recordings(recordings):
    found, ids = rows(recordings)
    assert ids == NAMES and open_source(recordings).total == 3
    assert [sound.rate for sound in found] == [16_000, 44_100, 8_000]
    assert [sound.channels for sound in found] == [1, 1, 2]
    assert [round(sound.seconds, 2) for sound in found] == [0.5, 0.5, 0.25]
    assert len(found[1].at(RATE)) == 8_000
    assert abs(np.abs(found[2].samples).max() - 0.25) < 0.02  # the mean of sound and silence


def test_a_file_a_list_and_a_column_of_paths(recordings, tmp_path, monkeypatch):
    one, ids = rows(recordings / "a.wav")
    assert ids == ["a.wav"] and one[0].rate == RATE
    paths = [recordings / name for name in NAMES]
    assert rows(paths)[1] == rows([str(path) for path in paths])[1] == [str(path) for path in paths]
    (recordings / "list.csv").write_text("path,label\na.wav,x\ndogs/b.flac,y\n")
    found, _ = rows(recordings / "list.csv", column="path")
    assert [sound.rate for sound in found] == [16_000, 44_100]
    (recordings / "list.csv").write_text("path,label\na.wav,x\nnone.wav,y\n")
    with pytest.raises(InputError, match=r"sequence 1 is 'none.wav', which names no file"):
        rows(recordings / "list.csv", column="path")


def test_resampling_keeps_the_tone_and_does_not_alias():
    low, high = (Sound(tone(1, 44_100, pitch), 44_100).at(RATE) for pitch in (440, 12_000))
    np.testing.assert_allclose(low[2_000:-2_000], tone(1)[2_000:-2_000], atol=2e-3)
    assert np.abs(high[2_000:-2_000]).max() < 2e-3  # above half the new rate


def test_an_encoder_reads_any_rate(recordings, wav2vec, tmp_path):
    with pytest.warns(UserWarning, match="1 recordings of several channels were mixed to one"):
        store = encode(recordings, wav2vec, out=tmp_path / "s", dtype="float32", progress=False)
    assert store.ids == NAMES
    wave = resample_poly(
        soundfile.read(recordings / "dogs" / "b.flac", dtype="float32")[0], 160, 441
    )
    wanted = encode([{"array": wave, "sampling_rate": RATE}], wav2vec, dtype="float32")
    np.testing.assert_allclose(store[1].numpy(), wanted.values.numpy(), atol=1e-4)
    assert store.lengths[0] == store.lengths[1]  # half a second each


class Decoder:
    """What torchcodec's AudioDecoder offers, without its libraries."""

    def __init__(self, data, rate):
        self.data, self.sample_rate = data, rate

    def get_all_samples(self):
        return self


def test_what_datasets_gives(recordings, tmp_path):
    import torch

    paths = [str(recordings / name) for name in NAMES]
    data = datasets.Dataset.from_dict({"audio": paths, "y": [0, 1, 2]})
    data = data.cast_column("audio", datasets.Audio(sampling_rate=RATE))
    wanted = [sound.samples for sound in rows(recordings)[0]]
    stored = data.cast_column("audio", datasets.Audio(decode=False))
    held = [{"bytes": (recordings / name).read_bytes(), "path": None} for name in NAMES]
    table = pa.table({"audio": pa.array(held)})
    data.save_to_disk(tmp_path / "saved")
    forms = [data, data.to_iterable_dataset(), stored, stored["audio"], held, table,
             [entry["bytes"] for entry in held], tmp_path / "saved"]  # fmt: skip
    for form in forms:
        for sound, samples in zip(rows(form)[0], wanted, strict=True):
            np.testing.assert_array_equal(sound.samples, samples)
    decoded = [
        {"array": tone(0.1), "sampling_rate": RATE},
        {"array": tone(0.2, 8_000), "sampling_rate": 8_000},
    ]
    assert [sound.rate for sound in rows(decoded)[0]] == [RATE, 8_000]
    assert [s.rate for s in rows(pa.table({"audio": pa.array(decoded)}))[0]] == [RATE, 8_000]
    labelled = {**decoded[0], "label": 3, "file": "none.wav"}  # a row, not its column
    assert rows([labelled])[0][0].rate == RATE
    (sound,) = rows([Decoder(torch.zeros(2, 100), 22_050)])[0]
    assert (sound.rate, sound.channels, len(sound)) == (22_050, 2, 100)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"array": tone(0.1)}, "sequence 0 has no sampling rate, which must be known"),
        ({"array": tone(0.1), "sampling_rate": 0}, "has the sampling rate 0"),
        ({"array": np.zeros(0), "sampling_rate": RATE}, "has at least one sample"),
        ({"array": np.full(9, np.nan), "sampling_rate": RATE}, "holds NaN or infinity"),
        ({"bytes": None, "path": None}, "sequence 0 is empty"),
        ({"bytes": b"fLaC no more", "path": None}, "sequence 0 cannot be read as audio"),
        ({"bytes": None, "path": "/none.wav"}, "there is no file /none.wav"),
    ],
)
def test_recordings_that_are_none_are_one_sentence(value, words):
    with pytest.raises(InputError, match=words) as caught:
        rows([value])
    assert "\n" not in str(caught.value)


def test_whole_numbers_are_samples_between_minus_one_and_one():
    sound = as_media({"array": np.array([-(2**15), 2**14], np.int16), "sampling_rate": 8_000}, "x")
    assert sound.samples.tolist() == [-1.0, 0.5]


def test_damaged_and_mixed_folders(recordings, wav2vec, tmp_path):
    (recordings / "dogs" / "d.wav").write_bytes(b"RIFF\x00")
    with pytest.raises(InputError, match=r"d\.wav cannot be read as audio"):
        encode(recordings, wav2vec, out=tmp_path / "s", progress=False)
    assert not (tmp_path / "s").exists()
    (recordings / "dogs" / "d.wav").write_bytes((recordings / "a.wav").read_bytes()[:5_000])
    with pytest.raises(InputError, match=r"d\.wav is cut: 5,000 of 16,044 bytes are there"):
        encode(recordings, wav2vec, progress=False)
    Image.new("RGB", (9, 9)).save(recordings / "x.png")
    with pytest.raises(InputError, match="holds 4 recordings and 1 images"):
        rows(recordings)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="is a folder without sequences"):
        rows(tmp_path / "empty")


# --- images -------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "cats").mkdir(parents=True)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (33, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(pixels[..., 0]).save(folder / "cats" / "b.png")  # grey
    Image.fromarray(pixels).convert("RGBA").save(folder / "cats" / "c.webp")
    return folder


def test_images_in_folders_and_columns(photos, vit, tmp_path):
    store = encode(photos, vit, out=tmp_path / "s", dtype="float32", progress=False)
    assert store.ids == ["a.png", "cats/b.png", "cats/c.webp"]
    assert store.lengths.tolist() == [16] * 3
    paths = [photos / name for name in store.ids]
    data = datasets.Dataset.from_dict({"image": list(map(str, paths)), "y": [0, 1, 2]})
    data = data.cast_column("image", datasets.Image())
    forms = [
        paths,
        data,
        data.to_iterable_dataset(),
        data["image"],
        [path.read_bytes() for path in paths],
    ]
    for form in forms:
        found = encode(form, vit, dtype="float32", progress=False)
        np.testing.assert_allclose(found.values.numpy(), store[:].values.numpy(), atol=1e-6)


def test_a_function_gets_open_images_and_recordings(photos, recordings):
    def sizes(images):
        return [np.ones((1, image.size[0])) for image in images]

    assert encode(sorted(photos.rglob("*.png")), sizes, progress=False).dim == 40
    found = encode(
        recordings, lambda sounds: [np.full((1, 1), s.rate) for s in sounds], dtype="float32"
    )
    assert found.values.flatten().tolist() == [16_000, 44_100, 8_000]


def test_turned_and_deep_images(tmp_path):
    turned = Image.new("RGB", (20, 10))
    exif = turned.getexif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    turned.save(tmp_path / "a.jpg", exif=exif)
    assert Picture(tmp_path / "a.jpg", "a").open().size == (10, 20)
    deep = Image.fromarray(np.linspace(0, 65_535, 64).reshape(8, 8).astype(np.uint16))
    deep.save(tmp_path / "b.png")
    levels = np.asarray(as_rgb(Picture(tmp_path / "b.png", "b").open()))[..., 0]
    assert levels.max() == 255 and 120 < levels.mean() < 135
    (tmp_path / "c.png").write_bytes((tmp_path / "b.png").read_bytes()[:60])
    with pytest.raises(InputError, match=r"c.png cannot be read as an image"):
        Picture(tmp_path / "c.png", "c.png").open()


# --- frames -------------------------------------------------------------------------------------


def test_log_mel_frames(recordings, tmp_path):
    store = encode(recordings, frames="logmel", out=tmp_path / "s", progress=False)
    assert store.dim == 40 and store.ids == NAMES
    assert store.lengths.tolist() == [48, 48, 23]  # (samples - 400) // 160 + 1
    assert store.info["settings"] == {"frames": "logmel"}
    loudest = store[0].mean(0).argmax()
    assert 5 <= loudest <= 9  # 440 Hz of 40 bands to 8 kHz
    np.testing.assert_allclose(store[0].mean(0)[:20], store[1].mean(0)[:20], atol=0.5)
    short = {"array": tone(0.01), "sampling_rate": RATE}
    assert encode([short], frames="logmel").lengths.tolist() == [1]
    with pytest.raises(InputError, match='got frames="logmel" for sequence 0, a ndarray'):
        encode([tone(1)], frames="logmel")
    with pytest.raises(InputError, match="got frames='mfcc': choose from logmel, patches"):
        encode(recordings, frames="mfcc")
    with pytest.raises(InputError, match=r'without an encoder: name one, or take frames="logmel"'):
        encode(recordings)


def test_patches_of_images(photos):
    found = encode(photos, frames="patches")
    assert (
        found.lengths.tolist() == [20] * 3 and found.dim == 192
    )  # 4 x 5; a row of pixels is left out
    pixels = np.asarray(Image.open(photos / "a.png"), np.float32) / 255
    np.testing.assert_allclose(found[0][1].numpy(), pixels[:8, 8:16].ravel(), atol=1e-6)
    with pytest.raises(InputError, match="has 4 x 4 pixels: patches need at least 8 x 8"):
        encode([Image.new("RGB", (4, 4))], frames="patches")


def test_a_model_of_frames_reads_new_recordings(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(40):
        soundfile.write(
            folder / f"{number:02}.wav", tone(0.2, 8_000, 200 + 50 * (number % 4)), 8_000
        )
    model = OneVec(encoding={"frames": "logmel"}).fit(folder)
    vectors = model.transform(folder)
    assert len(vectors) == 40
    store = encode(folder, frames="logmel", out=tmp_path / "s", progress=False)
    fitted = OneVec().fit(TokenStore(tmp_path / "s"))
    np.testing.assert_allclose(fitted.transform(folder), fitted.transform(store), atol=1e-5)


def test_the_command_line_reads_folders(recordings, tmp_path):
    command = [sys.executable, "-m", "onevec.cli", "encode", str(recordings), "--frames", "logmel"]
    run = subprocess.run(
        [*command, "--out", str(tmp_path / "s")], capture_output=True, text=True, check=True
    )
    assert "3 sequences, 119 token vectors of 40 dimensions" in run.stdout
    assert "2 files of other kinds" in run.stderr
    assert TokenStore(tmp_path / "s").ids == NAMES
    assert io.StringIO(run.stderr).getvalue().count("passed over") == 1


def test_a_corpus_of_recordings(recordings):
    from onevec.encoders.corpus import assemble

    corpus = assemble(str(recordings), frames="logmel")
    assert corpus.dense and corpus.manifest["counts"]["kept"] == 3
    assert {frames.shape[1] for frames in corpus.in_order()} == {40}
    (recordings / "a.txt").write_text("one two\nthree four\n")
    assert assemble(str(recordings)).manifest["counts"]["kept"] == 2  # text: media are passed over


@pytest.mark.parametrize(
    ("module", "name"), [("soundfile", "a.wav"), ("h5py", "a.h5"), ("PIL", "a.png")]
)
def test_a_missing_package_names_its_extra(module, name, tmp_path, monkeypatch):
    (tmp_path / name).write_bytes(b"")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"run  pip install 'onevec\[files\]'"):
        encode(tmp_path / name, frames="patches", progress=False)
