"""The commands of search, similarity and near-duplicates, end to end on small real files."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from onevec import OneVec, encode, load
from onevec.errors import InputError, StoreError
from onevec.use.formats import Vectors, read_vectors, save_vectors
from onevec.use.search import Index, search
from tests.test_cli import run


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """Sequences, an encoder, a store, a model, its vectors and an index of most of them."""
    room = tmp_path_factory.mktemp("use")
    rng = np.random.default_rng(0)
    lines = ["name,family,length,sequence"]
    for row in range(120):
        odds = [0.4, 0.1, 0.1, 0.4] if row % 2 else [0.25] * 4
        letters = "".join(rng.choice(list("ACGU"), p=odds, size=int(rng.integers(20, 40))))
        lines.append(f"s{row},{'ab'[row % 2]},{len(letters)},{letters}")
    (room / "rna.csv").write_text("\n".join(lines) + "\n")
    (room / "more.csv").write_text("\n".join([lines[0], *lines[-20:]]) + "\n")
    columns = ("--column", "sequence", "--id-column", "name")
    for step in (
        ("pretrain", room / "rna.csv", "--column", "sequence", "--out", room / "encoder",
         "--steps", 5, "--tokenizer", "character"),
        ("encode", room / "rna.csv", "--encoder", room / "encoder", "--out", room / "store",
         *columns),
        ("encode", room / "more.csv", "--encoder", room / "encoder", "--out", room / "more",
         *columns),
        ("fit", room / "store", "--out", room / "model", "--dim", 8),
        ("fit", room / "store", "--out", room / "other", "--dim", 8, "--pooler", "mean|std"),
        ("transform", room / "model", room / "store", "--out", room / "v.parquet"),
        ("transform", room / "model", room / "more", "--out", room / "more.safetensors"),
        ("transform", room / "other", room / "store", "--out", room / "other.arrow"),
        ("index", room / "v.parquet", "--out", room / "index"),
    ):  # fmt: skip
        code, out, error = run(*step)
        assert code == 0, (step, out, error)
    assert "120 vectors of 8 dimensions, exact by cosine, recall@10 1.000" in out
    return room


def test_vectors_queries_and_raw_sequences_find_the_same(room, tmp_path):
    code, out, error = run("search", room / "index", room / "v.parquet", "--k", 3, "--json")
    assert code == 0, error
    rows = json.loads(out)["found"]
    assert len(rows) == 360
    assert list(rows[0]) == ["query", "rank", "id", "score", "chance", "family", "length"]
    # CSV holds text: the numbers of a column became text as well.
    assert rows[0] == {**rows[0], "query": "s0", "rank": 1, "id": "s0", "score": 1.0}
    raw = ("--model", room / "model", "--encoder", room / "encoder")
    code, _, error = run(
        "search", room / "index", room / "rna.csv", "--k", 3, *raw, "--column", "sequence",
        "--id-column", "name", "--out", tmp_path / "hits.parquet",
    )  # fmt: skip
    assert code == 0, error
    hits = pq.read_table(tmp_path / "hits.parquet")
    assert hits["id"].to_pylist() == [row["id"] for row in rows]
    text = (room / "rna.csv").read_text().splitlines()[8].split(",")
    code, out, error = run(
        "search", room / "index", "--text", text[3], *raw, "-k", 2, "--where", "family = 'b'"
    )
    assert code == 0, error
    lines = [line.split("\t") for line in out.splitlines()]
    assert [len(lines), lines[1][2], lines[1][5]] == [3, text[0], "b"]
    code, out, error = run("search", room / "index", room / "store", "--model", room / "model",
                           "--k", 3, "--out", tmp_path / "hits.csv", "--json")  # fmt: skip
    assert code == 0, error
    assert json.loads(out) == {"out": str(tmp_path / "hits.csv"), "queries": 120, "hits": 3}
    ids = [line.split(",")[2].strip('"') for line in (tmp_path / "hits.csv").read_text().split()]
    assert ids[1:] == [row["id"] for row in rows]


def contents(folder):
    return sorted((path, path.read_bytes()) for path in folder.rglob("*") if path.is_file())


def test_add_delete_and_replace(room, tmp_path):
    index = tmp_path / "i"
    whole = read_vectors(room / "v.parquet")
    part = Vectors(whole.vectors[:100], whole.ids[:100], whole.metadata[:100], whole.made_by)
    save_vectors(part, tmp_path / "part.arrow")
    options = ("--kind", "hnsw", "--metric", "euclidean", "--dtype", "float16", "--options",
               "ef_search=32,links=8")  # fmt: skip
    assert run("index", tmp_path / "part.arrow", "--out", index, *options)[0] == 0
    code, out, error = run("index", room / "more.safetensors", "--out", index, "--add", "--json")
    assert code == 0, error
    assert json.loads(out)["added"] == 20
    assert Index.open(index).options == {"ef_search": 32, "links": 8}
    (tmp_path / "gone.txt").write_text("s3\n\ns5\n")
    code, out, _ = run("index", "--out", index, "--delete", tmp_path / "gone.txt")
    assert "118 vectors of 8 dimensions, hnsw by euclidean" in out
    assert ", 2 deleted" in out
    before = contents(index)
    code, _, error = run("index", "--out", index, "--delete", tmp_path / "gone.txt")
    assert (code, "2 of 2 ids are not in the index" in error) == (2, True)
    code, _, error = run("index", room / "v.parquet", "--out", index, "--add")
    assert (code, "118 of 120 ids are in the index already" in error) == (2, True)
    assert contents(index) == before
    code, out, _ = run("index", room / "v.parquet", "--out", index, "--add", "--replace", "--json")
    facts = json.loads(out)
    assert (facts["count"], facts["added"], facts["replaced"]) == (120, 2, 118)
    code, out, _ = run("inspect", index, "--json")
    assert json.loads(out)["kind"] == "vector index"
    assert json.loads(out)["count"] == 120
    # What goes and what comes is one commit: an id that is in both is new.
    version = Index.open(index).table.version
    save_vectors(Vectors.of(whole.vectors[3:4], ["s3"]), tmp_path / "one.arrow")
    code, out, _ = run("index", tmp_path / "one.arrow", "--out", index, "--add",
                       "--delete", tmp_path / "gone.txt", "--json")  # fmt: skip
    facts = json.loads(out)
    assert (facts["count"], facts["added"], facts["deleted"]) == (119, 1, 2)
    assert Index.open(index).table.version == version + 1


def test_similarity_and_duplicates(room, tmp_path):
    code, out, error = run("similarity", room / "v.parquet", "s1", "s3")
    assert code == 0, error
    assert out.startswith("s3: ")
    assert "random pairs of the reference score" in out
    code, out, _ = run("similarity", room / "index", "s1", "-k", 4, "--json")
    facts = json.loads(out)["compared"]
    assert len(facts) == 4
    assert facts == sorted(facts, key=lambda fact: -fact["score"])
    assert facts[0]["chance"] == pytest.approx(120 * facts[0]["chance_of_a_pair"])
    copies = read_vectors(room / "v.parquet")
    double = np.concatenate([copies.vectors, copies.vectors[:5]])
    ids = [*copies.ids, *(f"copy{row}" for row in range(5))]
    save_vectors(Vectors.of(double, ids), tmp_path / "d.parquet")
    code, out, error = run("duplicates", tmp_path / "d.parquet", "--out", tmp_path / "g.parquet",
                           "--threshold", 0.999999)  # fmt: skip
    assert code == 0, error
    assert "5 groups hold 10 of 125" in out
    assert "120 are left" in out
    groups = pq.read_table(tmp_path / "g.parquet").to_pylist()
    assert groups[0] == {"id": "s0", "group": "s0", "size": 2}
    assert groups[-1] == {"id": "copy4", "group": "s4", "size": 2}
    code, out, error = run("duplicates", room / "index", "--out", tmp_path / "g.csv", "--json")
    assert code == 0, error
    assert json.loads(out)["threshold"] < 1


def test_bad_calls_are_one_sentence_and_leave_nothing(room, tmp_path):
    index, model, vectors = room / "index", room / "model", room / "v.parquet"
    raw = ("--model", model, "--encoder", room / "encoder")
    (room / "empty.txt").write_text("\n")
    emptied = Index.build(np.eye(3))
    emptied.delete(["0", "1", "2"])
    emptied.save(room / "emptied")
    twice = read_vectors(vectors)
    save_vectors(
        Vectors.of(twice.vectors[:40], [*twice.ids[:39], "s1"]), room / "twice.parquet", True
    )
    (room / "older").mkdir()
    facts = {"format": "onevec vector index", "version": 1, "sha256": ""}
    (room / "older/vector-index.json").write_text(json.dumps(facts))
    calls = {
        ("index", vectors, "--out", index): "exists",
        ("index", "--out", tmp_path / "i"): "got no VECTORS",
        ("index", vectors, "--out", room / "model", "--overwrite"): "it is no vector index",
        ("index", vectors, "--out", tmp_path / "i", "--kind", "tree"): "kind='tree'",
        ("index", vectors, "--out", tmp_path / "i", "--options", "ef=x"): "'ef=x': write NAME",
        ("index", vectors, "--out", tmp_path / "i", "--add"): "is no vector index",
        ("index", vectors, "--out", index, "--delete", room / "empty.txt"): "go together",
        ("index", "--out", index, "--add"): "go together",
        ("index", "--out", index, "--delete", room / "empty.txt"): "holds no ids",
        ("index", "--out", index, "--delete", room / "none.txt"): "No such file",
        ("index", vectors, "--out", index, "--add", "--kind", "hnsw"): "got --kind with --add",
        ("index", room / "other.arrow", "--out", index, "--add"): "made by model",
        ("index", vectors, "--out", index, "--replace"): "--replace without --add",
        ("index", vectors, "--out", index, "--add", "--overwrite"): "got --overwrite with --add",
        ("index", "--out", index, "--delete", room / "empty.txt", "--replace"): "--delete alone",
        ("search", index, room / "store", *raw): "it is encoded already",
        ("search", index, room / "store", "--model", model, "--long", "window"): "got long for",
        ("search", index, vectors, "--overwrite"): "--overwrite without --out",
        ("similarity", vectors, "s1", "s2", "--k", 3): "pass one of them",
        ("duplicates", room / "twice.parquet", "--out", tmp_path / "g.csv", "--threshold", 0.9):
            "'s1' more than once",
        ("duplicates", room / "emptied", "--out", tmp_path / "g.csv", "--threshold", 0.9):
            "holds no vectors",
        ("index", vectors, "--out", tmp_path / "i", "--kind", "hnsw", "--options", "links=²"):
            "write NAME=NUMBER",
        ("search", index, vectors, "--id-column", "x"): "got --id-column without --model",
        ("search", index, vectors, "--long", "window"): "got --long without --model",
        ("similarity", index, "s1", "--metric", "dot"): "an index by cosine",
        ("duplicates", index, "--out", tmp_path / "g.csv", "--metric", "dot"): "index by cosine",
        ("similarity", room / "twice.parquet", "s1"): "has the id 's1' 2 times",
        ("search", index): "either QUERIES or --text",
        ("search", index, "--text", "ACGU"): "need --model",
        ("search", index, vectors, "--encoder", "x"): "need --model",
        ("search", model, vectors): "is no vector index",
        ("search", room / "older", vectors): "onevec index VECTORS --out",
        ("search", index, room / "other.arrow"): "made by model",
        ("search", index, room / "rna.csv"): "must end in .npy",
        ("search", index, room / "store", "--model", room / "other"): "made by model",
        ("search", index, vectors, "--where", "kind = 'a'"): "No field named kind",
        ("search", index, "--text", "ACGU", *raw, "--where", "kind = 'a'"): "No field named kind",
        ("search", index, vectors, "--k", 0): "k=0",
        ("search", index, vectors, "--out", tmp_path / "h.txt"): "must end in .parquet",
        ("search", index, room / "rna.csv", *raw, "--column", "protein"): "'protein'",
        ("similarity", vectors, "s1", "x9"): "has no id 'x9'",
        ("duplicates", vectors, "--out", tmp_path / "g.txt"): "must end in .parquet",
        ("duplicates", vectors, "--out", tmp_path / "g.csv", "--metric", "dot"): "dot product",
        ("duplicates", vectors, "--out", tmp_path / "g.csv", "--threshold", 0.9, "--chance", 1):
            "pass one of them",
    }  # fmt: skip
    for call, words in calls.items():
        code, _, error = run(*call)
        assert (code, words in error) == (2, True), (call, code, error)
        assert error.strip().count("\n") == 0
    assert list(tmp_path.iterdir()) == []
    assert len(Index.open(index)) == 120


def test_help_teaches():
    for command in ("index", "search", "similarity", "duplicates"):
        code, out, _ = run(command, "--help")
        assert code == 0
        assert f"onevec {command}" in out
        assert "Example:" in out


def test_in_one_call_from_python(room):
    texts = [line.split(",")[3] for line in (room / "rna.csv").read_text().splitlines()[1:4]]
    model = load(room / "model")
    found = search(room / "index", texts, 1, model=model, encoder=room / "encoder")
    assert found.ids[:, 0].tolist() == ["s0", "s1", "s2"]
    assert found.queries == ["0", "1", "2"]
    with pytest.raises(InputError, match="an encoder without a model"):
        search(room / "index", texts, encoder=room / "encoder")


def test_a_layer_that_is_not_the_last_and_another_encoder(room, tmp_path):
    texts = [line.split(",")[3] for line in (room / "rna.csv").read_text().splitlines()[1:]]
    store = encode(texts, room / "encoder", out=tmp_path / "s", layers=[1, 2])
    model = OneVec(dim=4, pooler="mean|std").fit(store.layer(1))
    assert "@layer1" in str(model.fingerprint_)
    index = Index.build(model.transform(store.layer(1)))
    found = search(index, texts[:9], 1, model=model, encoder=room / "encoder")
    assert found.ids[:, 0].tolist() == [str(row) for row in range(9)]
    words = ("--column", "sequence", "--steps", 2, "--tokenizer", "character", "--seed", 1)
    code, _, error = run("pretrain", room / "rna.csv", "--out", tmp_path / "e", *words)
    assert code == 0, error
    with pytest.raises(StoreError, match="the model was fitted to"):
        search(index, texts[:2], model=model, encoder=tmp_path / "e")


def test_a_model_that_mixes_layers(room, tmp_path):
    texts = [line.split(",")[3] for line in (room / "rna.csv").read_text().splitlines()[1:]]
    store = encode(texts, room / "encoder", out=tmp_path / "s", layers=[0, 1, 2])
    model = OneVec(dim=4, pooler="layer_mix", training={"steps": 2}).fit(store)
    index = Index.build(model.transform(store))
    found = search(index, texts[:5], 1, model=model, encoder=room / "encoder")
    assert found.ids[:, 0].tolist() == [str(row) for row in range(5)]


def test_an_index_is_compared_by_its_own_metric(room, tmp_path):
    whole = read_vectors(room / "v.parquet")
    Index.build(whole, metric="euclidean").save(tmp_path / "i")
    code, out, error = run("similarity", tmp_path / "i", "s1", "-k", 3, "--json")
    assert code == 0, error
    away = np.linalg.norm(whole.vectors - whole.vectors[1], axis=1)
    found = json.loads(out)["compared"]
    assert [entry["id"] for entry in found] == [f"s{row}" for row in np.argsort(away)[1:4]]
    np.testing.assert_allclose([entry["score"] for entry in found], -np.sort(away)[1:4], rtol=1e-4)


def test_few_and_equal_vectors_have_bare_or_endless_chances(tmp_path):
    few = np.random.default_rng(0).normal(size=(8, 3))
    np.save(tmp_path / "few.npy", few)
    code, out, error = run("similarity", tmp_path / "few.npy", "0", "1")
    assert code == 0, error
    assert out.startswith("1: ") and "chance" not in out
    near = np.random.default_rng(0).normal(size=(60, 3))
    save_vectors(Vectors.of(np.concatenate([near, near[:1]])), tmp_path / "near.parquet")
    code, out, error = run("similarity", tmp_path / "near.parquet", "0", "60")
    assert code == 0, error
    assert "1 in " in out


def test_json_has_no_nan(room, tmp_path, capsys):
    from onevec.cli.common import show

    show({"a": float("nan"), "c": np.int64(3)}, True, "")
    assert json.loads(capsys.readouterr().out) == {"a": None, "c": "3"}
    whole = read_vectors(room / "v.parquet")
    Index.build(whole.vectors, metadata={"n": [float("nan")] * 120}).save(tmp_path / "i")
    code, _, error = run(
        "search", tmp_path / "i", room / "v.parquet", "--out", tmp_path / "h.jsonl"
    )
    assert code == 0, error
    assert "NaN" not in (tmp_path / "h.jsonl").read_text()


def test_ready_arrays_are_searched_with_a_model_that_knows_its_layer(room):
    from onevec import TokenStore

    store, model = TokenStore(room / "store"), load(room / "model")
    arrays = [store[row].numpy() for row in range(5)]
    found = search(room / "index", arrays, 1, model=model)
    assert found.ids[:, 0].tolist() == [f"s{row}" for row in range(5)]
    with pytest.raises(InputError, match="got out="):
        search(room / "index", arrays, 1, model=model, out="x")
