"""The store: round trips, borders, damage, and a write that is killed."""

import json
import pickle
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onevec import encode
from onevec.errors import InputError, StoreError
from onevec.ragged import Ragged
from onevec.tokens.store import TokenStore, TokenStoreWriter


def arrays(lengths, dim, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    return [(scale * rng.standard_normal((n, dim))).astype(np.float32) for n in lengths]


def write(path, sequences, **options):
    with TokenStoreWriter(path, **options) as writer:
        writer.append(sequences)
    return TokenStore(path)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=20),
    dim=st.integers(1, 7),
    dtype=st.sampled_from(["float16", "int8", "float32"]),
    shard_bytes=st.integers(1, 400),
    data=st.data(),
)
def test_round_trip(tmp_path_factory, lengths, dim, dtype, shard_bytes, data):
    path = tmp_path_factory.mktemp("store") / "s"
    sequences = arrays(lengths, dim)
    store = write(path, sequences, dtype=dtype, shard_bytes=shard_bytes)
    whole = Ragged.from_list(sequences)
    largest = float(whole.values.abs().max())
    # half a unit of the last place of float16; half a step of int8
    atol = {"float16": largest * 2**-11, "int8": largest / 254, "float32": 0.0}[dtype] * 1.01 + 1e-7
    assert len(store) == len(lengths)
    assert store.shape == (len(lengths),)
    assert store.dim == dim
    assert store.lengths.tolist() == lengths
    assert store.ids == [str(row) for row in range(len(lengths))]
    store.verify()
    count = len(lengths)
    keys = [
        slice(None),
        slice(data.draw(st.integers(-count, count)), data.draw(st.integers(-count, count))),
        slice(None, None, -1),
        np.array(data.draw(st.lists(st.integers(-count, count - 1), max_size=9)), dtype=np.int64),
        np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count))),
    ]
    for key in keys:
        got, expected = store[key], whole[key]
        assert got.lengths.tolist() == expected.lengths.tolist()
        torch.testing.assert_close(got.values.float(), expected.values, atol=atol, rtol=0)
    row = data.draw(st.integers(-count, count - 1))
    torch.testing.assert_close(store[row].float(), whole[row], atol=atol, rtol=0)
    assert store[row].dtype == (torch.float16 if dtype == "float16" else torch.float32)


def test_int8_error_is_half_a_step(tmp_path):
    sequences = arrays([50, 3], 6) + arrays([20], 6, seed=1, scale=1e4)
    for sequence in sequences:
        sequence[:, 2] = 0  # a dimension that never moves
    store = write(tmp_path / "s", sequences, dtype="int8", shard_bytes=1201)
    whole = Ragged.from_list(sequences)
    assert len(store.info["shards"]) == 2  # each shard has its own scale
    for row in range(3):
        entry = store.info["shards"][0 if row < 2 else 1]
        step = torch.tensor(entry["scale"]["values"])
        assert ((store[row] - whole[row]).abs() <= 0.5001 * step).all()


def test_columns_and_layers(tmp_path):
    first, second = (Ragged.from_list(arrays([2, 1, 3], 4, seed=s)) for s in (0, 1))
    first.fields["ids"] = torch.arange(6)
    with TokenStoreWriter(tmp_path / "s", layers=[2, 5], dtype="float32", shard_bytes=60) as writer:
        writer.append(
            {2: first, 5: second},
            ids=["a", "b", "c"],
            sequences=["ac", "d", "efg"],
            metadata={"label": [1, 2, None], "note": [None, None, "x"], "sequence": [7, 8, 9]},
        )
    store = TokenStore(tmp_path / "s")
    assert store.layers == [2, 5]
    assert store.ids == ["a", "b", "c"]
    assert store.columns == ["id", "token_id", "sequence", "label", "note", "sequence_"]
    assert store.column("label").to_pylist() == [1, 2, None]
    assert store.column("note").to_pylist() == [None, None, "x"]
    assert store.column("sequence_").to_pylist() == [7, 8, 9]
    assert store.column("sequence").to_pylist() == ["ac", "d", "efg"]
    assert store[[2, 0]].fields["ids"].tolist() == [3, 4, 5, 0, 1]
    assert torch.equal(store.layer(2)[:].values, first.values)
    assert torch.equal(store[:].values, second.values)  # the last of the layers
    assert store.fingerprint is None
    with pytest.raises(InputError, match="no column 'labels': it has id, token_id"):
        store.column("labels")
    with pytest.raises(InputError, match=r"layer 3 is not in the store .* \[2, 5\]"):
        store.layer(3)
    with pytest.raises(IndexError):
        store[3]


def test_reads_are_copies_and_the_store_travels(tmp_path):
    store = write(tmp_path / "s", arrays([3, 2], 4))
    before = store[0].clone()
    store[0].zero_()
    store[:].values.zero_()
    assert torch.equal(store[0], before)
    again = pickle.loads(pickle.dumps(store))
    assert torch.equal(again[0], before)
    assert [len(row) for row in store] == [3, 2]
    assert "2 sequences, 5 tokens, dim 4" in repr(store)


def test_scikit_learn_splits_a_store(tmp_path):
    from sklearn.model_selection import train_test_split

    store = write(tmp_path / "s", arrays([1, 2, 3, 4], 3))
    train, test = train_test_split(store, test_size=1, random_state=0)
    assert len(train) == 3
    assert len(test) == 1


def test_values_beyond_float16_are_clipped_and_counted(tmp_path):
    sequences = [np.array([[1e5, -1e6, 3.0]], dtype=np.float32)]
    with pytest.warns(UserWarning, match="2 values beyond ±65504 were clipped"):
        store = write(tmp_path / "s", sequences)
    assert store[0].tolist() == [[65504.0, -65504.0, 3.0]]
    store = write(tmp_path / "t", sequences, dtype="int8")
    assert store[0][0, 1] == pytest.approx(-1e6)


def test_nothing_is_written_over(tmp_path):
    write(tmp_path / "s", arrays([3], 4))
    with pytest.raises(StoreError, match="already holds a complete token store"):
        TokenStoreWriter(tmp_path / "s")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    for options in ({}, {"overwrite": True}):
        with pytest.raises(StoreError, match="exists and is no token store"):
            TokenStoreWriter(tmp_path / "mine", **options)
    with pytest.raises(StoreError, match="is a file"):
        TokenStoreWriter(tmp_path / "mine" / "thesis.txt")
    store = write(tmp_path / "s", arrays([1, 1], 2), overwrite=True)
    assert len(store) == 2


def test_an_overwrite_that_fails_late_leaves_the_old_store(tmp_path):
    write(tmp_path / "s", arrays([3, 2], 4))
    (tmp_path / "s/notes.txt").write_text("mine")
    writer = TokenStoreWriter(tmp_path / "s", shard_bytes=1, overwrite=True)
    with pytest.raises(InputError), writer:
        writer.append(arrays([5], 4))
        assert len(TokenStore(tmp_path / "s")) == 2
        writer.append([np.full((1, 4), np.inf)])
    assert TokenStore(tmp_path / "s").lengths.tolist() == [3, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["s"]
    write(tmp_path / "s", arrays([5], 4), overwrite=True)
    assert TokenStore(tmp_path / "s").lengths.tolist() == [5]
    assert (tmp_path / "s/notes.txt").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_killed_before_the_first_index(tmp_path, monkeypatch):
    from onevec.tokens import layout

    def killed(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(layout, "checksum", killed)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "s", arrays([3, 2], 4))
    assert write(tmp_path / "s", arrays([3, 2], 4), resume=True).lengths.tolist() == [3, 2]


@pytest.mark.parametrize("key", ["complete", "dim", "dtype", "layers", "encoder", "shards"])
def test_an_index_with_a_wrong_entry(tmp_path, key):
    write(tmp_path / "s", arrays([3, 2], 4))
    index = json.loads((tmp_path / "s/index.json").read_text())
    for bad in (dict(index, **{key: "x"}), {k: v for k, v in index.items() if k != key}):
        (tmp_path / "s/index.json").write_text(json.dumps(bad))
        with pytest.raises(StoreError, match="index is damaged"):
            TokenStore(tmp_path / "s")


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_numbers_beyond_fp32(tmp_path, dtype):
    with pytest.raises(InputError, match="beyond fp32"):
        encode([np.full((3, 4), 1e39)], dtype=dtype, out=tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_failed_overwrite_leaves_the_old_store(tmp_path):
    write(tmp_path / "s", arrays([3], 4))
    with pytest.raises(InputError):
        write(tmp_path / "s", [np.full((2, 4), np.nan)], overwrite=True)
    assert len(TokenStore(tmp_path / "s")) == 1


def test_bad_rows_leave_nothing(tmp_path):
    path = tmp_path / "s"
    for bad in ([np.full((2, 3), np.nan)], [np.zeros((0, 3))], arrays([2], 4), ["text"]):
        with pytest.raises(InputError), TokenStoreWriter(path, shard_bytes=1) as writer:
            writer.append(arrays([1, 2], 3))
            writer.append(bad)
        assert not path.exists()
    with pytest.raises(InputError, match="got no sequences"), TokenStoreWriter(path):
        pass
    with (
        pytest.raises(InputError, match="'label' has 1 entries for 2"),
        TokenStoreWriter(path) as w,
    ):
        w.append(arrays([1, 2], 3), metadata={"label": [1]})
    with pytest.raises(InputError, match="same columns"), TokenStoreWriter(path) as writer:
        writer.append(arrays([1, 2], 3), metadata={"label": [1, 2]})
        writer.append(arrays([1, 2], 3))
    with pytest.raises(InputError, match="one type of value"), TokenStoreWriter(path) as writer:
        writer.append(arrays([1, 2], 3), metadata={"label": [1, "x"]})
    with pytest.raises(InputError, match="one entry per token"), TokenStoreWriter(path) as writer:
        writer.append(arrays([1, 2], 3), token_ids=[[1], [2]])
    with pytest.raises(InputError, match="got dtype 'float8'"):
        TokenStoreWriter(path, dtype="float8")
    assert not path.exists()


def test_damage_is_told(tmp_path):
    path = tmp_path / "s"
    with pytest.raises(StoreError, match="there is no token store at"):
        TokenStore(path)
    store = write(path, arrays([5, 6, 7], 8), shard_bytes=100)
    shard = path / store.info["shards"][1]["file"]
    content = shard.read_bytes()
    place = content.rindex(store[2].numpy().tobytes())
    shard.write_bytes(content[:place] + b"\x01" + content[place + 1 :])
    damaged = TokenStore(path)
    with pytest.raises(StoreError, match="its checksum is not the recorded one"):
        damaged.verify()
    shard.write_bytes(bytes(len(content)))
    with pytest.raises(StoreError, match="cannot read the shard"):
        TokenStore(path).lengths  # noqa: B018
    shard.write_bytes(content[:-9])
    with pytest.raises(StoreError, match=r"has .* bytes where the index says"):
        TokenStore(path)
    shard.unlink()
    with pytest.raises(StoreError, match="is missing"):
        TokenStore(path)
    (path / "index.json").write_text('{"format"')
    with pytest.raises(StoreError, match="the index is damaged"):
        TokenStore(path)
    (path / "index.json").write_text(json.dumps({"format": "onevec token store", "version": 9}))
    with pytest.raises(StoreError, match="version 9: this onevec reads"):
        TokenStore(path)
    (path / "index.json").unlink()
    with pytest.raises(StoreError, match=r"is no token store \(it has no index.json\)"):
        TokenStore(path)


def test_layout_on_disk(tmp_path):
    store = write(tmp_path / "s", arrays([2, 3], 4))
    with pa.memory_map(str(tmp_path / "s" / "shard-00000.arrow")) as source:
        schema = pa.ipc.open_file(source).schema
    vector = pa.list_(pa.float16(), 4)
    assert pa.types.is_large_list(schema.field("values").type)
    assert schema.field("values").type.value_type == vector
    assert store.info["complete"]
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == ["index.json", "shard-00000.arrow"]


def test_reading_is_zero_copy_until_gathered(tmp_path):
    store = write(tmp_path / "s", arrays([2, 3], 4))
    shard = store._shard(0)
    assert not shard.values.flags.owndata
    assert not shard.values.flags.writeable


KILLED = """
import functools, os, signal, sys
import numpy as np
import onevec.tokens.encoding as module
from onevec import encode

def encoder(sequences):
    if 70 in sequences:
        os.kill(os.getpid(), signal.SIGKILL)
    return [np.full((3, 4), number, dtype=np.float32) for number in sequences]

module.TokenStoreWriter = functools.partial(module.TokenStoreWriter, shard_bytes=240)
encode(list(range(100)), encoder, out=sys.argv[1], batch_tokens=512)
"""


def test_a_killed_write_resumes(tmp_path):
    path = tmp_path / "s"
    calls = []

    def encoder(sequences):
        calls.extend(sequences)
        return [np.full((3, 4), number, dtype=np.float32) for number in sequences]

    encoder.__qualname__ = "encoder"  # as in the killed run: another encoder is refused
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(StoreError, match=r"is half-written .* with resume=True"):
        TokenStore(path)
    with pytest.raises(StoreError, match="already holds a half-written token store"):
        TokenStoreWriter(path)
    (path / "shard-00099.arrow").write_bytes(b"left by the killed run")
    (path / "shard-00098.arrow.part").write_bytes(b"half")
    store = encode(list(range(100)), encoder, out=path, batch_tokens=512, resume=True)
    store.verify()
    assert [float(tokens[0, 0]) for tokens in store] == list(range(100))
    assert not list(path.glob("*.part"))
    assert 0 < len(calls) < 70  # what the killed run had written is not encoded again
    assert calls == list(range(100 - len(calls), 100))
    done = len(calls)
    encode(list(range(100)), encoder, out=path, batch_tokens=512, resume=True)
    assert len(calls) == done  # complete: nothing is done again


def test_resume_refuses_another_run(tmp_path):
    path = tmp_path / "s"
    writer = TokenStoreWriter(path, settings={"long": "truncate"}, shard_bytes=1)
    writer.append(arrays([2, 2], 3))  # and never closed, as in a killed run
    for options in ({"dtype": "int8"}, {"settings": {}}, {"layers": [1]}, {"dim": 4}):
        with pytest.raises(StoreError, match="cannot resume"):
            TokenStoreWriter(path, resume=True, **{"settings": {"long": "truncate"}, **options})
    again = TokenStoreWriter(path, settings={"long": "truncate"}, resume=True)
    assert again.rows_written == 2
    with again:
        again.append(arrays([1], 3))
    assert TokenStore(path).lengths.tolist() == [2, 2, 1]
    (path / "shard-00000.arrow").unlink()
    index = json.loads((path / "index.json").read_text())
    (path / "index.json").write_text(json.dumps({**index, "complete": False}))
    with pytest.raises(StoreError, match=r"shard-00000\.arrow is missing or truncated"):
        TokenStoreWriter(path, settings={"long": "truncate"}, resume=True)


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot make the folder"):
        write(tmp_path / "file" / "s", arrays([1], 2))
