"""Files of token vectors, as bio_embeddings, ESM's scripts and others write them."""

import h5py
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file

from onevec import OneVec, encode
from onevec.errors import InputError
from onevec.tokens.readers import open_source
from onevec.use.formats import Vectors, save_vectors

SIZES = [5, 3, 8]
NAMES = ["sp|P1|A", "P2", "P3/x"]


def arrays(dim=4, dtype=np.float32):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(n, dim)).astype(dtype) for n in SIZES]


def stacks():
    """Three hidden states of each sequence."""
    return [np.stack([a, 2 * a, 3 * a]) for a in arrays()]


def same(found, wanted, scale=1.0, atol=0.0):
    assert found.lengths.tolist() == SIZES
    np.testing.assert_allclose(found[:].values.numpy(), scale * np.concatenate(wanted), atol=atol)


def write_bio_embeddings(path, values):
    with h5py.File(path, "w") as file:
        for number, (name, array) in enumerate(zip(NAMES, values, strict=True)):
            file.create_dataset(str(number), data=array).attrs["original_id"] = name


def write_groups(path):
    with h5py.File(path, "w") as file:
        for name, array in zip(["a", "b/c", "d"], arrays(dtype=np.float16), strict=True):
            file[name] = array
        file["away"] = h5py.ExternalLink("/etc/passwd", "/")  # is not followed


def test_hdf5(tmp_path):
    write_bio_embeddings(tmp_path / "a.h5", arrays())
    store = encode(tmp_path / "a.h5", out=tmp_path / "s", progress=False)
    assert store.ids == NAMES
    same(store, arrays())
    write_groups(tmp_path / "b.hdf5")
    store = encode(tmp_path / "b.hdf5", out=tmp_path / "t", progress=False)
    assert store.ids == ["a", "b/c", "d"]
    same(store, arrays(dtype=np.float16))


def test_hidden_states_are_chosen(tmp_path):
    write_bio_embeddings(tmp_path / "a.h5", stacks())  # as of SeqVec, (layers, length, dim)
    np.savez(tmp_path / "a.npz", **dict(zip("abc", stacks(), strict=True)))
    esm = {
        name: {"label": name, "representations": {k: torch.from_numpy(s[k]) for k in range(3)}}
        for name, s in zip("abc", stacks(), strict=True)
    }
    torch.save(esm, tmp_path / "a.pt")
    for name in ("a.h5", "a.npz", "a.pt"):
        same(encode(tmp_path / name, progress=False), arrays(), 3)
        same(encode(tmp_path / name, layers=0, progress=False), arrays(), 1)
        same(encode(tmp_path / name, layers="middle", progress=False), arrays(), 2)
        store = encode(tmp_path / name, layers="0,last", out=tmp_path / f"{name}-s", progress=False)
        assert store.layers == [0, 2]
        same(store.layer(0), arrays(), 1)
        with pytest.raises(InputError, match=r"got the layer 7, which .* have: they have 0, 1, 2"):
            encode(tmp_path / name, layers=7)


def write_esm(folder, **more):
    folder.mkdir()
    for name, array in zip("abc", arrays(), strict=True):
        states = {6: torch.from_numpy(array), 12: torch.from_numpy(2 * array)}
        held = {"label": f"label {name}", "representations": states, **more}
        torch.save(held, folder / f"{name}.pt")


def test_a_folder_of_esm(tmp_path):
    write_esm(tmp_path / "esm", mean_representations={12: torch.zeros(4)})
    store = encode(tmp_path / "esm", out=tmp_path / "s", progress=False)
    assert store.ids == ["label a", "label b", "label c"]
    same(store, arrays(), 2)
    same(encode(tmp_path / "esm", layers=6, progress=False), arrays())
    torch.save({"label": "a", "mean_representations": {12: torch.zeros(4)}}, tmp_path / "m.pt")
    with pytest.raises(InputError, match="holds means of tokens, one vector per sequence, pooled"):
        encode(tmp_path / "m.pt")


def test_torch_files(tmp_path):
    tensors = [torch.from_numpy(array) for array in arrays()]
    forms = {
        "list": tensors,
        "tuple": tuple(tensors),
        "dict": dict(zip("abc", tensors, strict=True)),
    }
    for name, form in forms.items():
        torch.save(form, tmp_path / f"{name}.pt")
        same(encode(tmp_path / f"{name}.pt", progress=False), arrays())
    torch.save(tensors[0].bfloat16(), tmp_path / "one.pt")
    store = encode(tmp_path / "one.pt", out=tmp_path / "s", progress=False)
    assert store.ids == ["one"] and store.lengths.tolist() == [5]
    folder = tmp_path / "folder"
    (folder / "x").mkdir(parents=True)
    torch.save(tensors[0], folder / "x" / "a.pt")
    torch.save(tensors[1], folder / "b.pt")
    store = encode(folder, out=tmp_path / "t", progress=False)
    assert store.ids == ["b.pt", "x/a.pt"] and store.lengths.tolist() == [3, 5]
    torch.save(torch.zeros(6, 5, 4), tmp_path / "stack.pt")
    assert encode(tmp_path / "stack.pt", progress=False).lengths.tolist() == [5] * 6


def test_safetensors(tmp_path):
    save_arrays(dict(zip(NAMES, arrays(), strict=True)), tmp_path / "a.safetensors")
    store = encode(tmp_path / "a.safetensors", out=tmp_path / "s", progress=False)
    wanted = dict(zip(NAMES, arrays(), strict=True))
    assert sorted(store.ids) == sorted(NAMES)
    for row, name in enumerate(store.ids):
        np.testing.assert_array_equal(store[row].numpy(), wanted[name])
    save_file({"a": torch.ones(2, 3, dtype=torch.bfloat16)}, tmp_path / "b.safetensors")
    assert encode(tmp_path / "b.safetensors", progress=False).values.unique().tolist() == [1.0]


def test_stacked_sequences_with_labels(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.ones((6, 5, 4), np.float32), y=np.arange(6))
    store = encode(tmp_path / "a.npz", out=tmp_path / "s", progress=False)
    assert store.lengths.tolist() == [5] * 6 and store.column("y").to_pylist() == list(range(6))
    np.savez(tmp_path / "b.npz", X=np.ones((2, 5, 4), np.float32), ids=np.array(["p", "q"]))
    assert encode(tmp_path / "b.npz", out=tmp_path / "u", progress=False).ids == ["p", "q"]
    folder = tmp_path / "npys"
    folder.mkdir()
    for name, array in zip("abc", arrays(), strict=True):
        np.save(folder / f"{name}.npy", array)
    assert encode(folder, out=tmp_path / "t", progress=False).ids == ["a.npy", "b.npy", "c.npy"]


def test_a_model_is_fitted_to_a_file(tmp_path):
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for number in range(50):
            file[f"p{number:02}"] = rng.normal(size=(9, 4)).astype("f4")
    model = OneVec().fit(tmp_path / "a.h5")
    assert len(model.transform(tmp_path / "a.h5")) == 50
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(40):
        torch.save(torch.from_numpy(rng.normal(size=(9, 4))), folder / f"{number}.pt")
    assert len(OneVec().fit(folder).transform(folder)) == 40


class Code:
    """What a stranger's file may hold."""

    def __reduce__(self):
        return print, ("this code ran",)


def bad(name):
    def write(path):
        held = {
            "damaged.h5": lambda: path.write_bytes(b"\x89HDF\r\n\x1a\nno"),
            "damaged.pt": lambda: path.write_bytes(b"PK\x03\x04no"),
            "empty.pt": lambda: path.write_bytes(b""),
            "damaged.safetensors": lambda: path.write_bytes(b"\x10\0\0\0\0\0\0\0{no"),
            "code.pt": lambda: torch.save({"a": Code()}, path),
            "weights.pt": lambda: torch.save(torch.nn.Linear(3, 2).state_dict(), path),
            "number.pt": lambda: torch.save(3, path),
            "pooled.h5": lambda: write_bio_embeddings(path, [a.mean(0) for a in arrays()]),
            "pooled.safetensors": lambda: save_vectors(Vectors.of(np.ones((3, 4))), path),
            "text.h5": lambda: h5py.File(path, "w").create_dataset("a", data="text"),
            "mixed.npz": lambda: np.savez(path, X=np.ones((6, 5)), y=np.arange(5)),
            "nothing.h5": lambda: h5py.File(path, "w").close(),
        }
        held[name]()

    return write


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("damaged.h5", "cannot read .* as h5 "),
        ("damaged.pt", "cannot read .* as pt|is damaged"),
        ("empty.pt", "cannot read .* as pt"),
        ("damaged.safetensors", "cannot read .* as safetensors"),
        ("code.pt", "holds more than tensors, which is not loaded"),
        ("weights.pt", "holds 'weight' of shape .* and 'bias' of shape"),
        ("number.pt", "holds a int"),
        ("pooled.h5", "one vector per sequence, pooled already"),
        ("pooled.safetensors", "one vector per sequence, pooled already"),
        ("text.h5", "such as 'a' of shape ()"),
        ("mixed.npz", "every array must hold"),
        ("nothing.h5", "holds no arrays"),
    ],
)
def test_what_is_wrong_is_one_sentence(name, words, tmp_path, capsys):
    bad(name)(tmp_path / name)
    with pytest.raises(InputError, match=words) as caught:
        encode(tmp_path / name, out=tmp_path / "s", progress=False)
    assert "\n" not in str(caught.value) and not (tmp_path / "s").exists()
    assert "code ran" not in capsys.readouterr().out


def test_numbers_kept_in_another_file_are_not_read(tmp_path):
    (tmp_path / "secret.bin").write_bytes(np.ones(12, np.float32).tobytes())
    with h5py.File(tmp_path / "x.h5", "w") as file:
        outside = [(str(tmp_path / "secret.bin"), 0, 48)]
        file.create_dataset("a", (3, 4), np.float32, external=outside)
    with pytest.raises(InputError, match="in another file, which is not read"):
        open_source(tmp_path / "x.h5")
