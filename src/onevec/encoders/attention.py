"""Attention for training on a CPU: products of queries, keys and values in fp32.

Under bf16 autocast, torch's backward of scaled dot-product attention takes one to six times as
long on a CPU as in fp32 (windows of 512 to 25 tokens), which is a third of a whole step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

NAME = "onevec_sdpa"


def register() -> str:
    """Make the attention known to transformers and return its name for a configuration."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME


def use(model: Any) -> None:
    """Let a model that was opened with torch's attention take this one."""
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(register())


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention as transformers calls it; on a CPU in fp32."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if query.device.type != "cpu":
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    with torch.autocast("cpu", enabled=False):
        out, _ = sdpa_attention_forward(
            module, query.float(), key.float(), value.float(), attention_mask, **settings
        )
    return out.to(query.dtype), None
