"""The MTEB wrapper on tasks of all three shapes, built from made-up local data; no network."""

import numpy as np
import pytest

mteb = pytest.importorskip("mteb")

from datasets import Dataset, DatasetDict  # noqa: E402
from mteb.abstasks import AbsTaskClassification, AbsTaskRetrieval, AbsTaskSTS  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.models import EncoderProtocol  # noqa: E402

from onevec import OneVec, encode  # noqa: E402
from onevec.errors import InputError, MissingExtraError  # noqa: E402
from onevec.use.mteb import MTEBModel  # noqa: E402

TABLE = np.random.default_rng(7).normal(size=(128, 12)).astype(np.float32)


def letters(texts):
    """One vector per character, mixed with the one before it."""
    rows = [np.array([ord(c) % 128 for c in text]) for text in texts]
    return [TABLE[row] + 0.5 * TABLE[np.roll(row, 1)] for row in rows]


def sentences(n, seed=0):
    """Three kinds of text that differ in their letters."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(3, size=n)
    alphabets = ["abcdefgh", "ghijklmn", "mnopqrst"]
    texts = ["".join(rng.choice(list(alphabets[k]), size=rng.integers(8, 30))) for k in kinds]
    return texts, kinds.tolist()


def described(name, kind, score, category="t2c"):
    return TaskMetadata(
        name=name, description="Made-up letters.", type=kind, category=category,
        eval_splits=["test"], eval_langs=["eng-Latn"], main_score=score,
        dataset={"path": "local", "revision": "1"},
    )  # fmt: skip


class Letters(AbsTaskClassification):
    metadata = described("LettersClassification", "Classification", "accuracy")
    n_experiments = 2

    def load_data(self, **_):
        parts = {}
        for seed, split in enumerate(("train", "test")):
            texts, kinds = sentences(60, seed)
            parts[split] = Dataset.from_dict({"text": texts, "label": kinds})
        self.dataset, self.data_loaded = DatasetDict(parts), True


class Pairs(AbsTaskSTS):
    metadata = described("LettersSTS", "STS", "cosine_spearman", "t2t")

    def load_data(self, **_):
        texts, kinds = sentences(80)
        same = [5.0 * (a == b) for a, b in zip(kinds[:40], kinds[40:], strict=True)]
        part = {"sentence1": texts[:40], "sentence2": texts[40:], "score": same}
        self.dataset, self.data_loaded = DatasetDict({"test": Dataset.from_dict(part)}), True


class Search(AbsTaskRetrieval):
    metadata = described("LettersRetrieval", "Retrieval", "ndcg_at_10", "t2t")

    def load_data(self, **_):
        texts, kinds = sentences(60)
        documents = [{"id": f"d{row}", "title": "", "text": t} for row, t in enumerate(texts[12:])]
        queries = [{"id": f"q{row}", "text": t} for row, t in enumerate(texts[:12])]
        wanted = {
            f"q{q}": {f"d{d}": 1 for d in range(48) if kinds[12 + d] == kinds[q]} for q in range(12)
        }
        self.dataset = {
            "default": {
                "test": {
                    "corpus": Dataset.from_list(documents),
                    "queries": Dataset.from_list(queries),
                    "relevant_docs": wanted,
                    "top_ranked": None,
                }
            }
        }
        self.data_loaded = True


@pytest.fixture(scope="module")
def fitted():
    return OneVec(dim=6).fit(encode(sentences(200)[0], letters, progress=False))


@pytest.fixture(scope="module")
def model(fitted):
    return MTEBModel(letters, fitted, name="us/letters")


def test_it_is_an_encoder_of_the_protocol(model):
    assert isinstance(model, EncoderProtocol)
    meta = model.mteb_model_meta
    assert meta.name == "us/letters"
    assert meta.embed_dim == 6
    assert len(meta.revision) == 40


@pytest.mark.filterwarnings("ignore")  # those of mteb and its packages
@pytest.mark.parametrize(("task", "least"), [(Letters, 0.8), (Pairs, 0.6), (Search, 0.6)])
def test_tasks_of_local_data(model, task, least):
    result = mteb.evaluate(model, task(), cache=None, show_progress_bar=False)
    assert result.task_results[0].get_score() > least


def test_vectors_are_those_of_the_model(model, fitted, monkeypatch):
    import onevec.use.mteb as module

    monkeypatch.setattr(module, "_GROUP", 7)
    texts, _ = sentences(30, seed=3)
    expected = fitted.transform(encode(texts, letters, progress=False))
    texts[4:4] = [" "]
    found = model.encode([{"text": texts[:20]}, {"text": texts[20:]}], hf_split="test")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[4], 0)
    np.testing.assert_allclose(np.delete(found, 4, axis=0), expected, atol=1e-5)
    blank = model.encode([{"text": ["", "\n"]}])
    np.testing.assert_array_equal(blank, np.zeros((2, 6)))


@pytest.mark.parametrize(("method", "dim"), [("mean", 12), ("mean_pca", 6), ("mean_whitened", 6)])
def test_baselines_of_the_same_fit(fitted, model, method, dim):
    other = MTEBModel(letters, fitted, method=method)
    texts, _ = sentences(9)
    expected = fitted.transform_baselines(encode(texts, letters, progress=False))[method]
    np.testing.assert_allclose(other.encode([{"text": texts}]), expected, atol=1e-5)
    assert other.mteb_model_meta.embed_dim == dim
    assert other.mteb_model_meta.revision != model.mteb_model_meta.revision


def test_a_saved_model_and_its_revision(fitted, model, tmp_path):
    fitted.save(tmp_path / "m")
    again = MTEBModel(letters, tmp_path / "m", name="us/letters")
    texts, _ = sentences(9)
    np.testing.assert_allclose(
        again.encode([{"text": texts}]), model.encode([{"text": texts}]), atol=1e-6
    )
    other = OneVec(dim=6, random_state=1).fit(encode(sentences(150, 5)[0], letters, progress=False))
    assert MTEBModel(letters, other).mteb_model_meta.revision != model.mteb_model_meta.revision


def test_similarities_are_cosines(model):
    X = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    np.testing.assert_allclose(np.asarray(model.similarity(X, X)), unit @ unit.T, atol=1e-5)
    pairs = np.asarray(model.similarity_pairwise(X, X[::-1].copy()))
    np.testing.assert_allclose(pairs, (unit * unit[::-1]).sum(1), atol=1e-5)


def test_broken_rules(fitted, model, monkeypatch):
    cases = {
        "method='median'": lambda: MTEBModel(letters, fitted, method="median"),
        "modality='smell'": lambda: MTEBModel(letters, fitted, modality="smell"),
        "organisation/name": lambda: MTEBModel(letters, fitted, name="letters"),
        "out=": lambda: MTEBModel(letters, fitted, out="store"),
        "hold image": lambda: model.encode([{"image": [1]}]),
        "loader is empty": lambda: model.encode([]),
    }
    for words, call in cases.items():
        with pytest.raises(InputError) as caught:
            call()
        assert words in str(caught.value)
    import sys

    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(MissingExtraError, match=r"onevec\[eval\]"):
        model.similarity(np.eye(6), np.eye(6))


def test_the_encoder_and_the_layer_of_the_fit(tmp_path):
    from onevec import pretrain
    from onevec.errors import StoreError

    texts, _ = sentences(60)
    for name, seed in (("a", 0), ("b", 1)):
        pretrain(texts, tmp_path / name, tokenizer="character", steps=3, layers=2, dim=16, heads=2,
                 random_state=seed)  # fmt: skip
    store = encode(texts, tmp_path / "a", out=tmp_path / "store", layers=1, progress=False)
    fitted = OneVec(dim=4, pooler="mean").fit(store)
    found = MTEBModel(tmp_path / "a", fitted).encode([{"text": texts[:9]}])
    np.testing.assert_allclose(found, fitted.transform(store)[:9], atol=1e-2)
    with pytest.raises(StoreError, match="were made by encoder"):
        MTEBModel(tmp_path / "b", fitted).encode([{"text": texts[:9]}])


def test_texts_that_only_the_tokenizer_finds_blank(model):
    def strict(texts):
        return letters([text.replace("#", "") for text in texts])

    from onevec.use import mteb as module

    other = MTEBModel(strict, model.model)
    encoded = module.encoded

    def refusing(entries, *words, **more):
        if any(not text.strip("#") for text in entries):
            raise InputError("sequence 1 is empty ('#' has no token): leave it out")
        return encoded(entries, *words, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "encoded", refusing)
        found = other.encode([{"text": ["abc", "##", "def", "#"]}])
    np.testing.assert_array_equal(found[[1, 3]], 0)
    np.testing.assert_allclose(found[[0, 2]], other.encode([{"text": ["abc", "def"]}]), atol=1e-5)
