"""Settings of a pretraining run, sizes, and the transformers of both directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, ClassVar

from onevec.encoders import attention
from onevec.errors import InputError, MissingExtraError
from onevec.train.settings import Rule, Settings, count, number, one_of, share, switch

if TYPE_CHECKING:
    from transformers import PretrainedConfig
else:  # slow to import, or of an extra
    PretrainedConfig = Any

SIZES: dict[str, dict[str, Any]] = {  # about 1, 12 and 115 million weights besides embeddings
    "tiny": {"layers": 4, "dim": 128, "heads": 4, "context": 512, "learning_rate": 1e-3},
    "small": {"layers": 6, "dim": 384, "heads": 6, "context": 512, "learning_rate": 7e-4},
    "base": {"layers": 12, "dim": 768, "heads": 12, "context": 1_024, "learning_rate": 4e-4},
}


@dataclass(frozen=True)
class Pretraining(Settings):
    """The settings of one pretraining run; the defaults are the benchmark's recipe.

    Parameters
    ----------
    size : {"tiny", "small", "base"}
        Settles ``layers``, ``dim``, ``heads``, ``context`` and ``learning_rate`` where they are
        not given.
    objective : str, or mapping of name to weight or (weight, options), optional
        Entries of `onevec.encoders.table.PRETRAINING`, such as ``"masked=1,crops=0.1"``. Default:
        masked, or next_token with ``causal``.
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
        Default: 0, or 0.1 with the objective "simcse".
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
    random_state : int
        Seed of every draw.
    threads : int, optional
        Of the CPU; part of what decides the weights' last digits.
    device : str, optional
        Default: a GPU if there is one.
    """

    size: str = "tiny"
    objective: Any = None
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
    random_state: int = 0
    threads: int | None = None
    device: str | None = None

    kind = "pretraining"
    rules: ClassVar[dict[str, Rule]] = Settings.rules | {
        "size": one_of(*SIZES),
        "causal": switch(),
        "vocab_size": count(8),
        "kmer": count(1),
        "layers": count(1),
        "dim": count(1),
        "heads": count(1),
        "context": count(8),
        "mask": share(),
        "batch_tokens": count(1),
        "learning_rate": number(),
        "save_dtype": one_of("float32", "float16", "bfloat16"),
        "checkpoint_steps": count(1),
        "device": (lambda value: value is None or Settings.rules["device"][0](value),
                   Settings.rules["device"][1]),
    }  # fmt: skip

    def completed(self) -> Pretraining:
        """Return the same with what the size settles."""
        given = SIZES.get(self.size, {}).items()
        return replace(self, **{k: v for k, v in given if getattr(self, k) is None})

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Pretraining:
        """Make settings from keyword arguments, with those of the size filled in."""
        made = super().of(options)
        together = (
            (
                made.tokenizer != "bpe" or made.vocab_size >= 261,
                "vocab_size",
                "at least 261 with bpe: 256 bytes and 5 special tokens",
            ),
            (made.shape.dim % (2 * made.shape.heads) == 0, "dim", "a multiple of 2 x heads"),
            (made.batch_tokens >= made.shape.context, "batch_tokens", "at least the context"),
        )
        for holds, name, rule in together:
            if not holds:
                raise InputError(
                    f"got {cls.kind} {name}={getattr(made, name)!r}: it must be {rule}"
                )
        return made

    @property
    def shape(self) -> Shape:
        """The sizes, of which none is left open any more."""
        return Shape(
            layers=self.layers or 0,
            dim=self.dim or 0,
            heads=self.heads or 0,
            context=self.context or 0,
        )


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


def versions() -> dict[str, str]:
    """Return the versions of what makes the weights, for the manifest."""
    found = {}
    for name in ("onevec", "torch", "transformers", "tokenizers", "sentence-transformers", "peft"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # some are optional
            continue
    return found
