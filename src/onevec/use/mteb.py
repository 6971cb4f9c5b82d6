"""OneVec on the tasks of MTEB (Muennighoff et al. 2023), as a model of its protocol version 2."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from onevec.errors import InputError, MissingExtraError
from onevec.estimator import OneVec, load
from onevec.use.search import encoded
from onevec.use.vectors import METHODS

_GROUP = 2_048  # inputs whose token vectors are in memory at a time
_KINDS = ("text", "image")  # columns of MTEB's batches that `onevec.encode` takes


class MTEBModel:
    """A frozen encoder and a fitted model, as `mteb.evaluate` takes it.

    Parameters
    ----------
    encoder : path, str, SentenceTransformer or callable
        The frozen encoder, as `onevec.encode` takes it.
    model : OneVec or path
        Fitted to token vectors of that encoder.
    method : {"onevec", "mean", "mean_pca", "mean_whitened"}
        The model, or one of the baselines that were fitted with it: the same tasks tell what the
        aggregation gains.
    name : str
        ``organisation/name`` in MTEB's results.
    modality : {"text", "image"}
        What the encoder reads.
    **encoding
        Further arguments of `onevec.encode`, such as ``long="window"``; those that the fitted
        tokens were made with. A model that was fitted to a store knows its layer.

    Notes
    -----
    Similarity is the cosine. Blank texts, of which an encoder makes no token, get a vector of
    zeros. Prompts are not used: a frozen encoder was not trained on any.

    Examples
    --------
    ::

        import mteb
        from onevec.use.mteb import MTEBModel

        ours = MTEBModel("my-encoder", "my-model", name="me/my-model")
        mteb.evaluate(ours, mteb.get_tasks(["Banking77Classification"]))
    """

    def __init__(
        self,
        encoder: Any,
        model: OneVec | str | Path,
        *,
        method: str = "onevec",
        name: str = "onevec/model",
        modality: str = "text",
        **encoding: Any,
    ):
        if method not in METHODS:
            raise InputError(f"got method={method!r}: choose from {', '.join(METHODS)}")
        if modality not in _KINDS:
            raise InputError(f"got modality={modality!r}: choose from {', '.join(_KINDS)}")
        if name.count("/") != 1 or not all(name.split("/")):
            raise InputError(f"got name={name!r}: MTEB wants organisation/name")
        taken = {"out", "metadata", "ids", "progress"} & set(encoding)
        if taken:
            raise InputError(f"got {sorted(taken)[0]}=...: MTEB says what is encoded, and where to")
        self.encoder = encoder
        self.model = model if isinstance(model, OneVec) else load(model)
        self.method = method
        self.name = name
        self.modality = modality
        self.encoding = encoding

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any = None,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> Float[np.ndarray, "inputs dim"]:
        """Return one fp32 vector per input of a data loader of MTEB; the rest is not needed.

        Raises
        ------
        InputError
            If the batches hold no column of this model's modality.
        """
        entries = self._entries(inputs)
        groups = iter(lambda: list(itertools.islice(entries, _GROUP)), [])
        parts = [self._vectors(group) for group in groups]
        if not parts:
            raise InputError("got no inputs: the data loader is empty")
        return np.concatenate(parts)

    def _entries(self, inputs: Iterable[Mapping[str, Any]]) -> Iterator[Any]:
        for batch in inputs:
            if self.modality not in batch:
                raise InputError(
                    f"the batches hold {', '.join(batch)}, this model reads {self.modality}: "
                    f"choose tasks of {self.modality}s, or modality=..."
                )
            yield from batch[self.modality]

    def _vectors(self, group: list[Any]) -> Float[np.ndarray, "inputs dim"]:
        there = [not isinstance(entry, str) or bool(entry.strip()) for entry in group]
        found = np.zeros((len(group), self._dim), np.float32)
        if any(there):
            kept = [entry for entry, has in zip(group, there, strict=True) if has]
            found[there] = self._encoded(kept)
        return found

    def _encoded(self, entries: list[Any]) -> Float[np.ndarray, "inputs dim"]:
        try:
            with encoded(
                entries, self.model, self.encoder, progress=False, **self.encoding
            ) as store:
                if self.method == "onevec":
                    return self.model.transform(store)
                return self.model.transform_baselines(store)[self.method]
        except InputError as error:
            if "has no token" not in str(error):
                raise
        if len(entries) == 1:
            return np.zeros((1, self._dim), np.float32)
        # What is blank to the encoder's tokenizer alone is found by halving.
        middle = len(entries) // 2
        halves = entries[:middle], entries[middle:]
        return np.concatenate([self._encoded(half) for half in halves])

    @property
    def _dim(self) -> int:
        if self.method == "onevec":
            return self.model.vector_.dim_out
        if self.method == "mean":
            return self.model.n_features_in_
        return self.model.baselines_[self.method].dim_out

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosines of all with all."""
        return _similarities().cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosines pair by pair."""
        return _similarities().pairwise_cos_sim(embeddings1, embeddings2)

    @cached_property
    def mteb_model_meta(self) -> Any:
        """MTEB's description; the revision is a hash, so that its cache knows a refitted model."""
        try:
            from mteb.models.model_meta import ModelMeta, ScoringFunction
        except ImportError as error:
            raise MissingExtraError("mteb", "eval") from error
        unknown = (
            "release_date", "n_parameters", "memory_usage_mb", "max_tokens", "license",
            "open_weights", "public_training_code", "public_training_data", "training_datasets",
            "languages",
        )  # fmt: skip
        modalities: Any = [self.modality]
        return ModelMeta(
            loader=None,
            name=self.name,
            revision=self._revision(),
            embed_dim=self._dim,
            framework=["PyTorch"],
            similarity_fn_name=ScoringFunction.COSINE,
            use_instructions=False,
            modalities=modalities,
            **dict.fromkeys(unknown),
        )

    def _revision(self) -> str:
        config, arrays = self.model._state()
        told = {"method": self.method, "encoder": str(self.encoder), **self.encoding}
        digest = hashlib.sha256(json.dumps([config, told], default=str, sort_keys=True).encode())
        for name in sorted(arrays):
            digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
        return digest.hexdigest()[:40]


def _similarities() -> Any:
    try:
        from mteb import similarity_functions
    except ImportError as error:
        raise MissingExtraError("mteb", "eval") from error
    return similarity_functions
