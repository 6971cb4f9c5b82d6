"""Predictive, pair, set and assignment objectives against plain loops, and by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from onevec.objectives import OBJECTIVES, Context
from onevec.objectives.assignment import balanced_codes
from onevec.objectives.predictive import beside
from onevec.objectives.reconstruction import sinkhorn_distance
from onevec.objectives.targets import draw_tokens
from onevec.ragged import Ragged

TOKEN_DIM, DIM, STATISTICS = 3, 4, 5
FIRST, SECOND, WHOLE = [2, 3, 1, 4, 2, 6], [3, 1, 2, 4, 2, 1], [9, 4, 5, 8, 4, 7]
GROUPS = [0, 1, 2, 0, 4, 5]


def ragged(lengths, seed):
    draw = torch.Generator().manual_seed(seed)
    values = 2 * torch.randn(sum(lengths), TOKEN_DIM, generator=draw) + 1
    return Ragged(values, torch.tensor(lengths))


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


OUTPUTS = tuple(normal(6, DIM, seed=seed) for seed in (1, 2))
CONTEXT = Context(
    views=(ragged(FIRST, 3), ragged(SECOND, 4)),
    whole=ragged(WHOLE, 5),
    groups=torch.tensor(GROUPS),
    generator=torch.Generator(),
    statistics=tuple(normal(6, STATISTICS, seed=seed) for seed in (6, 7)),
    teachers=(normal(6, 3, seed=8), normal(6, 2, seed=9)),
)


def fit(name, **options):
    return OBJECTIVES[name](**options).fit(ragged([20, 30], 10), DIM, statistics=STATISTICS)


def arrays(objective):
    return {key: value.double().numpy() for key, value in objective.state_dict().items()}


def numbers(terms):
    return {key: term.item() for key, term in terms.items()}


def scaled(state, tokens):
    return [
        (part.double().numpy() - state["scale.centre"]) / state["scale.spread"] for part in tokens
    ]


def test_tokens_are_standardised_by_the_sample():
    state, sample = arrays(fit("cpc")), ragged([20, 30], 10).values.double().numpy()
    np.testing.assert_allclose(state["scale.centre"], sample.mean(0), rtol=1e-6)
    np.testing.assert_allclose(state["scale.spread"], sample.std(0), rtol=1e-6)


def test_cpc_is_info_nce_per_step():
    objective = fit("cpc", steps=5, size=7)
    state = arrays(objective)
    tokens, z = scaled(state, CONTEXT.views[1]), OUTPUTS[0].double().numpy()
    terms = objective(OUTPUTS, CONTEXT)
    expected = {}
    for step in range(5):
        rows = [i for i in range(6) if SECOND[i] > step]
        losses = []
        for i in rows:
            guess = state[f"predict.{step}.weight"] @ z[i]
            score = {
                j: guess @ state["project.weight"] @ tokens[j][step] / np.sqrt(7) for j in rows
            }
            others = [j for j in rows if GROUPS[j] != GROUPS[i]]
            if others:
                total = sum(np.exp(score[j]) for j in [i, *others])
                losses.append(-np.log(np.exp(score[i]) / total))
        expected[f"step_{step + 1}"] = np.mean(losses) if losses else 0.0
    assert numbers(terms) == pytest.approx(expected, rel=1e-5)
    # Rows 0 and 3, of one group, are alone with third tokens; nobody has a fifth.
    assert expected["step_3"] == expected["step_5"] == 0
    mean = np.mean(list(expected.values()))
    assert objective.total(terms).item() == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("hidden", [0, 6])
def test_held_out_statistics_is_the_relative_error(hidden):
    objective = fit("held_out_statistics", hidden=hidden)
    errors = []
    for view, other in ((0, 1), (1, 0)):
        target = CONTEXT.statistics[other].double().numpy()
        guess = objective.predict(OUTPUTS[view]).detach().double().numpy()
        errors.append(((guess - target) ** 2).mean() / target.var(0, ddof=1).mean())
    assert objective(OUTPUTS, CONTEXT)["loss"].item() == pytest.approx(np.mean(errors), rel=1e-5)
    # A batch of copies: the variance is taken as a tenth.
    same = tuple(part[:1].expand(6, -1) for part in CONTEXT.statistics)
    error = np.mean(
        [
            ((objective.predict(OUTPUTS[a]) - same[b]) ** 2).mean().item() / 0.1
            for a, b in ((0, 1), (1, 0))
        ]
    )
    value = objective(OUTPUTS, replace(CONTEXT, statistics=same))["loss"].item()
    assert value == pytest.approx(error, rel=1e-5)


def gelu(x):
    return torch.nn.functional.gelu(torch.from_numpy(x)).numpy()


@pytest.mark.parametrize("neighbours", [True, False])
def test_masked_tokens_is_the_cross_entropy_of_codes(neighbours):
    objective = fit("masked", codes=4, neighbours=neighbours, hidden=5)
    state, losses = arrays(objective), []
    for row, part in enumerate(scaled(state, CONTEXT.views[1])):
        ids = [int(((state["book"] - token) ** 2).sum(1).argmin()) for token in part]
        of_row = []
        for at, code in enumerate(ids):
            inner = state["read.weight"] @ OUTPUTS[0][row].double().numpy() + state["read.bias"]
            if neighbours:
                inner = inner + state["left.weight"][ids[at - 1] if at else 4]
                inner = inner + state["right.weight"][ids[at + 1] if at + 1 < len(ids) else 4]
            logits = state["write.weight"] @ gelu(inner) + state["write.bias"]
            of_row.append(np.log(np.exp(logits).sum()) - logits[code])
        losses.append(np.mean(of_row))
    assert objective(OUTPUTS, CONTEXT)["loss"].item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_neighbours_by_hand():
    before, after = beside(torch.tensor([5, 6, 7, 8, 9]), torch.tensor([3, 0, 1, 1]), 99)
    assert before.tolist() == [99, 5, 6, 99, 99]
    assert after.tolist() == [6, 7, 99, 99, 99]


def test_draws_are_a_fair_choice_within_each_sequence():
    lengths, draw = torch.tensor([5, 0, 2, 9]), torch.Generator().manual_seed(0)
    counts = torch.zeros(16)
    for _ in range(2000):
        picked, kept = draw_tokens(lengths, 3, draw)
        assert kept.tolist() == [3, 0, 2, 3]
        assert (picked.diff() > 0).all()
        counts[picked] += 1
    expected = torch.tensor([3 / 5] * 5 + [1.0] * 2 + [3 / 9] * 9)
    np.testing.assert_allclose((counts / 2000).numpy(), expected.numpy(), atol=0.05)
    before = draw.get_state()
    assert draw_tokens(lengths, 9, draw)[0].tolist() == list(range(16))
    assert torch.equal(before, draw.get_state())


def logistic(score, yes):
    return np.log(1 + np.exp(-score if yes else score))


def score_of(objective, a, b):
    features = np.concatenate([a, b, np.abs(a - b), a * b])
    return objective.classify(torch.from_numpy(features).float()).item()


@pytest.mark.parametrize("hidden", [0, 6])
def test_next_sequence_is_logistic_regression_of_pairs(hidden):
    objective = fit("next_sequence", hidden=hidden)
    a, b = (part.double().numpy() for part in OUTPUTS)
    seen = set()
    for seed in range(30):
        given = replace(CONTEXT, generator=torch.Generator().manual_seed(seed))
        value = objective(OUTPUTS, given)["loss"].item()
        for shift in range(1, 6):
            losses = [
                (
                    logistic(score_of(objective, a[i], b[i]), True)
                    + logistic(score_of(objective, a[i], b[(i - shift) % 6]), False)
                )
                / 2
                for i in range(6)
                if GROUPS[i] != GROUPS[(i - shift) % 6]
            ]
            if value == pytest.approx(np.mean(losses), rel=1e-6):
                seen.add(shift)
                break
        else:
            pytest.fail("no shift of the rows gives this loss")
    assert seen == {1, 2, 3, 4, 5}


def test_sequence_order_is_logistic_regression_of_both_orders():
    objective = fit("sequence_order", hidden=6)
    a, b = (part.double().numpy() for part in OUTPUTS)
    losses = [
        logistic(score_of(objective, a[i], b[i]), True)
        + logistic(score_of(objective, b[i], a[i]), False)
        for i in range(6)
    ]
    value = objective(OUTPUTS, CONTEXT)["loss"].item()
    assert value == pytest.approx(np.mean(losses) / 2, rel=1e-5)


def chamfer(points, targets):
    cost = [[((p - t) ** 2).sum() / TOKEN_DIM for t in targets] for p in points]
    return np.mean(np.min(cost, axis=0)) + np.mean(np.min(cost, axis=1))


def sinkhorn(points, targets, epsilon=0.1):
    cost = ((points[:, None] - targets[None]) ** 2).mean(-1)
    kernel = np.exp(-cost / epsilon)
    right = np.ones(len(targets))
    for _ in range(20):
        left = 1 / len(points) / (kernel @ right)
        right = 1 / len(targets) / (kernel.T @ left)
    return (left[:, None] * kernel * right * cost).sum()


@pytest.mark.parametrize(("distance", "formula"), [("chamfer", chamfer), ("sinkhorn", sinkhorn)])
def test_sets_are_compared_by_the_published_distances(distance, formula):
    def rebuilt(objective, vectors, tokens):
        return np.mean(
            [
                formula(objective.decode(vector).detach().double().numpy().reshape(3, -1), part)
                for vector, part in zip(vectors, scaled(arrays(objective), tokens), strict=True)
            ]
        )

    options = {"points": 3, "hidden": 6, "distance": distance}
    own = fit("autoencoder", **options)
    pairs = zip(OUTPUTS, CONTEXT.views, strict=True)
    expected = np.mean([rebuilt(own, vectors, tokens) for vectors, tokens in pairs])
    assert own(OUTPUTS, CONTEXT)["loss"].item() == pytest.approx(expected, rel=1e-4)
    whole = fit("denoising", **options)
    expected = rebuilt(whole, OUTPUTS[0], CONTEXT.whole)
    assert whole(OUTPUTS, CONTEXT)["loss"].item() == pytest.approx(expected, rel=1e-4)


def test_small_epsilon_reaches_the_linear_programme():
    cost = np.random.default_rng(1).random((4, 3))
    rows = np.kron(np.eye(4), np.ones((1, 3)))
    columns = np.kron(np.ones((1, 4)), np.eye(3))
    right = np.concatenate([np.full(4, 1 / 4), np.full(3, 1 / 3)])
    best = linprog(cost.ravel(), A_eq=np.concatenate([rows, columns]), b_eq=right).fun
    padded = torch.from_numpy(np.concatenate([cost, np.zeros((4, 2))], axis=1)).unsqueeze(0)
    mask = torch.tensor([[True, True, True, False, False]])
    found = sinkhorn_distance(padded, mask, epsilon=0.005, iterations=3000)
    assert found.item() == pytest.approx(best, abs=5e-3)


def test_codes_are_the_published_iterations():
    scores = np.random.default_rng(0).uniform(-1, 1, (8, 3))
    plan = np.exp(scores / 0.05).T
    plan /= plan.sum()
    for _ in range(3):
        plan /= plan.sum(1, keepdims=True) * 3
        plan /= plan.sum(0, keepdims=True) * 8
    found = balanced_codes(torch.from_numpy(scores), 0.05, 3).numpy()
    np.testing.assert_allclose(found, plan.T * 8, rtol=1e-9)
    many = balanced_codes(torch.from_numpy(scores), 0.5, 200).numpy()
    np.testing.assert_allclose(many.sum(0), np.full(3, 8 / 3), rtol=1e-6)


def test_prototypes_is_the_swapped_prediction():
    objective = fit("prototypes", prototypes=3)
    directions = arrays(objective)["directions"]
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    units = [z.double().numpy() / np.linalg.norm(z.numpy(), axis=1)[:, None] for z in OUTPUTS]
    scores = [unit @ directions.T for unit in units]
    codes = [balanced_codes(torch.from_numpy(each), 0.05, 3).numpy() for each in scores]
    losses = []
    for seen, hidden in ((0, 1), (1, 0)):
        logits = scores[seen] / 0.1
        log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        losses.append(-(codes[hidden] * log).sum(1).mean())
    assert objective(OUTPUTS, CONTEXT)["loss"].item() == pytest.approx(np.mean(losses), rel=1e-4)


def neighbours(vectors, temperature):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = []
    for i in range(len(unit)):
        others = [j for j in range(len(unit)) if GROUPS[j] != GROUPS[i]]
        weights = np.array([np.exp(unit[i] @ unit[j] / temperature) for j in others])
        found.append(weights / weights.sum())
    return found


def test_distillation_is_the_divergence_of_neighbours():
    value = fit("distillation", temperature=0.3)(OUTPUTS, CONTEXT)["loss"].item()
    found = []
    for teacher in CONTEXT.teachers:
        for vectors in OUTPUTS:
            wanted = neighbours(teacher.double().numpy(), 0.3)
            got = neighbours(vectors.double().numpy(), 0.3)
            pairs = zip(wanted, got, strict=True)
            found.append(np.mean([(p * np.log(p / q)).sum() for p, q in pairs]))
    assert value == pytest.approx(np.mean(found), rel=1e-5)
    own = replace(CONTEXT, teachers=(OUTPUTS[0] * 3,))
    same = fit("distillation")((OUTPUTS[0], OUTPUTS[0]), own)["loss"].item()
    assert same == pytest.approx(0, abs=1e-6)
