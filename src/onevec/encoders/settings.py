"""Settings of a pretraining run, sizes, and the transformers of both directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from onevec.encoders import attention
from onevec.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

SIZES: dict[str, dict[str, Any]] = {  # about 1, 12 and 115 million weights besides embeddings
    "tiny": {"layers": 4, "dim": 128, "heads": 4, "context": 512, "learning_rate": 1e-3},
    "small": {"layers": 6, "dim": 384, "heads": 6, "context": 512, "learning_rate": 7e-4},
    "base": {"layers": 12, "dim": 768, "heads": 12, "context": 1_024, "learning_rate": 4e-4},
}


def check_known(kind: type, given: Mapping[str, Any], command: str) -> None:
    """Refuse a setting that a dataclass of settings does not have, with one sentence."""
    known = [each.name for each in fields(kind)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise InputError(
            f"got setting {unknown[0]!r}, which {command} does not know: it has {', '.join(known)}"
        )


@dataclass(frozen=True)
class Recipe:
    """The settings of one pretraining run; the defaults are the benchmark's recipe.

    Parameters
    ----------
    size : {"tiny", "small", "base"}
        Settles ``layers``, ``dim``, ``heads``, ``context`` and ``learning_rate`` where they are
        not given.
    objectives : str, or mapping of name to weight or (weight, options), optional
        Entries of `PRETRAINING`, such as ``"masked=1,contrastive=0.1"``. Default: masked, or
        next_token with ``causal``.
    causal : bool
        A transformer that reads from left to right (Llama's layers) in place of ModernBERT's.
    tokenizer : str
        Of text: auto, character, whitespace, kmer, bpe or unigram. Dense frames are read as they
        are, or with "quantised" as the numbers of their k-means clusters.
    vocab_size, kmer : int
        At most so many tokens; length of a k-mer.
    mask : float
        Share of the tokens that masked modelling hides.
    dropout : float, optional
        Default: 0, or 0.1 with the objective "contrastive_dropout".
    batch_tokens : int
        Tokens of a step, padding included.
    steps : int, optional
        Default: ten passes over the corpus, at least 3,000 and at most 8,000 steps.
    precision : {"fp32", "bf16"}
        Of the matrix products in training.
    save_dtype : {"float32", "float16", "bfloat16"}
        Of the weights on disk.
    held_out : float
        Share of the sequences kept apart, where the corpus is not assembled yet.
    evaluations : int
        How often the held-out loss is taken.
    checkpoint_steps : int
        Steps between two writes of the checkpoint.
    threads : int, optional
        Of the CPU; part of what decides the weights' last digits.
    device : str, optional
        Default: a GPU if there is one.
    """

    size: str = "tiny"
    objectives: Any = None
    causal: bool = False
    tokenizer: str = "auto"
    vocab_size: int = 4_096
    kmer: int = 3
    layers: int | None = None
    dim: int | None = None
    heads: int | None = None
    context: int | None = None
    mask: float = 0.15
    dropout: float | None = None
    batch_tokens: int = 5_000
    steps: int | None = None
    learning_rate: float | None = None
    precision: str = "fp32"
    save_dtype: str = "float32"
    held_out: float = 0.05
    evaluations: int = 10
    checkpoint_steps: int = 500
    seed: int = 0
    threads: int | None = None
    device: str | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Recipe:
        """Return checked settings, with those of the size filled in."""
        check_known(cls, settings, "pretrain")
        recipe = cls(**settings)
        if recipe.size not in SIZES:
            raise InputError(f"got size={recipe.size!r}: choose from {', '.join(SIZES)}")
        given = SIZES[recipe.size].items()
        recipe = replace(recipe, **{k: v for k, v in given if getattr(recipe, k) is None})
        recipe.check()
        return recipe

    @property
    def shape(self) -> Shape:
        """The sizes, of which none is left open any more."""
        return Shape(
            layers=self.layers or 0,
            dim=self.dim or 0,
            heads=self.heads or 0,
            context=self.context or 0,
        )

    def check(self) -> None:
        """Raise `InputError` for settings that cannot work."""
        shape, rate = self.shape, self.learning_rate or 0.0
        rules = (
            (self.precision in ("fp32", "bf16"), "precision", "fp32 or bf16"),
            (self.save_dtype in _DTYPES, "save_dtype", " or ".join(_DTYPES)),
            (0 < self.mask < 1, "mask", "between 0 and 1"),
            (self.dropout is None or 0 <= self.dropout < 1, "dropout", "at least 0 and below 1"),
            (0 < self.held_out < 1, "held_out", "between 0 and 1"),
            (self.steps is None or self.steps > 0, "steps", "at least 1"),
            (rate > 0, "learning_rate", "above 0"),
            (self.evaluations > 0, "evaluations", "at least 1"),
            (self.checkpoint_steps > 0, "checkpoint_steps", "at least 1"),
            (shape.layers > 0, "layers", "at least 1"),
            (shape.context >= 8, "context", "at least 8"),
            (self.kmer > 0, "kmer", "at least 1"),
            (self.vocab_size >= 8, "vocab_size", "at least 8"),
            (
                self.tokenizer != "bpe" or self.vocab_size >= 261,
                "vocab_size",
                "at least 261 with bpe: 256 bytes and 5 special tokens",
            ),
            (self.threads is None or self.threads > 0, "threads", "at least 1"),
            (0 <= self.seed < 2**32, "seed", "at least 0 and below 2^32"),
            (_is_device(self.device), "device", "cpu, cuda or such as cuda:1"),
            (shape.dim > 0 < shape.heads, "dim", "and heads at least 1"),
            (shape.dim % (2 * max(1, shape.heads)) == 0, "dim", "a multiple of 2 x heads"),
            (self.batch_tokens >= shape.context, "batch_tokens", "at least the context"),
        )
        for holds, name, rule in rules:
            if not holds:
                raise InputError(f"got {name}={getattr(self, name)!r}: it must be {rule}")


def _is_device(name: str | None) -> bool:
    return name is None or str(name).split(":", maxsplit=1)[0] in ("cpu", "cuda")


_DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Shape:
    """The sizes of a transformer."""

    layers: int
    dim: int
    heads: int
    context: int


def backbone(
    shape: Shape, vocabulary: int, ids: dict[str, Any], *, causal: bool, dropout: float
) -> PretrainedConfig:
    """Return the configuration of the transformer; ``ids`` are those of special tokens."""
    try:
        from transformers import LlamaConfig, ModernBertConfig
    except ImportError as error:
        raise MissingExtraError("transformers", "hf") from error
    settings: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": shape.dim,
        "intermediate_size": 3 * shape.dim,  # gated: as many weights as 4 x dim without a gate
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "max_position_embeddings": shape.context,
        "attention_dropout": dropout,
        "attn_implementation": attention.register(),
    }
    if causal:
        names = ("pad_token_id", "bos_token_id", "eos_token_id")
        known = {name: ids[name] for name in names}
        return LlamaConfig(**settings, **known, tie_word_embeddings=True, use_cache=False)
    settings |= {
        "mlp_dropout": dropout,
        "embedding_dropout": dropout,
        "global_attn_every_n_layers": 1,  # contexts are short: every layer sees all of it
    }
    return ModernBertConfig(**settings, **ids)
