"""Importing is free, the public surface is small, and imports follow the arrow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import onevec

SOURCE = Path(onevec.__file__).parent
# Lower layers first: a module may import its own layer and those before it.
ARROW = [
    {"errors"},
    {"files"},
    {"ragged"},
    {"segment"},
    {"tokens", "poolers", "project", "views", "objectives"},
    {"nuisance", "card"},
    {"blocks"},
    {"reduction"},
    {"parts"},
    {"vector"},
    {"native"},
    {"judge"},
    {"train"},
    {"estimator", "encoders"},
    {"use", "report", "export"},
    {"demo", "cli"},
]


def layer(module: str) -> int:
    top = module.split(".")[1] if "." in module else "__init__"
    return next((i for i, names in enumerate(ARROW) if top in names), -1)


def imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize(
    "path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE))
)
def test_imports_follow_the_arrow(path):
    parts = path.relative_to(SOURCE).with_suffix("").parts
    if parts == ("__init__",):
        return
    mine = layer("onevec." + ".".join(parts))
    assert mine >= 0, f"{path} stands in no layer of the arrow"
    for module in imports(path):
        if module.startswith("onevec."):
            assert layer(module) <= mine, f"{path.name} imports {module}, which stands above it"
            if parts[0] == "poolers":
                assert not module.startswith("onevec.objectives")


def test_import_loads_nothing_heavy_and_is_quick():
    code = (
        "import sys, time; t = time.perf_counter(); import onevec; "
        "print(time.perf_counter() - t); "
        "print([m for m in ('torch', 'numpy', 'sklearn', 'pyarrow', 'ray') if m in sys.modules])"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    assert min(float(run.stdout.split("\n")[0]) for run in runs) < 0.05
    assert runs[0].stdout.split("\n")[1] == "[]"


def test_a_database_is_imported_where_it_is_used():
    code = (
        "import sys, onevec; onevec.Index, onevec.search; "
        "print([m for m in ('lancedb', 'faiss') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_public_names_exist_and_are_few():
    assert len(onevec.__all__) <= 15
    for name in onevec.__all__:
        assert getattr(onevec, name) is not None
    assert set(onevec.__all__) <= set(dir(onevec))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = onevec.nothing
