"""OneVec: the whole way from token vectors to one vector per sequence, as one estimator."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from onevec.card import model_card
from onevec.errors import InputError, StoreError
from onevec.files import appears_whole, check_target
from onevec.judge.agreement import SEQUENCES, layer_weights
from onevec.judge.dimension import DIMENSIONS
from onevec.judge.evidence import Findings, findings_of, why_kept
from onevec.judge.measured import describe, estimate, kind_of
from onevec.judge.verdict import LEAST_HELD_OUT, Shortened, Verdict, cost, keep_the_mean, verdict
from onevec.objectives import Objective, make_objective
from onevec.poolers import POOLERS, Pooler
from onevec.poolers.spec import Pair, blocks_of, pooler_of, read_spec
from onevec.project import REDUCERS, make_reducer
from onevec.project.rows import normalise
from onevec.ragged import Ragged
from onevec.segment import segment_mean
from onevec.tokens.batches import Tokens, as_tokens, sample_sequences
from onevec.tokens.encoding import Encoded, Encoding, Known, open_encoding
from onevec.tokens.layers import AUTO, LAST, open_layers, same_layers
from onevec.tokens.progress import Bar
from onevec.tokens.raw import encode_sample, encoder_for, is_raw
from onevec.tokens.store import TokenStore, made_from
from onevec.train.settings import Trained, Training
from onevec.vector.blocks import Blocks, BlockSpec, Features, read, under
from onevec.vector.fitted import Pooled, Vector
from onevec.vector.held_out import EFFORTS, Prepared, held_out_vectors, prepare
from onevec.vector.native import NATIVE_POOLERS, why_not_native
from onevec.vector.parts import (
    ASKING,
    BLOCKS,
    HEAD,
    LEARNED,
    NATIVE_WEIGHTS,
    WIDTH,
    Part,
    chosen,
    default_weights,
    part_of,
    ready_frames,
)
from onevec.vector.reduction import MEAN, MEAN_PCA, Recipe, Reduction
from onevec.weights import read_weights

FORMAT = 5
OBJECTIVE = "held_out_statistics"  # of learned poolers unless told otherwise
_CONFIG, _WEIGHTS, _CARD = "config.json", "model.safetensors", "README.md"
_TRAINED_DIM = 64  # of the vectors that an objective is minimised on
_DESCRIBED = 50_000  # tokens that tell what kind of data these are
_COLUMNS = ("column", "id_column", "ids", "metadata", "upper", "frames")
_ENCODING = (  # of `onevec.encode`
    "column", "id_column", "batch_size", "batch_tokens", "device", "dtype", "frames", "long",
    "max_length", "overlap", "precision", "progress", "special_tokens", "upper",
)  # fmt: skip


class OneVec(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Learn, without labels, one vector per sequence that holds the mean and what it misses.

    The vector is made of parts side by side: the mean of the tokens, whole and unrotated, and
    beside it statistics that the mean cannot hold. Each is centred on the fitting data and of
    length 1 for every sequence, times its weight. Nothing is chosen against the mean.

    Parameters
    ----------
    dim : int, "auto" or None, default None
        None is the whole vector, all parts side by side. A number takes the leading directions of
        the whole (or what ``reduce`` says), and the verdict says what that costs; "auto" takes the
        fewest, up to 256, that keep the nearest neighbours of held-out sequences (see
        `onevec.judge.dimension`).
    reduce : {"pca", "whitening", "rademacher", "sparse", "gaussian"}, default "pca"
        How the whole is shortened to ``dim`` dimensions: by its principal components, as they are
        or whitened, or by a random projection, which keeps distances on average and looks at no
        data; see `onevec.project`.
    parts : sequence of str, mapping of str to float or Part, or str, optional
        Entries of `onevec.vector.parts.PARTS` with their weights, such as ``{"mean": 1, "rich":
        0.6}``, closed-form poolers such as ``"std|vlad"``, or ``{"mean": 1, "mine": MyPooler()}``.
        By default mean, rich and plain; their weights follow whether an encoder made the tokens,
        see `onevec.vector.parts.default_weights`.
    layers : int, str, sequence, or mapping of hidden state to weight, optional
        Hidden states of a store whose parts stand side by side, such as ``"last,middle"`` or
        ``{12: 1.0, 6: 0.6}``; see `onevec.tokens.layers.open_layers`. By default the last alone.
        "auto" puts up to two inner ones beside it, weighted by how far they agree with it (see
        `onevec.judge.agreement`); raw sequences are encoded at every layer for the fit alone.
    effort : {"quick", "standard", "thorough"}, default "quick"
        On how much data everything is fitted and judged.
    pooler : str, mapping, or Pooler, default "auto"
        "auto" makes the vector of parts. A spec such as "mean|std|vlad:codes=8" takes these poolers
        alone, half-whitened and reduced to ``dim`` (256 where it is None), not scaled to length 1.
        Those that learn (such as "attention") are trained first. Options may also come in a
        mapping, ``{"mean": {}, "vlad": {"codes": 8}}``, and a pooler, of your own too, as it is.
    objective : str or mapping, default "auto"
        What learned poolers are trained for: an entry of `onevec.objectives.OBJECTIVES`, or
        several with their weights, ``{"vicreg": 0.5, "held_out_statistics": 1.0}``. With
        ``pooler="auto"`` a learned head on closed-form blocks is one more part.
    training : mapping, optional
        Settings of the training, fields of `onevec.train.Training` such as ``{"steps": 500}``.
    export : str, optional
        "sentence-transformers" takes parts that a folder of its own modules can hold, to be opened
        without onevec and ``trust_remote_code`` (see `onevec.export.sentence_transformers`): the
        mean, extremes and covariance, each of length 1 on average. A ``pooler`` that cannot be
        held so is refused.
    nuisance : sequence of str, optional
        What must not be read from the vector: metadata columns of the store such as ``"session"``
        (groups, or numbers; few whole numbers are groups), and ``"length"``. The directions in
        which a linear model of them shows are taken out of every part; ``transform`` does not
        need them.
    random_state : int, default 0
        Seed of every draw.
    check_encoder : bool, default True
        Whether ``transform`` refuses a store that another encoder made.
    encoder : path, str, SentenceTransformer or callable, optional
        What turns raw sequences into token vectors, as `onevec.encode` takes it: `fit`,
        `transform` and `encode` take raw sequences then. It is opened when it is needed.
    encoding : mapping, optional
        How it is run: arguments of `onevec.encode` such as ``{"max_length": 512}``.

    Attributes
    ----------
    verdict_ : Verdict
        What the vector holds and what is known of its worth.
    vector_ : Vector
        The fitted parts.
    parts_ : list of dict
        ``name``, ``layer``, ``first`` and ``last`` column (exclusive), ``weight`` and ``about`` of
        each part of the whole vector: to look at one, drop it or weigh it anew.
    layers_ : list of int
        The hidden states that are read, the main one first; ``[-1]`` for bare arrays.
    training_ : Trained or None
        What training did; None if nothing was trained.
    n_features_in_ : int
        Dimension of the token vectors.
    fingerprint_ : str or None
        The encoder that made the fitted store; None for bare arrays.
    encoder_ : dict or None
        ``name`` of that encoder, ``settings`` and ``dtype`` of the store; None for bare arrays.
    data_ : dict or None
        What it was fitted to: ``sequences``, ``tokens`` and a ``fingerprint`` of their lengths.

    Examples
    --------
    >>> import numpy as np
    >>> from onevec import OneVec
    >>> rng = np.random.default_rng(0)
    >>> tokens = [rng.normal(size=(n, 16)) for n in rng.integers(4, 30, size=200)]
    >>> model = OneVec().fit(tokens)
    >>> [(part["name"], part["last"] - part["first"]) for part in model.parts_]
    [('mean', 16), ('rich', 11), ('plain', 11)]
    >>> model.transform(tokens).shape
    (200, 38)

    From raw sequences, with the encoder that reads them::

        model = OneVec(encoder="sentence-transformers/all-MiniLM-L6-v2").fit(texts)
        vectors = model.transform(texts)
        model.encode("one text")        # (dim,)
    """

    def __init__(
        self,
        dim: int | str | None = None,
        *,
        reduce: str = "pca",
        parts: Any = None,
        layers: Any = None,
        effort: str = "quick",
        pooler: Any = "auto",
        objective: Any = "auto",
        training: Mapping[str, Any] | None = None,
        export: str | None = None,
        nuisance: Sequence[str] | None = None,
        random_state: int = 0,
        check_encoder: bool = True,
        encoder: Any = None,
        encoding: Mapping[str, Any] | None = None,
    ):
        self.dim = dim
        self.reduce = reduce
        self.parts = parts
        self.layers = layers
        self.effort = effort
        self.pooler = pooler
        self.objective = objective
        self.training = training
        self.export = export
        self.nuisance = nuisance
        self.random_state = random_state
        self.check_encoder = check_encoder
        self.encoder = encoder
        self.encoding = encoding

    def fit(self, X: Any, y: Any = None) -> OneVec:
        """Fit to sequences; ``y`` is never read.

        Parameters
        ----------
        X : list of (n_i, dim) arrays, Ragged, TokenStore, a store's path, or mapping of int to such
            Token vectors; a mapping holds the same sequences by hidden state. With ``encoder``
            also raw sequences, as `onevec.encode` takes them: of these as many are encoded as
            ``effort`` looks at, drawn at random, for a while into a temporary store.
        y : ignored
            There so that scikit-learn's pipelines can call it.
        """
        self._check_parameters()
        if not is_raw(X, self.encoder, self._framed):
            return self._fit(X)
        with self._sample(X) as (encoding, known):
            self._fit(known.store)
        encoding.tell()
        return self

    def fit_transform(self, X: Any, y: Any = None) -> Float[np.ndarray, "seqs dim"]:
        """Fit to sequences and return their vectors; of raw ones none is encoded twice."""
        self._check_parameters()
        if not is_raw(X, self.encoder, self._framed):
            return self._fit(X).transform(X)
        with self._sample(X) as (encoding, known):
            self._fit(known.store)
            parts = [self.transform_encoded(part) for part in encoding.kept_states(known)]
        encoding.tell()
        return np.concatenate(parts)

    def _fit(self, X: Any) -> OneVec:
        objective = make_objective(OBJECTIVE if self.objective == "auto" else self.objective)
        training = Training.of(self.training)  # wrong settings are refused where nothing learns too
        named, learned = self._named_poolers()
        layers, weights = open_layers(X, self.layers)
        if self._chooses_layers and len(layers) > 1:
            weights = layer_weights(_means_of(layers, int(self.random_state)))
            layers = {layer: layers[layer] for layer in weights}
        main, tokens = next(iter(layers.items()))
        if len(tokens) < 2:
            raise InputError(f"got {len(tokens)} sequence: fit needs at least 2, better hundreds")
        if len(layers) > 1 and (named or learned):
            raise InputError(
                f"got layers={self.layers!r} with pooler={self.pooler!r} and "
                f"objective={self.objective!r}, which work on one layer: leave one of them out"
            )
        tokens = layers[main] = _with_layers(tokens, [pooler_of(*spec) for spec in named.values()])
        sample = sample_sequences(tokens, _DESCRIBED, int(self.random_state))[1]
        frames = ready_frames(sample, _fingerprint(layers))
        judged = self.pooler == "auto"
        recipe = (
            LEARNED if judged else Recipe(tuple(named), 0.5, 0.5)
        )  # of what is named or trained
        parts, specs = {}, {}
        if judged:
            usual = NATIVE_WEIGHTS if self.export else default_weights(frames)
            parts, specs = chosen(self.parts, usual)
            self._check_native(spec.pair for spec in specs.values())
        specs = {MEAN: BLOCKS[MEAN]} | specs
        if learned:  # asks about a sequence's other half
            specs |= {name: BLOCKS[name] for name in ASKING}
        specs |= {name: BlockSpec.of(*pair) for name, pair in named.items()}
        given = self.effort, int(self.random_state), tuple(self.nuisance or ())
        found = {
            layer: prepare(held, specs, *given, halved=judged and not learned)
            for layer, held in layers.items()
        }
        asked = [
            (name if layer == main else f"{name}@{layer}", layer, _weighed(part, weights[layer]))
            for layer in layers
            for name, part in parts.items()
        ]
        trained = None
        if learned:
            trained = self._train(tokens, found[main], recipe, objective, training)
            found[main] = found[main].renewed(tokens, learned)
            if judged:
                head = Part(recipe, WIDTH, "a learned head on the rich blocks")
                asked.append(("learned", main, head))
        pooled = {layer: each.features for layer, each in found.items()}
        for layer in {layer for _, layer, part in asked if part.reads == "cls"}:
            pooled[layer] = pooled[layer] | _cls_of(layers[layer], found[layer].rows)
        vector, said = self._judged(
            layers,
            found,
            pooled,
            asked=asked,
            recipe=recipe,
            trained=trained,
            frames=frames,
            sample=sample,
        )
        plain, facts = baselines(pooled[main], vector.dim_out), facts_of(tokens)
        kept = {at: held for at, held in layers.items() if at == main or at in vector.blocks}
        # All at once: a fit that is interrupted leaves what was fitted before.
        self.n_features_in_, self.fingerprint_ = tokens.dim, _fingerprint(kept)
        self.encoder_ = _encoder_of(tokens)
        self.verdict_, self.training_, self.baselines_, self.data_ = said, trained, plain, facts
        self._adopt({layer: each.blocks for layer, each in found.items()}, vector)
        return self

    def _judged(
        self,
        layers: Mapping[int, Tokens],
        found: Mapping[int, Prepared],
        pooled: Pooled,
        *,
        asked: list[tuple[str, int, Part]],
        recipe: Recipe,
        trained: Trained | None,
        frames: bool,
        sample: Ragged,
    ) -> tuple[Vector, Verdict]:
        """Fit the vector, and say what is known of it."""
        main, tokens = next(iter(layers.items()))
        nuisance, dim = found[main].nuisance, self._number
        trained_words = f" {trained.sentence}" if trained is not None else ""
        if self.pooler != "auto":
            vector = Vector.alone(recipe, main, pooled[main], dim or WIDTH, nuisance=nuisance)
            words = "As told: these poolers alone, so nothing is claimed against the mean."
            return vector, Verdict(recipe.name, False, words + trained_words)
        usual = self.parts is None and trained is None
        reducer = make_reducer(self.reduce, int(self.random_state))
        why = why_kept(tokens.lengths.cpu().numpy(), list(pooled[main].values())) if usual else ""
        if why:
            mean = Vector.mean(main, pooled[main], nuisance).shortened(pooled, dim, reducer)
            return mean, keep_the_mean(why, mean.dim_out, mean.width)
        given: dict[str, Any] = {
            "token_dim": tokens.dim,
            "spreads": {layer: each.blocks.spreads for layer, each in found.items()},
            "per_sequence": self.export is None,
            "reducer": reducer,
        }
        auto = self.dim == "auto"
        most = DIMENSIONS[-1] if auto else dim
        held = held_out_vectors(layers, found, asked, least=LEAST_HELD_OUT, dim=most, **given)
        seen = Findings()
        if held is not None:
            seen = findings_of(**vars(held), auto=auto, random_state=int(self.random_state))
        vector = Vector.fit(asked, pooled, dim=dim or seen.enough, nuisance=nuisance, **given)
        shorter = None
        if vector.shorter is not None:
            sizes = vector.dim_out, vector.width, tokens.dim
            shorter = Shortened(*sizes, seen.neighbours, seen.neighbours_of_mean)
        if usual and not self.export:
            data = describe(sample)
            kind = kind_of(data, frames)
            said = verdict(
                estimate(kind, data),
                seen.evidence,
                seen.held_out,
                kind=kind,
                shorter=shorter,
                several_layers=len(layers) > 1,
            )
        else:
            told = ", ".join(f"{name} ({part.weight:g})" for name, _, part in asked)
            words = f"As told: the parts {told}; nothing is claimed against the mean."
            words += f" {cost(shorter)}" if shorter else ""
            said = Verdict(
                f"the parts {told}", False, words + trained_words, seen.held_out,
                evidence=seen.evidence, shorter=shorter,
            )  # fmt: skip
        return vector, replace(said, dimensions=seen.dimensions)

    def transform(self, X: Any) -> Float[np.ndarray, "seqs dim"]:
        """Return one fp32 vector per sequence.

        Parameters
        ----------
        X : as of `fit`
            Raw sequences are read by ``encoder``, or by the encoder of the fitted store, as the
            fitted tokens were made.

        Raises
        ------
        InputError
            If the token dimension differs from the fitted one.
        StoreError
            If another encoder made the tokens (``check_encoder=False`` overrides).
        """
        check_is_fitted(self, "vector_")
        return self._vectors(X)

    def _vectors(self, X: Any, **encoding: Any) -> Float[np.ndarray, "seqs dim"]:
        """Transform; `transform` itself gives data frames where scikit-learn is told to."""
        if is_raw(X, self._known_encoder, self._framed):
            opened = self.open(X, **encoding)
            found = [self.transform_encoded(part) for part in opened.kept_states()]
            opened.tell()
            return np.concatenate(found)
        return np.concatenate([vectors for _, vectors in self.transform_pieces(X)])

    def transform_pieces(
        self, X: Any
    ) -> Iterator[tuple[Int[np.ndarray, " rows"], Float[np.ndarray, "rows dim"]]]:
        """Transform token vectors some thousand sequences at a time: row numbers and vectors."""
        layers = self._matching(X)
        count = len(next(iter(layers.values())))
        for rows in np.array_split(np.arange(count), max(1, count // 4_096)):
            yield rows, self.vector_.transform(self._pooled(layers, rows))

    def encode(
        self,
        sentences: Any,
        *,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        normalize_embeddings: bool = False,
    ) -> Float[np.ndarray, "*seqs dim"]:
        """Return the vectors of raw sequences, called as sentence-transformers' `encode` is.

        Parameters
        ----------
        sentences : str or list
            One text, which gives one vector (dim,), or what `transform` takes.
        batch_size : int, optional
            The most sequences that the encoder reads at a time.
        show_progress_bar : bool, optional
            Whether a bar is shown where standard error is a terminal.
        normalize_embeddings : bool
            Scale each vector to length 1.
        """
        check_is_fitted(self, "vector_")
        one = isinstance(sentences, str)
        texts = [sentences] if one else sentences
        if isinstance(texts, list | tuple) and not texts:
            return np.empty((0, self.vector_.dim_out), np.float32)
        options = {} if batch_size is None else {"batch_size": batch_size}
        vectors = self._vectors(texts, progress=bool(show_progress_bar), **options)
        vectors = normalise(vectors) if normalize_embeddings else vectors
        return vectors[0] if one else vectors

    def open(self, X: Any, encoder: Any = None, **encoding: Any) -> Encoding:
        """Open raw sequences for this fitted model; nothing is encoded yet.

        Parameters
        ----------
        X : as of `onevec.encode`
            Raw sequences, or arrays.
        encoder : optional
            In place of the model's own.
        **encoding
            Arguments of `onevec.encode`, in place of those that the fitted tokens were made with.

        Raises
        ------
        InputError
            If the model's encoder cannot be opened, or the options are wrong.
        StoreError
            If the encoder is not that of the fit (``check_encoder=False`` overrides).
        """
        check_is_fitted(self, "vector_")
        own = encoder is None
        chosen = self._known_encoder if own else encoder
        options = {**_recalled(self.encoder_), **(self.encoding or {}), **encoding}
        chosen = encoder_for(X, chosen, **{n: options[n] for n in _COLUMNS if n in options})
        if chosen is not None:
            states = made_from(self.fingerprint_)[1] or [n for n in self.layers_ if n != LAST]
            options.setdefault("layers", states or "last")
        else:
            options = {n: v for n, v in options.items() if n in (*_COLUMNS, "progress")}
        try:
            opened = open_encoding(X, chosen, **options, opened=self._opened)
        except InputError as error:
            if not own or chosen is None or self.encoder is not None:
                raise
            raise InputError(
                f"{error} (the model was fitted to the encoder {chosen}: name another place of it "
                "with encoder=, --encoder)"
            ) from error
        self._check_fingerprint(made_from(self.fingerprint_)[0], opened.fingerprint)
        return opened

    def transform_encoded(self, part: Encoded) -> Float[np.ndarray, "seqs dim"]:
        """Return the vectors of a chunk of what `open` opened."""
        main, *others = self.layers_
        if len(part.tokens) == 1:
            (tokens,) = part.tokens.values()
            held, fronts = {main: tokens}, {main: next(iter((part.cls or {}).values()), None)}
        else:
            held = {layer: part.tokens[layer] for layer in (main, *others)}
            fronts = {layer: (part.cls or {}).get(layer) for layer in held}
            if any("layers" in pooler.needs for pooler in self.blocks_[main].poolers.values()):
                inner = [each.values for layer, each in part.tokens.items() if layer != main]
                tokens = held[main]
                stacked = torch.stack([*inner, tokens.values], dim=1)
                fields = {**tokens.fields, "layers": stacked}
                held[main] = Ragged(tokens.values, tokens.lengths, fields)
        self._matching(held)
        cls = {layer: front.float().numpy() for layer, front in fronts.items() if front is not None}
        if not set(self.vector_.cls_layers) <= set(cls):
            raise InputError(
                "the model reads a classification token, and the encoder gives none apart: use "
                "the encoder of the fit, without special_tokens"
            )
        return self.transform_states(held, cls)

    @contextmanager
    def _sample(self, X: Any) -> Iterator[tuple[Encoding, Known]]:
        """Encode the sample that a fit to raw sequences looks at, into a store that goes."""
        with tempfile.TemporaryDirectory(prefix="onevec-") as room:
            encoding, known, _ = self.sample(X, Path(room) / "sample")
            yield encoding, known

    def sample(
        self, X: Any, out: Path, *, resume: bool = False, **encoding: Any
    ) -> tuple[Encoding, Known, int | None]:
        """Encode as many raw sequences as ``effort`` looks at into a store, to be fitted to.

        Parameters
        ----------
        X : as of `onevec.encode`
            Raw sequences, or arrays.
        out : path
            Folder of the store.
        resume : bool
            Go on with a store that a killed run left.
        **encoding
            Arguments of `onevec.encode`, in place of those in ``self.encoding``.

        Returns
        -------
        encoding : Encoding
            The whole input, of which nothing is read yet.
        known : Known
            The sample.
        total : int or None
            How many sequences there are, if that can be known.
        """
        opened = self.open_to_fit(X, **encoding)
        given = {**(self.encoding or {}), **encoding}
        columns = {name: given[name] for name in _COLUMNS if name in given}
        most, seed = self.most_sequences, int(self.random_state)
        known, total = encode_sample(X, opened, most, seed, out=out, resume=resume, **columns)
        return opened, known, total

    def open_to_fit(self, X: Any, **encoding: Any) -> Encoding:
        """Open raw sequences with the encoder, layers and options that the parameters say."""
        self._check_parameters()
        options = {**(self.encoding or {}), **encoding}
        columns = {name: options[name] for name in _COLUMNS if name in options}
        encoder = encoder_for(X, self.encoder, **columns)
        if encoder is not None:
            options["layers"] = self._layers_to_encode()
        return open_encoding(X, encoder, **options, opened=self._opened)

    @property
    def most_sequences(self) -> int:
        """How many sequences a fit looks at: so many raw ones are encoded for it."""
        return EFFORTS[self.effort][0]

    @property
    def _chooses_layers(self) -> bool:
        return isinstance(self.layers, str) and self.layers == AUTO

    def _layers_to_encode(self) -> Any:
        """The hidden states that the parts, or a pooler that mixes them, will read."""
        if self.layers is None:
            poolers = (pooler_of(*spec) for spec in self._named_poolers()[0].values())
            return "all" if any("layers" in pooler.needs for pooler in poolers) else "last"
        if self._chooses_layers:
            return "all"
        if isinstance(self.layers, str):
            return list(read_weights(self.layers, "layer", None))
        return list(self.layers) if isinstance(self.layers, Iterable) else self.layers

    @property
    def _known_encoder(self) -> Any:
        """The encoder that is set, or the one that made the fitted store, where it has a place."""
        if self.encoder is not None:
            return self.encoder
        made = getattr(self, "encoder_", None)
        return made["name"] if made and self.fingerprint_ else None

    @property
    def _framed(self) -> bool:
        """Whether raw sequences are cut to frames, as they are told to be or were for the fit."""
        made = _recalled(getattr(self, "encoder_", None))
        return bool({**made, **(self.encoding or {})}.get("frames"))

    @property
    def _opened(self) -> dict[Any, Any]:
        """The encoder that was opened last; it is neither copied nor saved with the model."""
        return self.__dict__.setdefault("_open_encoder", {})

    def __getstate__(self) -> dict[str, Any]:
        state: Any = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_open_encoder"}

    def transform_states(
        self, tokens: Mapping[int, Ragged], cls: Mapping[int, np.ndarray]
    ) -> Float[np.ndarray, "seqs dim"]:
        """Return the vectors of hidden states and classification tokens that are in memory."""
        check_is_fitted(self, "vector_")
        return self.vector_.transform(self._pooled(tokens, cls=cls))

    def _pooled(
        self,
        layers: Mapping[int, Tokens],
        rows: np.ndarray | None = None,
        cls: Mapping[int, np.ndarray] | None = None,
    ) -> Pooled:
        """Pool what the vector reads, of some rows or all; ``cls`` is there, or in the stores."""
        pooled: dict[int, Features] = {}
        for layer, names in self.vector_.blocks.items():
            pooled[layer] = self.blocks_[layer].of(layers[layer], rows, names) if names else {}
        for layer in self.vector_.cls_layers:
            pooled[layer] |= _cls_of(layers[layer], rows) if cls is None else {"cls": cls[layer]}
        return pooled

    @property
    def parts_(self) -> list[dict[str, Any]]:
        """Columns, weight and content of each part."""
        check_is_fitted(self, "vector_")
        return self.vector_.columns

    @property
    def layers_(self) -> list[int]:
        """The hidden states that are read, the main one first."""
        check_is_fitted(self, "vector_")
        return list(self.blocks_)

    @property
    def _n_features_out(self) -> int:
        """How many columns there are: scikit-learn names them onevec0, onevec1 and so on."""
        return self.vector_.dim_out

    def transform_baselines(self, X: Any) -> dict[str, Float[np.ndarray, "seqs dim"]]:
        """Return the vectors of the baselines fitted to the same data; tokens are read once.

        ``mean`` is the plain mean of the main hidden state at its native dimension; ``mean_pca``
        and ``mean_whitened`` have as many dimensions as the vector, at most the mean's own.
        """
        check_is_fitted(self, "vector_")
        main, tokens = next(iter(self._matching(X).items()))
        features = self.blocks_[main].of(tokens, names=[MEAN])
        reduced = {name: each.transform(features) for name, each in self.baselines_.items()}
        return {"mean": features[MEAN], **reduced}

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write ``config.json``, ``model.safetensors`` and a model card; no pickle.

        The folder appears whole or not at all. ``overwrite`` replaces a model, and nothing else.
        """
        from safetensors.numpy import save_file

        check_is_fitted(self, "vector_")
        path = check_target(path, overwrite, what="onevec model", ours=is_model)
        config, arrays = self._state()
        text = json.dumps(config, indent=2, default=lambda number: number.item())
        with appears_whole(path) as part:
            part.mkdir()
            (part / _CONFIG).write_text(text + "\n")
            save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, part / _WEIGHTS)
            (part / _CARD).write_text(model_card(config))
        return path

    @property
    def _number(self) -> int | None:
        """The number of dimensions that is asked for, if any."""
        return None if self.dim is None or isinstance(self.dim, str) else int(self.dim)

    @property
    def learns(self) -> bool:
        """Whether `fit` trains anything; the closed forms do not."""
        return bool(self._named_poolers()[1])

    def _named_poolers(self) -> tuple[dict[str, Pair], list[str]]:
        """The poolers the user asks for, by their blocks, and the names of those that learn."""
        if self.pooler == "auto":
            named = {} if self.objective == "auto" else {HEAD.kind: HEAD.pair}
        else:
            named = blocks_of(self.pooler)  # explains a name that does not exist
        learned = [name for name, spec in named.items() if pooler_of(*spec).learned]
        if self.objective != "auto" and not learned:
            known = ", ".join(name for name in POOLERS if POOLERS[name]().learned)
            raise InputError(
                f"got objective={self.objective!r} with pooler={self.pooler!r}, which has nothing "
                f"to learn: leave the objective out, or choose from {known}"
            )
        self._check_native(named.values())
        if self.pooler != "auto" and self.parts is not None:
            raise InputError(
                f"got parts={self.parts!r} with pooler={self.pooler!r}: a named pooler is the "
                "whole vector; leave one of them out"
            )
        return named, learned

    def _train(
        self,
        tokens: Tokens,
        found: Prepared,
        recipe: Recipe,
        objective: Objective,
        training: Training,
    ) -> Trained:
        from onevec.train import train

        teachers = tuple(as_tokens(each) for each in training.teachers)
        if not teachers and isinstance(tokens, TokenStore):
            others = [layer for layer in tokens.layers if layer != tokens.current_layer]
            teachers = tuple(tokens.layer(layer) for layer in others)
        with Bar(None, show=training.progress, label="training") as bar:
            return train(
                tokens,
                found,
                recipe,
                objective,
                training,
                dim=self._number or _TRAINED_DIM,
                effort=self.effort,
                random_state=int(self.random_state),
                teachers=teachers,
                on_step=bar.step,
            )

    def _check_native(self, poolers: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        reason = why_not_native(poolers) if self.export else ""
        if reason:
            raise InputError(
                f"got export={self.export!r}, and {reason}: leave export out, or choose from "
                f"{', '.join(NATIVE_POOLERS)}"
            )

    def _check_parameters(self) -> None:
        for name, least in (("dim", 1), ("random_state", 0)):
            value = getattr(self, name)
            if name == "dim" and (value is None or (isinstance(value, str) and value == "auto")):
                continue
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise InputError(
                    f"got {name}={value!r}: it must be a whole number of at least {least}"
                    + (', "auto", or None for the whole vector' if name == "dim" else "")
                )
        if self.reduce not in REDUCERS:
            raise InputError(f"got reduce={self.reduce!r}: choose one of {', '.join(REDUCERS)}")
        if self.reduce != "pca" and (self.dim in (None, "auto") or self.pooler != "auto"):
            raise InputError(
                f"got reduce={self.reduce!r} with dim={self.dim!r} and pooler={self.pooler!r}: it "
                'shortens the parts to a number of dimensions; pass dim=64, say, and pooler="auto"'
            )
        if self.random_state >= 2**32:
            raise InputError(f"got random_state={self.random_state}: it must be below 2^32")
        if isinstance(self.nuisance, str) or not isinstance(self.nuisance, Iterable | None):
            raise InputError(
                f"got nuisance={self.nuisance!r}: it must be a list, [{self.nuisance!r}]"
            )
        if not isinstance(self.pooler, str | Mapping | Pooler):
            raise InputError(
                f'got pooler={self.pooler!r}: it must be text such as "mean|std", a mapping of '
                "names to options, or a Pooler"
            )
        wrong = set(self.encoding or ()) - set(_ENCODING)
        if not isinstance(self.encoding, Mapping | None) or wrong:
            raise InputError(
                f"got encoding={self.encoding!r}: it must be a mapping of arguments of "
                f"onevec.encode, {', '.join(_ENCODING)}"
            )
        if self.export not in (None, "sentence-transformers"):
            raise InputError(
                f'got export={self.export!r}: it must be "sentence-transformers" or left out'
            )
        if not isinstance(self.effort, str) or self.effort not in EFFORTS:
            raise InputError(f"got effort={self.effort!r}: choose one of {', '.join(EFFORTS)}")

    def _adopt(self, blocks: Mapping[int, Blocks], vector: Vector) -> None:
        """Keep of the blocks those that the vector reads, and the mean for the baselines."""
        self.vector_ = vector
        names = vector.blocks
        main = next(iter(blocks))
        self.blocks_ = {
            layer: each.only(
                list(dict.fromkeys([*names.get(layer, []), *[MEAN] * (layer == main)]))
            )
            for layer, each in blocks.items()
            if layer in names or layer == main
        }

    def _matching(self, X: Any) -> dict[int, Tokens]:
        """Open what the model reads, the main hidden state first."""
        main, *others = self.blocks_
        needs = self.blocks_[main].poolers.values()
        layers = same_layers(X, [main, *others])
        layers[main] = _with_layers(layers[main], needs)
        tokens = layers[main]
        if tokens.dim != self.n_features_in_:
            raise InputError(
                f"got token vectors of {tokens.dim} dimensions, fitted were {self.n_features_in_}: "
                "use the encoder and layer that the model was fitted with"
            )
        self._check_fingerprint(self.fingerprint_, _fingerprint(layers))
        return layers

    def _check_fingerprint(self, ours: str | None, theirs: str | None) -> None:
        if self.check_encoder and theirs and ours and theirs != ours:
            raise StoreError(
                f"the token vectors were made by encoder {_brief(theirs)}, the model was fitted to "
                f"{_brief(ours)}: encode with that encoder, or pass check_encoder=False if you "
                "know they are the same"
            )

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        arrays: dict[str, np.ndarray] = {}
        config: dict[str, Any] = {
            "format": FORMAT,
            "parameters": {k: _plain(v) for k, v in self.get_params(deep=False).items()},
            "token_dim": self.n_features_in_,
            "vector_dim": self.vector_.dim_out,
            "layers": list(self.blocks_),
            "fingerprint": self.fingerprint_,
            "encoder": self.encoder_,
            "data": self.data_,
            "verdict": self.verdict_.as_dict(),
            "training": None if self.training_ is None else asdict(self.training_),
            "poolers": {},
        }
        for layer, blocks in self.blocks_.items():
            config["poolers"][str(layer)], held = blocks.state()
            arrays |= {f"blocks/{layer}/{key}": value for key, value in held.items()}
        if not isinstance(self.encoder, str | Path | None):
            config["parameters"]["encoder"] = None  # an object has no name by which it is opened
        config["vector"], held = self.vector_.state()
        arrays |= {f"vector/{key}": value for key, value in held.items()}
        config["baselines"] = {}
        for name, baseline in self.baselines_.items():
            config["baselines"][name], held = baseline.state()
            arrays |= {f"baselines/{name}/{key}": value for key, value in held.items()}
        return config, arrays

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags


def is_model(path: Path) -> bool:
    """Whether a folder holds a model that `OneVec.save` wrote."""
    try:
        return "token_dim" in json.loads((path / _CONFIG).read_text())
    except (OSError, ValueError):
        return False


def load(path: str | Path) -> OneVec:
    """Open a model that `OneVec.save` wrote."""
    from safetensors.numpy import load_file

    path = Path(path)
    missing = [name for name in (_CONFIG, _WEIGHTS) if not (path / name).is_file()]
    if missing:
        raise StoreError(f"{path} holds no {missing[0]}: pass a folder that OneVec.save wrote")
    try:
        config = json.loads((path / _CONFIG).read_text())
        arrays = load_file(path / _WEIGHTS)
        if config["format"] != FORMAT:
            raise StoreError(
                f"{path} is a model of format {config['format']}, and this onevec reads format "
                f"{FORMAT}, in which the vector is made of parts: fit it again with `onevec fit`"
            )
        parameters = dict(config["parameters"])
        if isinstance(parameters.get("parts"), dict):
            parameters["parts"] = {
                name: part_of(value) if isinstance(value, dict) and "recipe" in value else value
                for name, value in parameters["parts"].items()
            }
        model = OneVec(**parameters)
        model.n_features_in_ = config["token_dim"]
        model.fingerprint_ = config["fingerprint"]
        model.data_ = config.get("data")  # models saved before it was kept have none
        model.encoder_ = config.get("encoder")
        model.verdict_ = Verdict.from_dict(config["verdict"])
        model.training_ = Trained(**config["training"]) if config["training"] else None
        poolers = config["poolers"]
        blocks = {
            layer: Blocks.from_state(poolers[str(layer)], under(arrays, f"blocks/{layer}/"))
            for layer in config["layers"]
        }
        vector = Vector.from_state(config["vector"], under(arrays, "vector/"))
        model.baselines_ = {
            name: Reduction.from_state(entry, under(arrays, f"baselines/{name}/"))
            for name, entry in config["baselines"].items()
        }
        model._adopt(blocks, vector)
    except StoreError:
        raise
    except InputError as error:  # such as a pooler of the user's own that is not there
        raise StoreError(f"{path} cannot be opened: {error}") from error
    except Exception as error:  # whatever a damaged file does to its reader
        raise StoreError(
            f"{path} cannot be read ({type(error).__name__}: {error}): it is damaged or half "
            "copied; copy or fit it again"
        ) from error
    return model


def _with_layers(tokens: Tokens, poolers: Iterable[Pooler]) -> Tokens:
    """Read every stored layer where a pooler mixes them."""
    # A Ragged may carry the field itself; the pooler says if it does not.
    if isinstance(tokens, Ragged) or not any("layers" in pooler.needs for pooler in poolers):
        return tokens
    if len(tokens.layers) == 1:
        raise InputError(
            f"{tokens.path} holds one layer, and the pooler mixes several: encode again with "
            "layers=[...]"
        )
    return tokens.stacked()


def _plain(value: Any) -> Any:
    """A parameter as JSON can hold it; objects (views, teachers) by their names alone."""
    if isinstance(value, Part):
        value = asdict(value)
    if isinstance(value, Pooler):
        value = dict(read_spec(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else type(value).__name__


def baselines(features: Features, dim: int) -> dict[str, Reduction]:
    """Fit the reductions of the mean that a model carries along for comparison."""
    cache: dict[Any, Any] = {}
    return {
        "mean_pca": Reduction(MEAN_PCA).fit(features, dim, cache),
        "mean_whitened": Reduction(Recipe((MEAN,), 0.0, 1.0)).fit(features, dim, cache),
    }


def _weighed(part: Part, weight: float) -> Part:
    return replace(part, weight=part.weight * weight)


def _means_of(
    layers: Mapping[int, Tokens], random_state: int
) -> dict[int, Float[np.ndarray, "seqs dim"]]:
    """Return the means of the tokens of some sequences, by hidden state."""
    count = len(next(iter(layers.values())))
    rows = np.sort(np.random.default_rng(random_state).permutation(count)[:SEQUENCES])
    return {
        layer: np.concatenate(
            [segment_mean(each.values.float(), each.lengths).numpy() for each in read(held, rows)]
        )
        for layer, held in layers.items()
    }


def _cls_of(tokens: Tokens, rows: np.ndarray | None) -> Features:
    """Return the states of the classification token, as the block that parts read."""
    if not isinstance(tokens, TokenStore):
        raise InputError(
            'got the part "cls" with bare arrays: encode into a store with an encoder that has a '
            "classification token"
        )
    return {"cls": tokens.cls_rows(slice(None) if rows is None else rows).numpy()}


def _fingerprint(layers: Mapping[int, Tokens]) -> str | None:
    """Return what the token vectors come from: encoder and hidden states; None for bare arrays."""
    known = [each.fingerprint if isinstance(each, TokenStore) else None for each in layers.values()]
    if not all(known):
        return None
    first, *others = (str(each) for each in known)
    encoder = f"{made_from(first)[0]}@layer"
    if all(each.startswith(encoder) for each in others):
        numbers = ",".join(each.removeprefix(encoder) for each in others)
        return f"{first} with {numbers}" if numbers else first
    return "; ".join([first, *others])


def _encoder_of(tokens: Tokens) -> dict[str, Any] | None:
    """Return name of the encoder and settings that made a store; None for bare arrays."""
    info = tokens.info if isinstance(tokens, TokenStore) else None
    if info is None or not (info["encoder"].get("name") or info["settings"]):
        return None
    return {"name": info["encoder"]["name"], "settings": info["settings"], "dtype": info["dtype"]}


_RECALLED = ("max_length", "long", "overlap", "precision", "upper", "frames")


def _recalled(made: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the arguments of `onevec.encode` with which a store was made."""
    if not made:
        return {}
    settings = made["settings"]
    kept = {n: settings[n] for n in _RECALLED if n in settings}
    kept["special_tokens"] = settings.get("special_tokens") == "kept"
    kept["dtype"] = "float32" if made["dtype"] == "float32" else "float16"
    return {name: value for name, value in kept.items() if value is not None}


def _brief(fingerprint: str) -> str:
    """Shorten a fingerprint to the encoder's first digits and the hidden states."""
    parts = (part.partition("@") for part in fingerprint.split("; "))
    return ", ".join(f"{encoder[:12]} {layers}".strip() for encoder, _, layers in parts)


def facts_of(tokens: Tokens) -> dict[str, Any]:
    """Return what data a model was fitted to: its size, and a hash of the sequences' lengths."""
    lengths = tokens.lengths.cpu().numpy().astype(np.int64)
    digest = hashlib.sha256(lengths.tobytes()).hexdigest()
    return {
        "sequences": len(lengths),
        "tokens": int(lengths.sum()),
        "fingerprint": f"sha256:{digest} of the lengths",
    }
