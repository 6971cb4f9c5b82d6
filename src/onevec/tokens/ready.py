"""Files of ready token vectors, as NumPy, h5py, torch and safetensors write them.

They may come from strangers: nothing is unpickled, and no code in them runs.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch

from onevec.errors import InputError, MissingExtraError
from onevec.ragged import Ragged
from onevec.tokens.chunks import Chunk, LayeredTokens, RowSource, as_ids
from onevec.tokens.tables import reading
from onevec.tokens.told import tell

_ROWS = 256
_POOLED = "one vector per sequence, pooled already; token vectors are (n, dim) arrays"
Shape = tuple[int, ...]


@dataclass
class Archive:
    """Named arrays of a file, read one by one.

    Attributes
    ----------
    path : Path
        For messages.
    shapes : dict of str to tuple of int
        Of every array.
    read : callable
        From a name to the array.
    ids : dict of str to str
        Ids of arrays that are not called by them.
    close : callable
        Closes the file.
    """

    path: Path
    shapes: dict[str, Shape]
    read: Callable[[str], np.ndarray]
    ids: dict[str, str] = field(default_factory=dict)
    close: Callable[[], None] = lambda: None

    def source(self) -> RowSource:
        """Return what the arrays are; the file is closed when they are read, or are none."""
        try:
            found = self._source()
        except BaseException:
            self.close()
            raise
        return RowSource(self._closing(found.chunks), found.total)

    def _closing(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        try:
            yield from chunks
        finally:
            self.close()

    def _source(self) -> RowSource:
        """Return what the arrays are: one per sequence, all sequences stacked, or laid end to end.

        Raises
        ------
        InputError
            If they are no token vectors.
        """
        shapes = self.shapes
        if not shapes:
            raise InputError(f"{self.path} holds no arrays: pass token vectors")
        if {"values", "lengths"} <= set(shapes):
            return self._flat()
        if {"vectors", "rows"} == set(shapes):
            raise InputError(f"{self.path} holds {_POOLED}")
        wide = [name for name, shape in shapes.items() if len(shape) >= 2]
        beside = [name for name in shapes if name not in wide]
        if len(wide) == 1 and len(shapes[wide[0]]) == 3:
            rows = shapes[wide[0]][0]
            if all(shapes[name] == (rows,) for name in beside):
                if not beside:
                    tell(
                        f"{self.path} holds one array of shape {shapes[wide[0]]}: it is read as "
                        f"{rows:,} sequences, not as the hidden states of one"
                    )
                return RowSource(self._stacked(wide[0], beside), rows)
        if not wide and self.path.suffix.lower() != ".npz":  # there they may be waveforms
            raise InputError(
                f"{self.path} holds arrays such as {beside[0]!r} of shape {shapes[beside[0]]}: "
                f"{_POOLED}"
            )
        if wide and beside:
            raise InputError(
                f"{self.path} holds {wide[0]!r} of shape {shapes[wide[0]]} and {beside[0]!r} of "
                f"shape {shapes[beside[0]]}: every array must hold the (n, dim) tokens of one "
                "sequence, or one of them those of all and the others a value for each"
            )
        return RowSource(self._one_by_one(), len(shapes))

    def _flat(self) -> RowSource:
        lengths = torch.from_numpy(self.read("lengths").astype(np.int64))
        whole = Ragged(torch.from_numpy(self.read("values")), lengths)
        total = len(whole)
        parts = (Chunk(whole[k : k + _ROWS]) for k in range(0, total, _ROWS))
        return RowSource(parts, total)

    def _stacked(self, name: str, beside: list[str]) -> Iterator[Chunk]:
        with opening(self.path):
            whole = self.read(name)
            columns = {each: self.read(each).tolist() for each in beside}
        names = next((columns.pop(each) for each in ("ids", "id") if each in columns), None)
        ids = None if names is None else as_ids(names)
        for k in range(0, len(whole), _ROWS):
            rows = slice(k, k + _ROWS)
            cut = {name: column[rows] for name, column in columns.items()}
            yield Chunk(list(whole[rows]), ids and ids[rows], cut)

    def _one_by_one(self) -> Iterator[Chunk]:
        for name in self.shapes:
            with opening(self.path):
                array = self.read(name)
            yield Chunk([layered(array)], [self.ids.get(name, name)])


def layered(array: np.ndarray) -> Any:
    """Take (layers, n, dim) floats apart into hidden states; return others as they are."""
    if array.ndim == 3 and array.dtype.kind == "f":
        return LayeredTokens(dict(enumerate(array)))
    return array


@contextmanager
def opening(path: Path) -> Iterator[None]:
    """Turn what the libraries raise about a damaged file into one sentence."""
    from safetensors import SafetensorError

    with reading(path, path.suffix.lower().lstrip(".")):
        try:
            yield
        except pickle.UnpicklingError as error:
            raise InputError(
                f"{path} holds more than tensors, which is not loaded (pickle can run code), or is "
                "damaged: save tensors alone, or .safetensors"
            ) from error
        except (RuntimeError, SafetensorError, AttributeError, TypeError) as error:
            if isinstance(error, MissingExtraError):
                raise
            raise ValueError(str(error)) from error


def open_npz(path: Path) -> RowSource:
    """Open an archive of NumPy's arrays."""
    with reading(path, "NumPy"):
        archive = np.load(path, allow_pickle=False)
        shapes = {name: _shape(archive, name) for name in archive.files}
        return Archive(path, shapes, lambda name: archive[name], close=archive.close).source()


def _shape(archive: Any, name: str) -> Shape:
    member = name if name in archive.zip.namelist() else f"{name}.npy"
    with archive.zip.open(member) as file:
        version = np.lib.format.read_magic(file)
        first = version == (1, 0)
        header = (
            np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
        )
        return header(file)[0]


def open_hdf5(path: Path) -> RowSource:
    """Open an HDF5 file with one data set per sequence; ``original_id`` is its id where it is set.

    bio_embeddings writes such files; groups are walked through, links to other files are not.
    """
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError("h5py", "files") from error
    with opening(path):
        file: Any = h5py.File(path, "r")
        shapes: dict[str, Shape] = {}
        ids: dict[str, str] = {}

        def note(name: str, node: Any) -> None:
            if isinstance(node, h5py.Dataset):
                if node.external or node.is_virtual:  # a stranger's file could name any other
                    raise InputError(
                        f"{path} keeps {name!r} in another file, which is not read: write its "
                        "numbers into the file itself"
                    )
                if node.dtype.kind not in "fiuSO":
                    raise InputError(f"{path} holds {name!r} of type {node.dtype}: pass numbers")
                shapes[name] = node.shape or ()
                if (own := node.attrs.get("original_id")) is not None:
                    ids[name] = own.decode() if isinstance(own, bytes) else str(own)

        file.visititems(note)
        return Archive(path, shapes, lambda name: file[name][()], ids, file.close).source()


def open_safetensors(path: Path) -> RowSource:
    """Open a .safetensors file with one tensor per sequence."""
    from safetensors import safe_open

    with opening(path):
        file: Any = safe_open(path, framework="pt")
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        return Archive(path, shapes, lambda name: as_numpy(file.get_tensor(name))).source()


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Return an array; bfloat16, which NumPy does not know, as float32."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def open_torch(path: Path, name: str | None = None) -> RowSource:
    """Open a .pt file: what ESM's ``extract.py`` writes, a tensor, or several in a list or mapping.

    Parameters
    ----------
    path : Path
        The file; only tensors are loaded from it.
    name : str, optional
        Id of its sequence, where it holds one without a label; its own name by default.
    """
    with opening(path):
        held = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(held, Mapping) and not _is_esm(held):
            return _of_mapping(path, held)
        if isinstance(held, torch.Tensor) and held.ndim == 3:
            held = list(held)
        alone = not isinstance(held, list | tuple)
        entries: list[Any] = [held] if alone else list(held)
        rows = [_entry(path, each) for each in entries]
        ids = [label for label, _ in rows]
        if alone and ids == [None]:
            ids = [name or path.stem]
        named = ids if all(each is not None for each in ids) else None
        chunk = Chunk([tokens for _, tokens in rows], named and [str(each) for each in named])
        parts = (chunk[k : k + _ROWS] for k in range(0, len(chunk), _ROWS))
        return RowSource(parts, len(chunk))


def _is_esm(held: Any) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(held, Mapping) and bool(
        {"representations", "mean_representations", "bos_representations"} & set(held)
    )


def _entry(path: Path, held: Any) -> tuple[Any, Any]:
    """Return the label, or None, and the tokens of one sequence."""
    if isinstance(held, torch.Tensor) and held.ndim == 2:
        return None, as_numpy(held)
    if _is_esm(held):
        if not held.get("representations"):
            raise InputError(
                f"{path} holds means of tokens, {_POOLED}: run extract.py with --include per_tok"
            )
        states = {int(layer): as_numpy(each) for layer, each in held["representations"].items()}
        return held.get("label"), LayeredTokens(dict(sorted(states.items())))
    what = f"a tensor of shape {tuple(held.shape)}" if isinstance(held, torch.Tensor) else (
        f"a {type(held).__name__}")  # fmt: skip
    raise InputError(f"{path} holds {what}: pass one (n, dim) tensor per sequence")


def _of_mapping(path: Path, held: Mapping[Any, Any]) -> RowSource:
    if held and all(_is_esm(each) for each in held.values()):
        rows = [_entry(path, each)[1] for each in held.values()]
        return RowSource(iter([Chunk(rows, [str(name) for name in held])]), len(rows))
    wrong = next((n for n, each in held.items() if not isinstance(each, torch.Tensor)), None)
    if wrong is not None:
        raise InputError(
            f"{path} holds {wrong!r}, a {type(held[wrong]).__name__}: pass one (n, dim) tensor "
            "per sequence, or what ESM's extract.py writes"
        )
    tensors = {str(name): each for name, each in held.items()}
    shapes = {name: tuple(each.shape) for name, each in tensors.items()}
    return Archive(path, shapes, lambda name: as_numpy(tensors[name])).source()


def open_npy(path: Path, name: str | None = None) -> np.ndarray:
    """Map an array, so that a file larger than memory is read chunk by chunk."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        if "Python objects" not in str(error):
            raise
        raise InputError(
            f"{path} holds Python objects, which are not loaded (pickle can run code): save a "
            "(seqs, n, dim) array, or one array per sequence with np.savez"
        ) from error
