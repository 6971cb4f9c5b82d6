"""Settings of a pretraining run, and the backbone that all kinds share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onevec.errors import InputError

if TYPE_CHECKING:
    from transformers import ModernBertConfig

IGNORE = -100  # the label that cross entropy skips


@dataclass(frozen=True)
class Recipe:
    """The settings of one pretraining run; the defaults are the benchmark's recipe."""

    tokenizer: str = "auto"
    vocab_size: int = 4_096
    kmer: int = 3
    layers: int = 4
    dim: int = 128
    heads: int = 4
    context: int = 512
    mask: float = 0.15
    batch_tokens: int = 5_000
    steps: int | None = None
    learning_rate: float = 1e-3
    precision: str = "fp32"
    save_dtype: str = "float32"
    held_out: float = 0.05
    seed: int = 0
    threads: int | None = None

    def check(self) -> None:
        """Raise `InputError` for settings that cannot work."""
        rules = (
            (self.precision in ("fp32", "bf16"), "precision", "fp32 or bf16"),
            (self.save_dtype in ("float32", "float16"), "save_dtype", "float32 or float16"),
            (0 < self.mask < 1, "mask", "between 0 and 1"),
            (0 < self.held_out < 1, "held_out", "between 0 and 1"),
            (self.steps is None or self.steps > 0, "steps", "at least 1"),
            (self.layers > 0, "layers", "at least 1"),
            (self.context >= 8, "context", "at least 8"),
            (self.kmer > 0, "kmer", "at least 1"),
            (self.vocab_size >= 8, "vocab_size", "at least 8"),
            (self.threads is None or self.threads > 0, "threads", "at least 1"),
            (self.seed >= 0, "seed", "at least 0"),
            (self.heads > 0 and self.dim % (2 * self.heads) == 0, "dim", "a multiple of 2 x heads"),
            (self.batch_tokens >= self.context, "batch_tokens", "at least the context"),
        )
        for holds, name, rule in rules:
            if not holds:
                raise InputError(f"got {name}={getattr(self, name)!r}: it must be {rule}")


def backbone(recipe: Recipe, vocabulary: int, ids: dict[str, Any]) -> ModernBertConfig:
    """Return the configuration of the transformer; ``ids`` are those of special tokens."""
    from transformers import ModernBertConfig

    settings: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": recipe.dim,
        "intermediate_size": 3 * recipe.dim,  # gated: as many weights as 4 x dim without a gate
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "max_position_embeddings": recipe.context,
        "global_attn_every_n_layers": 1,  # contexts are short: every layer sees all of it
        "attn_implementation": "sdpa",
    }
    return ModernBertConfig(**settings, **ids)
