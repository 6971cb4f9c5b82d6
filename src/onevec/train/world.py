"""The processes that share a run, as `torchrun` starts them."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from onevec.errors import InputError


class World:
    """The processes that share a run: those of `torchrun`, or this one alone."""

    def __init__(self, device: str):
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        kind = torch.device(device).type
        if kind == "cuda" and not torch.cuda.is_available():
            raise InputError(f"got training device={device!r}: this machine has no such device")
        local = int(os.environ.get("LOCAL_RANK", "0"))
        several = kind == "cuda" and self.size > 1
        self.device = torch.device(f"cuda:{local}" if several else device)
        # Once for the whole process: groups made and destroyed in turn can miss each other.
        if self.size > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
            atexit.register(dist.destroy_process_group)

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over the processes."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def any(self, here: bool) -> bool:
        """Whether it holds in any process: all must take the same way."""
        mark = torch.tensor(float(here), device=self.device)
        self.sum([mark])
        return bool(mark > 0)

    def share(self, content: bytes) -> bytes:
        """Give every process what the first one holds."""
        if self.size == 1:
            return content
        size = torch.tensor(len(content), device=self.device)
        dist.broadcast(size, 0)
        held = torch.zeros(int(size), dtype=torch.uint8, device=self.device)
        if self.rank == 0 and content:
            held.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        if len(held):
            dist.broadcast(held, 0)
        return held.cpu().numpy().tobytes()

    def wait(self) -> None:
        """Let every process come to this place."""
        if self.size > 1:
            dist.barrier()


def first_process() -> bool:
    """Whether this is the process that writes results."""
    return os.environ.get("RANK", "0") == "0"
