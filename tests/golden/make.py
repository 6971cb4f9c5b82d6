"""Golden outputs: what poolers, projections, parts and learned heads give, as committed files.

Run ``python -m tests.golden.make`` from the repository's root where a change of the outputs is
meant; ``tests/test_golden.py`` compares.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from onevec import OneVec, Ragged
from onevec.parts import PARTS
from onevec.poolers import POOLERS, Pooler
from onevec.project import PROJECTIONS
from onevec.tokens.store import TokenStore
from onevec.tokens.writer import TokenStoreWriter
from tests.contracts.test_poolers import VARIANTS, perturbed

FOLDER = Path(__file__).parent
DIM, SEQUENCES = 12, 80
_COLUMNS = 16  # kept of each output: its columns are added up with seeded signs, none is left out


def tokens() -> Ragged:
    """Draw sequences of 1 to 30 tokens around three centres, with ids and two layers."""
    rng = np.random.default_rng(0)
    lengths = np.concatenate([[1, 2, 30], rng.integers(1, 31, SEQUENCES - 3)])
    total = int(lengths.sum())
    centres = rng.normal(size=(3, DIM))
    values = centres[rng.integers(3, size=total)] + rng.normal(size=(total, DIM)) * 0.6
    # One direction drifts within a sequence, so that order shows.
    values[:, 0] += np.concatenate([np.linspace(-1, 1, n) for n in lengths])
    layers = np.stack([rng.normal(size=(total, DIM)), values], axis=1)
    fields = {
        "ids": torch.from_numpy(rng.integers(0, 20, total)),
        "layers": torch.from_numpy(layers.astype(np.float32)),
    }
    return Ragged(torch.from_numpy(values.astype(np.float32)), torch.from_numpy(lengths), fields)


def folded(found: np.ndarray | torch.Tensor) -> np.ndarray:
    """Add up columns with seeded signs, so that few stand for all."""
    found = np.asarray(found, np.float64)
    signs = np.random.default_rng(1).choice([-1.0, 1.0], size=found.shape[1])
    out = np.zeros((len(found), min(_COLUMNS, found.shape[1])))
    np.add.at(out.T, np.arange(found.shape[1]) % _COLUMNS, (found * signs).T)
    return out.astype(np.float32)


def gram(found: np.ndarray) -> np.ndarray:
    """Dot products of all rows: the same whichever way an eigenvector points."""
    found = np.asarray(found, np.float64)
    return folded(found @ found.T)


def of_poolers() -> Iterator[tuple[str, np.ndarray]]:
    """Fit every pooler of the table; learned ones also after three steps of gradient descent."""
    held = tokens()
    cases = {name: (name, {}) for name in POOLERS}
    cases |= {f"{name}-variant": (name, options) for name, options in VARIANTS.items()}
    for case, (name, options) in cases.items():
        pooler = POOLERS[name](**options).fit(held, random_state=0)
        with torch.no_grad():
            yield case, folded(pooler(held))
        if pooler.learned:
            with torch.no_grad():
                found = _stepped(perturbed(pooler, 0.1), held)(held)
            yield f"{case}-trained", folded(found)


@torch.enable_grad()
def _stepped(pooler: Pooler, held: Ragged, steps: int = 3, rate: float = 0.05) -> Pooler:
    """Descend towards seeded targets: the gradient through the pooler counts too."""
    source = torch.Generator().manual_seed(2)
    target = torch.randn(len(held), pooler.dim_out, generator=source)
    for _ in range(steps):
        loss = (pooler(held) - target).square().mean()
        parameters = [p for p in pooler.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.sub_(gradient, alpha=rate)
    return pooler


def of_projections() -> Iterator[tuple[str, np.ndarray]]:
    """Fit every projection to the sequences' first tokens."""
    held = tokens()
    rows = held.values.numpy()[np.cumsum(held.lengths.numpy()) - held.lengths.numpy()]
    for name, kind in PROJECTIONS.items():
        found = np.asarray(kind().fit_transform(rows))
        if np.issubdtype(found.dtype, np.integer):
            yield name, folded(found)
        else:
            yield name, gram(found)


def of_vectors() -> Iterator[tuple[str, np.ndarray]]:
    """Fit the default vector, each part alone, and a learned head."""
    held = tokens()
    plain = Ragged(held.values, held.lengths)
    for name, part in PARTS.items():
        if part.reads == "cls":
            with tempfile.TemporaryDirectory() as folder:
                store = _store(plain, Path(folder) / "store")
                yield f"part-{name}", gram(OneVec(parts=[name]).fit(store).transform(store))
        else:
            yield f"part-{name}", gram(OneVec(parts=[name]).fit(plain).transform(plain))
    makers = {
        "default": OneVec(),
        "default-8": OneVec(8),
        "pooler-std-vlad": OneVec(pooler="std|vlad"),
        "pooler-attention": OneVec(pooler="attention", training={"steps": 5}),
        "learned-vicreg": OneVec(objective="vicreg", training={"steps": 5}),
    }
    for name, model in makers.items():
        yield name, gram(model.fit(plain).transform(plain))


def _store(held: Ragged, path: Path) -> TokenStore:
    cls = np.random.default_rng(3).normal(size=(len(held), DIM)).astype(np.float32)
    with TokenStoreWriter(path, dtype="float32") as writer:
        writer.append(held, cls=cls)
    return TokenStore(path)


KINDS = {"poolers": of_poolers, "projections": of_projections, "vectors": of_vectors}


def main() -> None:
    """Write one file for each kind."""
    for name, outputs in KINDS.items():
        np.savez_compressed(FOLDER / f"{name}.npz", **dict(outputs()))


if __name__ == "__main__":
    main()
