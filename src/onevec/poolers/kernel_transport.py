"""Optimal transport of tokens to references in the feature space of a kernel."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from onevec.errors import InputError
from onevec.poolers.base import Pooler
from onevec.poolers.fitting import kmeans_codebook, sample_tokens, turned
from onevec.poolers.segments import Segments
from onevec.poolers.transport import sinkhorn_plan
from onevec.ragged import Ragged

Values = Float[Tensor, "tokens dim"]

_FITTED = 6_000  # tokens that anchors and references are learned from
_RIDGE = 1e-2  # beside the root of an eigenvalue: an anchor close to another would explode
_SHORTEST = 1e-6


class KernelTransport(Pooler):
    """Optimal-transport kernel embedding: (seqs, references width).

    Tokens go through features of the kernel ``|h| |h'| exp((cos(h, h') - 1) / bandwidth²)``,
    approximated on ``anchors`` (Nyström: Williams and Seeger 2001), of which the ``width`` leading
    directions are kept. Then ``√p sum_i P_ik φ(h_i)`` for each of ``p`` references ``z_k``, with
    P the entropic transport plan between the tokens (weight 1/n each) and the references (weight
    1/p each) for the similarity ``φ(h_i)·z_k``. Anchors and references are k-means centres, scaled
    to length 1, of the sample's tokens and of their features. Tokens are scaled by one number to a
    root mean square norm of 1.

    A narrow bandwidth tells apart which tokens there are, where moments tell how they spread.

    Parameters
    ----------
    references, anchors, width : int
        How many of each; ``width`` is at most ``anchors``.
    bandwidth : float
        Of the kernel: similar are tokens whose cosine is not much below ``1 - bandwidth²``.
    epsilon : float
        Entropic regularisation. Small: nearly a hard matching; large: every block is the mean.
    iterations : int
        Sinkhorn iterations.

    References
    ----------
    Mialon, Chen, d'Aspremont and Mairal (2021), "A trainable optimal transport embedding for
    feature aggregation".
    """

    option_names = ("references", "anchors", "width", "bandwidth", "epsilon", "iterations")
    scale: Tensor
    points: Tensor
    basis: Tensor
    book: Tensor

    def __init__(
        self,
        references: int = 8,
        *,
        anchors: int = 256,
        width: int = 64,
        bandwidth: float = 0.4,
        epsilon: float = 0.1,
        iterations: int = 5,
    ):
        super().__init__()
        counts = min(references, width, iterations) >= 1 and anchors >= width
        if not counts or not bandwidth > 0 or not epsilon > 0:
            raise InputError(
                f"KernelTransport got references={references}, anchors={anchors}, width={width}, "
                f"bandwidth={bandwidth}, epsilon={epsilon}, iterations={iterations}: all must be "
                "above 0, and width at most anchors"
            )
        self.references, self.anchors, self.width = int(references), int(anchors), int(width)
        self.bandwidth, self.epsilon = float(bandwidth), float(epsilon)
        self.iterations = int(iterations)

    def _build(self, dim: int) -> int:
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("points", torch.zeros(self.anchors, dim))
        self.register_buffer("basis", torch.zeros(self.anchors, self.width))
        self.register_buffer("book", torch.zeros(self.references, self.width))
        return self.references * self.width

    def _learn(self, sample: Ragged, random_state: int) -> None:
        tokens = sample_tokens(sample, random_state, _FITTED)
        norm = tokens.square().sum(1).mean().sqrt()
        self.scale.copy_(torch.where(norm > 0, norm, 1.0))
        self.points.copy_(normalize(kmeans_codebook(normalize(tokens), self.anchors, random_state)))
        gram = self._likeness(self.points).double()
        strength, axes = torch.linalg.eigh((gram + gram.T) / 2)
        strength, axes = strength.flip(0)[: self.width], axes.flip(1)[:, : self.width]
        self.basis.copy_(turned(axes) / (strength.clamp(min=0).sqrt() + _RIDGE))
        features = normalize(self.features(tokens))
        book = kmeans_codebook(features, self.references, random_state)
        self.book.copy_(normalize(book))

    def _likeness(self, unit: Values) -> Float[Tensor, "tokens anchors"]:
        return (unit @ self.points.T).sub_(1).div_(self.bandwidth**2).exp_()

    def features(self, values: Values) -> Float[Tensor, "tokens width"]:
        """Map tokens to the kernel's feature space."""
        norm = values.norm(dim=1, keepdim=True).clamp(min=_SHORTEST)
        return (self._likeness(values / norm) @ self.basis).mul_(norm / self.scale)

    def _pool(self, tokens: Segments) -> Float[Tensor, "seqs dim_out"]:
        features = self.features(tokens.values)
        plan = sinkhorn_plan(tokens, features @ self.book.T / self.epsilon, self.iterations)
        return tokens.outer(plan, features).flatten(1) * self.references**0.5
