"""What of an encoder is trained: everything, its last layers, or low-rank additions."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from onevec.errors import InputError, MissingExtraError


def choose_trained(backbone: nn.Module, layers: Any, rank: int) -> Any:
    """Let gradients into what shall be trained, in place.

    Parameters
    ----------
    backbone : nn.Module
        A transformers model.
    layers : "all", int or "lora"
        See `Finetuning`.
    rank : int
        Of the low-rank additions.

    Returns
    -------
    Any
        What `merge_additions` takes: the wrapper of the low-rank additions, or None.
    """
    if layers == "lora":
        return _add_low_rank(backbone, rank)
    for name, parameter in backbone.named_parameters():
        # A pooler on top of the hidden states is never run.
        parameter.requires_grad_(layers == "all" and "pooler" not in name.split("."))
    if layers != "all":
        for layer in layer_list(backbone)[-_known(layers, backbone) :]:
            layer.requires_grad_(True)
    return None


def layer_list(backbone: nn.Module) -> nn.ModuleList:
    """Return the transformer's layers: the longest list of modules, the first of equals."""
    lists = [part for part in backbone.modules() if isinstance(part, nn.ModuleList) and len(part)]
    if not lists:
        raise InputError(
            f"cannot tell the layers of a {type(backbone).__name__}: train all of it, or lora"
        )
    return max(lists, key=len)


def _known(layers: int, backbone: nn.Module) -> int:
    count = len(layer_list(backbone))
    if layers > count:
        raise InputError(f"got layers={layers} for an encoder of {count}: pass at most that")
    return layers


def _add_low_rank(backbone: nn.Module, rank: int) -> Any:
    try:
        import peft
    except ImportError as error:
        raise MissingExtraError("peft", "hf") from error
    if not any(isinstance(part, nn.Linear) for part in backbone.modules()):
        raise InputError(
            f"a {type(backbone).__name__} has no linear map for low-rank additions: train all of it"
        )
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.LoraModel(backbone, config, "default")


def merge_additions(wrapper: Any) -> None:
    """Add low-rank additions to the weights, in place: the encoder is an ordinary one again."""
    if wrapper is not None:
        wrapper.merge_and_unload()


def ensure_dropout(backbone: nn.Module, rate: float) -> bool:
    """Switch dropout on where an encoder has it switched off; tell whether there is any."""
    found = [part for part in backbone.modules() if isinstance(part, nn.Dropout)]
    if found and not any(part.p for part in found):
        for part in found:
            part.p = rate
    return any(part.p for part in found)
