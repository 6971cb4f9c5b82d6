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
    {"files", "weights"},
    {"ragged"},
    {"segment"},
    {"tokens", "poolers", "project", "views", "objectives", "card"},
    {"vector"},
    {"judge"},
    {"train"},
    {"estimator", "encoders"},
    {"probes", "use", "report", "export"},
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


def test_no_two_classes_have_one_name():
    found: dict[str, list[str]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(str(path.relative_to(SOURCE)))
    assert {name: places for name, places in found.items() if len(places) > 1} == {}


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


def reached_from(start: str) -> set[str]:
    """Modules of the package that importing one, or what it imports, leads to."""
    found, waiting = set(), [start]
    while waiting:
        module = waiting.pop()
        path = SOURCE.joinpath(*module.split(".")[1:])
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if module in found or not path.is_file():
            continue
        found.add(module)
        for each in names_imported(path):
            waiting += [each, each.rpartition(".")[0]]  # a name of a module, or a module
    return found


def names_imported(path: Path):
    """Every ``onevec`` module or name that a file imports, at its top or in a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("onevec"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("onevec"))


def test_no_path_leads_from_fit_to_the_probes():
    reached = reached_from("onevec.estimator")
    assert "onevec.judge.verdict" in reached and "onevec.vector.fitted" in reached
    assert not [module for module in reached if module.startswith("onevec.probes")]


def test_the_judge_sees_arrays_alone():
    refused = ("onevec.tokens", "onevec.views", "onevec.vector", "onevec.poolers")
    for path in (SOURCE / "judge").glob("*.py"):
        wrong = [name for name in names_imported(path) if name.startswith(refused)]
        assert not wrong, f"{path.name} imports {wrong}"


def test_no_files_import_each_other_in_a_circle():
    """At their top, that is: what a function imports is there when it is called."""
    paths = {}
    for path in SOURCE.rglob("*.py"):
        parts = [p for p in path.relative_to(SOURCE).with_suffix("").parts if p != "__init__"]
        paths[".".join(["onevec", *parts])] = path
    edges: dict[str, set[str]] = {module: set() for module in paths}
    for module, path in paths.items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and node.module in paths:
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                edges[module] |= {name if name in paths else node.module for name in names}
    edges = {module: found - {module} for module, found in edges.items()}
    while free := [module for module, found in edges.items() if not found & set(edges)]:
        for module in free:
            del edges[module]
    assert not edges, f"these import each other: {sorted(edges)}"
