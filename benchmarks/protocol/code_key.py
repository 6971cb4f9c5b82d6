"""What decides a cached result: a module and all that it imports from this repository, as syntax.

A result is computed again when code changed that can change it, and only then. Modules are hashed
as parsed, without comments, docstrings and layout, so that explaining the code costs nothing.
Imports are read from the source, those inside functions too; nothing is run. Imports for type
checkers alone (``if TYPE_CHECKING:``) decide nothing and are left out, and so are names that are
put together when the code runs.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOTS = (ROOT / "src", ROOT / "benchmarks")
_NEVER = ("TYPE_CHECKING", "typing.TYPE_CHECKING")


@functools.cache
def code_key(*modules: str, roots: tuple[Path, ...] = ROOTS) -> str:
    """Hash of the modules and of everything they import, however far away.

    Parameters
    ----------
    modules : str
        Dotted names.
    roots : tuple of paths
        Folders in which modules are looked for. What is in none of them is no code of ours.
    """
    known: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = _find(name, roots)
        if name in known or path is None:
            assert name not in modules or path, f"there is no module {name} in {roots}"
            continue
        tree = ast.parse(path.read_text())
        waiting += {part for found in _imports(tree, name, roots) for part in _parents(found)}
        known[name] = _digest(tree, path)
        waiting += _parents(name)
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(known.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _parents(name: str) -> list[str]:
    """``a.b.c`` and the packages whose ``__init__`` runs before it: ``a.b``, ``a``."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _find(name: str, roots: tuple[Path, ...]) -> Path | None:
    for root in roots:
        place = root.joinpath(*name.split("."))
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if path.is_file():
                return path
    return None


def _imports(tree: ast.Module, name: str, roots: tuple[Path, ...]) -> Iterator[str]:
    """Modules that a module may import, whether of this repository or not."""
    taken: list[tuple[str, str]] = []  # a module, and a name taken from it
    bound: dict[str, str] = {}  # what a module is called here
    path = _find(name, roots)
    package = name if path and path.name == "__init__.py" else name.rpartition(".")[0]
    for node in _run_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
                top = alias.name.split(".")[0]
                bound[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = parts[: len(parts) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield source
            taken += [(source, alias.name) for alias in node.names]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            taken.append((node.value.id, node.attr))
    for source, attribute in taken:
        source = bound.get(source, source)  # noqa: PLW2901
        if _find(f"{source}.{attribute}", roots):
            yield f"{source}.{attribute}"
        elif attribute in (lazy := _lazy(source, roots)):
            yield lazy[attribute]


def _run_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that only a type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in _NEVER:
            for other in node.orelse:
                yield from _run_nodes(other)
            continue
        yield node
        yield from _run_nodes(node)


@functools.cache
def _lazy(name: str, roots: tuple[Path, ...]) -> dict[str, str]:
    """Names that a package imports at their first use (PEP 562): its table ``_LAZY``."""
    path = _find(name, roots)
    if path is None or path.name != "__init__.py":
        return {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_LAZY":
            return ast.literal_eval(node.value)
    return {}


def _digest(tree: ast.Module, path: Path) -> str:
    """Hash of a module as syntax, and of the files beside it that it names."""
    digest = hashlib.sha256()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value:
            beside = path.parent / node.value
            if len(node.value) < 100 and beside.suffix not in ("", ".py") and beside.is_file():
                digest.update(beside.name.encode() + beside.read_bytes())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):  # bare strings do nothing: docstrings, and texts below a name
            node.body = [each for each in body if not _is_bare_string(each)]  # type: ignore[attr-defined]
    digest.update(ast.dump(tree).encode())
    return digest.hexdigest()


def _is_bare_string(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
