"""A user's own poolers, as a module that a new process may or may not import."""

import torch

from onevec.poolers import Pooler
from onevec.segment import segment_mean


class Energy(Pooler):
    """Mean of the squares, times a number, minus the sample's: (seqs, dim)."""

    option_names = ("times",)

    def __init__(self, times: float = 2.0):
        super().__init__()
        self.times = times

    def _build(self, dim):
        self.register_buffer("usual", torch.zeros(dim))
        return dim

    def _learn(self, sample, random_state):
        self.usual.copy_((sample.values**2).mean(0))

    def _pool(self, tokens):
        return self.times * (tokens.mean(tokens.values**2) - self.usual)


class RaggedOnly(Pooler):
    """The mean, for ragged tokens alone: (seqs, dim)."""

    def _build(self, dim):
        return dim

    def _pool(self, tokens):
        return segment_mean(tokens.values, tokens.lengths)


class Forgetful(Pooler):
    """Keeps an option that it does not list: (seqs, dim)."""

    def __init__(self, times: float = 2.0):
        super().__init__()
        self.times = times

    def _build(self, dim):
        return dim

    def _pool(self, tokens):
        return self.times * tokens.mean(tokens.values)


class Late(Energy):
    """Makes its buffer when it learns: (seqs, dim)."""

    def _build(self, dim):
        return dim

    def _learn(self, sample, random_state):
        self.register_buffer("usual", (sample.values**2).mean(0))
