"""The module of sentence-transformers that carries a whole onevec model; see `OneVecPooling`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.modules.module import Module
from torch import Tensor

from onevec.estimator import OneVec, load
from onevec.ragged import Ragged
from onevec.vector.module import TokensToVector

_FOLDER = "model"  # of the onevec model, inside the module's own


class OneVecPooling(Module):
    """Token embeddings to the vectors of a fitted model, in fp32 on the embeddings' device.

    Parameters
    ----------
    model : OneVec
        Fitted.
    head, tail : int
        How many special tokens stand before and after the content and are left out.
    layers : list of int, optional
        The encoder's hidden states that are read, in the model's order; of one pass, which hands
        them on as ``all_layer_embeddings``. By default ``token_embeddings``.
    """

    config_file_name = "onevec_pooling.json"
    config_keys = ["head", "tail", "layers"]  # noqa: RUF012  (the base class annotates it)

    def __init__(
        self, model: OneVec, head: int = 0, tail: int = 0, layers: Sequence[int] | None = None
    ):
        super().__init__()
        self.model, self.head, self.tail = model, int(head), int(tail)
        self.layers = list(layers or ())
        # In a list, so that `.half()` of the whole leaves it in fp32.
        self._held = [TokensToVector(model.vector_, model.blocks_)]

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Add ``sentence_embedding`` (seqs, dim)."""
        embeddings: Tensor = features["token_embeddings"]
        states = [embeddings]
        if self.layers:
            every = features["all_layer_embeddings"]
            last = -1, len(every) - 1  # after a final normalisation, if there is one
            states = [embeddings if at in last else every[at] for at in self.layers]
        tokens, cls = {}, {}
        for name, each in zip(self.model.layers_, states, strict=True):
            tokens[name], cls[name] = self._content(each, features)
        pooled = self._held[0].to(embeddings.device)(tokens, cls)
        features["sentence_embedding"] = pooled.to(embeddings.dtype)
        return features

    def _content(self, embeddings: Tensor, features: dict[str, Any]) -> tuple[Ragged, Tensor]:
        """Take padding and special tokens off; return what is left, and each first state."""
        if "cu_seq_lens_q" in features:  # flash attention: one row, sequence after sequence
            counts = features["cu_seq_lens_q"].diff().long()
            values, ids = embeddings[0], features["input_ids"][0]
        else:
            mask = features["attention_mask"].bool()
            counts, values, ids = mask.sum(1), embeddings[mask], features["input_ids"][mask]
        whole = Ragged(values, counts, {"ids": ids})
        after = torch.repeat_interleave(counts, counts) - 1 - whole.positions
        kept = (whole.positions >= self.head) & (after >= self.tail)
        lengths = (counts - self.head - self.tail).clamp(min=0)
        # Where there is a classification token, no sequence is empty.
        first = values[(counts.cumsum(0) - counts).clamp(max=len(values) - 1)]
        return Ragged(values[kept], lengths, {"ids": ids[kept]}), first

    def get_embedding_dimension(self) -> int:
        """Return the dimensions of the vector."""
        return self.model.vector_.dim_out

    def save(
        self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any
    ) -> None:
        """Write the settings, and the onevec model in a folder beside them."""
        self.save_config(output_path)
        self.model.save(Path(output_path) / _FOLDER, overwrite=True)

    @classmethod
    def load(  # noqa: PLR0917  (the signature is the base class's)
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        **kwargs: Any,
    ) -> OneVecPooling:
        """Open what `save` wrote, in a folder or on the hub."""
        where: dict[str, Any] = {
            "token": token,
            "cache_folder": cache_folder,
            "revision": revision,
            "local_files_only": local_files_only,
        }
        config = cls.load_config(model_name_or_path, subfolder=subfolder, **where)
        folder = cls.load_dir_path(model_name_or_path, subfolder=f"{subfolder}/{_FOLDER}", **where)
        assert folder is not None, "load_config found the folder"
        return cls(load(folder), **config)
