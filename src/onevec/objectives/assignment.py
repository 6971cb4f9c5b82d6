"""Objectives that match distributions: over prototypes, and over a teacher's neighbours."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from onevec.objectives.base import Context, Objective, Vectors
from onevec.objectives.common import (
    MASKED,
    Groups,
    Rows,
    check_count,
    check_positive,
    mean_over_pairs,
    mean_where,
    over_blocks,
    shared_by,
    unit_rows,
)


def balanced_codes(
    scores: Float[Tensor, "rows prototypes"], epsilon: float, iterations: int
) -> Float[Tensor, "rows prototypes"]:
    """Assign rows to prototypes by ``exp(scores / ε)``, every prototype used about equally.

    Sinkhorn iterations in the log domain: prototypes to equal sums, then rows to 1.
    """
    log = scores / epsilon
    for _ in range(iterations):
        log = log - log.logsumexp(0, keepdim=True)
        log = log - log.logsumexp(1, keepdim=True)
    return log.exp()


class Prototypes(Objective):
    """Predict, from one view, to which prototypes the other view is assigned (SwAV).

    Scores are cosines of vectors and prototypes. A view's codes are its scores balanced over the
    batch by Sinkhorn iterations, so that not all rows fall to one prototype; the other view
    predicts them by a softmax at the temperature. Mean of both directions. Batches should have
    more rows than there are prototypes.

    Parameters
    ----------
    prototypes : int
        How many.
    temperature : float
        Of the prediction.
    epsilon : float
        Softness of the codes.
    iterations : int
        Sinkhorn iterations.

    References
    ----------
    Caron, Misra, Mairal, Goyal, Bojanowski and Joulin (2020), "Unsupervised learning of visual
    features by contrasting cluster assignments".
    """

    option_names = ("prototypes", "temperature", "epsilon", "iterations")
    directions: nn.Parameter

    def __init__(
        self,
        prototypes: int = 64,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
    ):
        super().__init__()
        check_count("Prototypes", 2, prototypes=prototypes)
        check_count("Prototypes", 1, iterations=iterations)
        check_positive("Prototypes", temperature=temperature, epsilon=epsilon)
        self.prototypes, self.iterations = int(prototypes), int(iterations)
        self.temperature, self.epsilon = float(temperature), float(epsilon)

    def _build(self, token_dim: int, dim: int, statistics: int) -> None:
        self.directions = nn.Parameter(unit_rows(torch.randn(self.prototypes, dim)))

    def _terms(self, outputs: Vectors, context: Context) -> dict[str, Tensor]:
        directions = unit_rows(self.directions)
        scores = tuple(unit_rows(vectors) @ directions.T for vectors in outputs)
        return {"loss": mean_over_pairs(scores, self._swapped)}

    def _swapped(self, first: Tensor, second: Tensor) -> Tensor:
        found = []
        for seen, hidden in ((first, second), (second, first)):
            codes = balanced_codes(hidden.detach(), self.epsilon, self.iterations)
            found.append(-(codes * (seen / self.temperature).log_softmax(1)).sum(1).mean())
        return torch.stack(found).mean()


def similarity_divergence(
    teacher: Float[Tensor, "rows teacher_dim"], student: Rows, groups: Groups
) -> Float[Tensor, ""]:
    """``mean_i KL(p_i || q_i)``, p and q the softmax over other rows of ``row_i · row_j``.

    Rows of the same group are left out of the softmax, rows without any other of the mean.
    """

    def block(rows: slice, student: Tensor) -> Tensor:
        same = groups[rows].unsqueeze(1) == groups
        wanted = (teacher[rows] @ teacher.T).masked_fill(same, MASKED).log_softmax(1)
        found = (student[rows] @ student.T).masked_fill(same, MASKED).log_softmax(1)
        return (wanted.exp() * (wanted - found)).sum(1)

    divergence = over_blocks(block, (student,), 2 * len(student))
    return mean_where(divergence, shared_by(groups) < len(groups))


class Distillation(Objective):
    """Be similar to whom the teacher is similar to.

    Kullback-Leibler divergence from the softmax of a teacher's cosine similarities within the
    batch to that of the vectors'. A row's own group is left out. The mean over views and
    teachers, so that no teacher's dimension or scale matters.

    Parameters
    ----------
    temperature : float
        What cosines are divided by, the teacher's and the vectors'.

    References
    ----------
    Passalis and Tefas (2018), "Learning deep representations with probabilistic knowledge
    transfer"; Fang et al. (2021), "SEED: self-supervised distillation for visual representation".
    """

    needs = ("teachers",)
    least_views = 1
    option_names = ("temperature",)

    def __init__(self, temperature: float = 0.1):
        super().__init__()
        check_positive("Distillation", temperature=temperature)
        self.temperature = float(temperature)

    def _terms(self, outputs: Vectors, context: Context) -> dict[str, Tensor]:
        root = self.temperature**-0.5  # on both sides of the product
        groups = context.groups.to(outputs[0].device)
        students = [unit_rows(vectors) * root for vectors in outputs]
        teachers = [unit_rows(vectors.float()) * root for vectors in context.teachers]
        found = [
            similarity_divergence(teacher, student, groups)
            for teacher in teachers
            for student in students
        ]
        return {"loss": torch.stack(found).mean()}
