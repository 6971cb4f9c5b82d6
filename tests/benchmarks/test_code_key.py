"""What makes a cached result stale: code that decides it, and nothing else."""

import shutil
import textwrap
from pathlib import Path

import pytest

from protocol import made_by, methods
from protocol.code_key import ROOT, code_key


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the source."""
    room = tmp_path_factory.mktemp("tree")
    left_out = shutil.ignore_patterns("__pycache__", "encoder", "data")
    shutil.copytree(ROOT / "src", room / "src", ignore=left_out)
    shutil.copytree(ROOT / "benchmarks/protocol", room / "benchmarks/protocol", ignore=left_out)
    return room


@pytest.fixture
def key_after(tree):
    """The key of a producer after changes to files: path, old text, new text."""
    changed: dict[Path, str] = {}

    def key_after(producer, *changes):
        for path, old, new in changes:
            text = (tree / path).read_text()
            assert old in text
            changed.setdefault(tree / path, text)
            (tree / path).write_text(text.replace(old, new, 1))
        code_key.cache_clear()
        modules = methods.producers()[producer].modules
        found = code_key(*modules, roots=(tree / "src", tree / "benchmarks"))
        for path, text in changed.items():
            path.write_text(text)
        return found

    yield key_after
    code_key.cache_clear()


VIEWS, BATCHES = "src/onevec/views.py", "src/onevec/tokens/batches.py"


def test_a_copy_of_the_tree_has_the_same_key(key_after):
    assert key_after("onevec") == code_key(*methods.producers()["onevec"].modules)


@pytest.mark.parametrize("producer", ["onevec", "onevec_64"])
@pytest.mark.parametrize(
    "change",
    [
        (VIEWS, "def halves(", "# A comment.\ndef halves("),
        (VIEWS, '"""', '"""Another docstring. '),
        (BATCHES, "    lengths = tokens.lengths.cpu().numpy()\n", "    lengths = (\n"
         "        tokens.lengths.cpu().numpy()\n    )\n\n"),
        ("src/onevec/use/search.py", "import ", "import this\nimport "),
        ("src/onevec/encoders/pretrain.py", "import ", "import this\nimport "),
        ("benchmarks/protocol/peers.py", "_BATCH_VALUES = 2**23", "_BATCH_VALUES = 2**22"),
    ],
    ids=["comment", "docstring", "layout", "search", "pretraining", "peers"],
)  # fmt: skip
def test_what_decides_nothing_keeps_the_key(key_after, producer, change):
    assert key_after(producer, change) == key_after(producer)


@pytest.mark.parametrize(
    "change",
    [
        (VIEWS, "def halves(", "halves = None\ndef halves("),
        (BATCHES, "max_tokens: int = 200_000", "max_tokens: int = 100_000"),
        ("benchmarks/protocol/ours.py", "model.fit(", "model.fit(X="),
        ("src/onevec/probes/logistic.py", "import ", "import this\nimport "),
    ],
    ids=["views.halves", "sample_sequences", "its own code", "probes"],
)
def test_what_decides_the_result_changes_the_key(key_after, change):
    assert key_after("onevec", change) != key_after("onevec")


def test_the_mean_does_not_depend_on_the_estimator(key_after):
    change = ("src/onevec/estimator.py", "import ", "import this\nimport ")
    assert key_after("mean", change) == key_after("mean")
    assert key_after("onevec", change) != key_after("onevec")


@pytest.fixture
def small(tmp_path):
    """A package with every kind of import, and what to write into it."""

    def write(**files):
        for name, text in files.items():
            path = tmp_path / "p" / f"{name.replace('_in_', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        code_key.cache_clear()
        return code_key("p.a", roots=(tmp_path,))

    write(
        __init__="_LAZY = {'Late': 'p.late'}\ndef __getattr__(name): ...\n",
        a="""
            from typing import TYPE_CHECKING
            import numpy
            from p import Late, sub
            from . import near
            if TYPE_CHECKING:
                from p import types
            def f():
                from p.inside import g
            TABLE = "table.json"
        """,
        late="", near="", types="", inside="", other="",
        sub_in___init__="", sub_in_more="",
    )  # fmt: skip
    (tmp_path / "p/table.json").write_text("1")
    yield write, tmp_path / "p"
    code_key.cache_clear()


@pytest.mark.parametrize(
    ("module", "decides"),
    [
        ("late", True), ("near", True), ("inside", True), ("sub_in___init__", True),
        ("types", False), ("other", False), ("sub_in_more", False),
    ],
)  # fmt: skip
def test_imports_of_every_kind(small, module, decides):
    write, _ = small
    before = write()
    assert (write(**{module: "x = 1"}) != before) is decides


def test_imports_are_followed_through_modules_and_packages(small):
    write, _ = small
    before = write(near="import p.sub.more")
    assert write(sub_in_more="x = 1") != before


def test_data_beside_a_module_that_it_names(small):
    write, folder = small
    before = write()
    (folder / "table.json").write_text("2")
    assert write() != before


def test_a_results_file_says_what_made_it():
    made = made_by.made_by(seeds=[0, 1], threads=1)
    text = made_by.line(made | {"note": "tried"})
    assert text.startswith(f"onevec {made['onevec']}, commit `{made['commit'][:12]}`")
    assert f"seeds 0, 1, one thread, {made['date']}" in text
    assert text.endswith("; tried")
    assert made["versions"]["numpy"]
