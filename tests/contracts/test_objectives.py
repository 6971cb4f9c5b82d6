"""What every objective promises, over the whole table."""

import copy
import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from onevec.errors import InputError
from onevec.objectives import OBJECTIVES, Context, WeightedSum, common, make_objective
from onevec.objectives.targets import k_means
from onevec.ragged import Ragged

TOKEN_DIM, DIM, STATISTICS = 6, 5, 7
SMALL = {
    "cpc": {"steps": 3, "size": 8},
    "masked": {"codes": 8, "hidden": 16},
    "next_sequence": {"hidden": 16},
    "sequence_order": {"hidden": 16},
    "autoencoder": {"points": 3, "hidden": 32},
    "denoising": {"points": 3, "hidden": 32},
    "prototypes": {"prototypes": 6},
}
VARIANTS = {
    "info_nce": {"temperature": 0.2, "learned": True, "length_matched": True},
    "nt_xent": {"learned": True, "length_matched": True},
    "align_uniform": {"alpha": 1.0, "sharpness": 3.0, "balance": 0.5},
    "spectral": {"radius": 0.5},
    "held_out_statistics": {"hidden": 8},
    "masked": {"codes": 4, "neighbours": False, "hidden": 8, "targets": 3},
    "next_sequence": {"hidden": 0},
    "sequence_order": {"hidden": 0},
    "autoencoder": {"points": 3, "hidden": 0, "distance": "sinkhorn", "targets": 4},
    "denoising": {"points": 2, "hidden": 8, "distance": "sinkhorn", "epsilon": 0.3},
}
MIXTURE = {"parts": {"vicreg": [0.5, {"covariance": 2.0}], "cpc": [2.0, {"size": 8}]}}
CASES = {
    **{name: (name, SMALL.get(name, {})) for name in OBJECTIVES},
    **{f"{name}-variant": (name, options) for name, options in VARIANTS.items()},
    "mixture": ("mixture", MIXTURE),
}


def over(cases):
    return pytest.mark.parametrize(
        ("name", "options"), [pytest.param(*CASES[case], id=case) for case in cases]
    )


every = over(CASES)
# Other draws than the identity of the batch: which row meets which, or which tokens are kept.
drawing = {"next_sequence", "next_sequence-variant", "masked-variant", "autoencoder-variant"}
still = over([case for case in CASES if case not in drawing])


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def tokens_of(latent, lengths, seed):
    """Tokens around a place that the latent decides, with a drift along the sequence."""
    lengths = torch.as_tensor(lengths)
    mix = torch.randn(DIM, TOKEN_DIM, generator=source(7))
    total = int(lengths.sum())
    values = (latent @ mix).repeat_interleave(lengths, 0)
    return Ragged(values + 0.3 * torch.randn(total, TOKEN_DIM, generator=source(seed)), lengths)


def batch(rows=12, seed=0, noise=0.1, lengths=None):
    """Vectors of two views that know their sequence, and the context they come from."""
    draw = source(seed)
    latent = torch.randn(rows, DIM, generator=draw)
    outputs = tuple(latent + noise * torch.randn(rows, DIM, generator=draw) for _ in range(2))
    first, second = lengths or ([3 + i % 5 for i in range(rows)], [4 + i % 3 for i in range(rows)])
    whole = [a + b + i % 4 for i, (a, b) in enumerate(zip(first, second, strict=True))]
    mix = torch.randn(DIM, STATISTICS, generator=source(8)) / DIM**0.5
    context = Context(
        views=(tokens_of(latent, first, seed + 1), tokens_of(latent, second, seed + 2)),
        whole=tokens_of(latent, whole, seed + 3),
        groups=torch.arange(rows),
        generator=source(5),
        statistics=(latent @ mix, latent @ mix),
        teachers=(latent, latent @ torch.randn(DIM, 9, generator=source(9))),
    )
    return outputs, context


def fitted(name, options):
    made = WeightedSum(**options) if name == "mixture" else OBJECTIVES[name](**options)
    sample = batch(40, seed=50)[1].whole
    return made.fit(sample, DIM, statistics=STATISTICS)


def seeded(context, seed=5):
    return replace(context, generator=source(seed))


def loss_of(objective, outputs, context, seed=5):
    return objective.total(objective(outputs, seeded(context, seed)))


def gradients(objective, outputs, context):
    """Return the terms, and the gradient of the total by every vector and parameter."""
    leaves = tuple(vectors.clone().requires_grad_() for vectors in outputs)
    objective.zero_grad()
    terms = objective(leaves, seeded(context))
    objective.total(terms).backward()
    return terms, [leaf.grad for leaf in leaves], [p.grad for p in objective.parameters()]


def check_finite(objective, outputs, context):
    terms, slopes, of_parameters = gradients(objective, outputs, context)
    assert terms
    for term in terms.values():
        assert term.shape == ()
        assert term.dtype == torch.float32
        assert term.isfinite()
    assert all(slope is not None and slope.isfinite().all() for slope in slopes)
    assert all(slope is None or slope.isfinite().all() for slope in of_parameters)


def reorder(outputs, context, order):
    return tuple(vectors[order] for vectors in outputs), replace(
        context,
        views=tuple(view[order] for view in context.views),
        whole=context.whole[order],
        groups=context.groups[order],
        statistics=tuple(part[order] for part in context.statistics),
        teachers=tuple(part[order] for part in context.teachers),
    )


@every
def test_gradients_reach_vectors_and_parameters(name, options):
    objective = fitted(name, options)
    terms, slopes, of_parameters = gradients(objective, *batch())
    assert all(term.isfinite() for term in terms.values())
    assert all(slope.isfinite().all() for slope in slopes)
    assert any(slope.abs().max() > 0 for slope in slopes)
    for (at, _), slope in zip(objective.named_parameters(), of_parameters, strict=True):
        assert slope is not None and slope.abs().max() > 0, at


@still
def test_order_of_the_rows_does_not_matter(name, options):
    objective = fitted(name, options)
    outputs, context = batch()
    context = replace(context, groups=torch.arange(12) // 2 * 2)
    order = torch.randperm(12, generator=source(3))
    moved = loss_of(objective, *reorder(outputs, context, order))
    assert_close(moved, loss_of(objective, outputs, context), atol=1e-5, rtol=1e-5)


@over(sorted(drawing))
def test_order_of_the_rows_does_not_matter_but_for_draws(name, options):
    objective = fitted(name, options)
    outputs, context = batch(3)
    order = torch.tensor([2, 1, 0])
    with torch.no_grad():
        moved = [loss_of(objective, *reorder(outputs, context, order), s) for s in range(150)]
        found = [loss_of(objective, outputs, context, s) for s in range(150)]
    gap = torch.stack(moved).mean() - torch.stack(found).mean()
    error = torch.stack(moved + found).std() / 75**0.5
    assert gap.abs() < 3 * error + 1e-5
    again = loss_of(objective, outputs, context, 4)
    assert_close(again.detach(), found[4], atol=0, rtol=0)


@every
def test_hard_batches_are_finite(name, options):
    objective = fitted(name, options)
    outputs, context = batch(8)
    same = tuple(vectors[:1].expand(8, -1) for vectors in outputs)
    alike = (outputs[0][:1].expand(8, -1),) * 2
    zero = tuple(torch.zeros_like(vectors) for vectors in outputs)
    some = tuple(vectors * (torch.arange(8) % 3 > 0)[:, None] for vectors in outputs)
    flat = tuple(vectors * torch.tensor([1.0, 1, 0, 1, 0]) + 0.37 for vectors in outputs)
    for vectors in (same, alike, zero, some, flat, (outputs[0],) * 2):
        check_finite(objective, vectors, context)
        check_finite(objective, vectors, replace(context, groups=torch.zeros(8).long()))
    for scale in (1e4, 1e-4, 1e-20):
        check_finite(objective, tuple(vectors * scale for vectors in outputs), context)


@every
def test_small_batches_are_finite(name, options):
    objective = fitted(name, options)
    for rows in (1, 2):
        check_finite(objective, *batch(rows))
        outputs, context = batch(rows)
        check_finite(objective, tuple(torch.zeros_like(each) for each in outputs), context)
        check_finite(objective, *batch(rows, lengths=([1] * rows, [1] * rows)))


@every
def test_views_of_any_lengths_are_finite(name, options):
    objective = fitted(name, options)
    for lengths in (([1] * 6, [1] * 6), ([1, 50, 2, 7, 1, 90], [90, 1, 1, 3, 200, 1])):
        check_finite(objective, *batch(6, lengths=lengths))
    # The public functions refuse empty sequences; inside, nothing breaks.
    check_finite(objective, *batch(6, lengths=([0, 3, 0, 5, 1, 0], [2, 0, 0, 4, 1, 3])))
    check_finite(objective, *batch(6, lengths=([0] * 6, [0] * 6)))


CONSTANT_ALONE = ["info_nce", "nt_xent", "spectral", "barlow_twins", "cpc"]
CONSTANT_ALONE += ["next_sequence", "distillation"]


@over(CONSTANT_ALONE)
def test_a_row_without_others_teaches_nothing(name, options):
    objective = fitted(name, options)
    outputs, context = batch(4)
    for given in (batch(1), (outputs, replace(context, groups=torch.zeros(4).long()))):
        if name == "barlow_twins" and len(given[0][0]) > 1:
            continue  # knows no negatives
        _, slopes, of_parameters = gradients(objective, *given)
        assert all((slope == 0).all() for slope in slopes)
        assert all(slope is None or (slope == 0).all() for slope in of_parameters)


@every
def test_half_precision_is_computed_in_fp32(name, options):
    objective = fitted(name, options)
    outputs, context = batch()
    rounded = tuple(vectors.bfloat16() for vectors in outputs)
    whole, views = context.whole, context.views
    context = replace(
        context,
        whole=whole.with_values(whole.values.bfloat16()),
        views=tuple(view.with_values(view.values.bfloat16()) for view in views),
        teachers=tuple(teacher.bfloat16() for teacher in context.teachers),
        statistics=tuple(statistics.bfloat16() for statistics in context.statistics),
    )
    full = replace(
        context,
        whole=whole.with_values(whole.values.bfloat16().float()),
        views=tuple(view.with_values(view.values.bfloat16().float()) for view in views),
        teachers=tuple(teacher.float() for teacher in context.teachers),
        statistics=tuple(statistics.float() for statistics in context.statistics),
    )
    expected = loss_of(objective, tuple(vectors.float() for vectors in rounded), full)
    assert_close(loss_of(objective, rounded, context), expected, atol=1e-6, rtol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss_of(objective, rounded, context)
    assert_close(found, expected, atol=1e-6, rtol=1e-6)
    check_finite(objective, rounded, context)


@every
def test_blocks_change_neither_loss_nor_gradient(name, options, monkeypatch):
    objective = fitted(name, options)
    outputs, context = batch()
    whole = gradients(objective, outputs, context)
    monkeypatch.setattr(common, "BLOCK_ENTRIES", 30)
    parts = gradients(copy.deepcopy(objective), outputs, context)
    for found, expected in zip(parts, whole, strict=True):
        assert_close(found, expected, atol=1e-5, rtol=1e-4)


@every
def test_rebuilt_from_options_and_state(name, options):
    objective = fitted(name, options)
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.add_(0.01)
    text = json.dumps(objective.options)
    rebuilt = type(objective)(**json.loads(text)).build(TOKEN_DIM, DIM)
    rebuilt.load_state_dict(objective.state_dict())
    outputs, context = batch()
    found, expected = (loss_of(each, outputs, context) for each in (rebuilt, objective))
    assert_close(found, expected, atol=0, rtol=0)
    assert json.dumps(rebuilt.options) == text
    assert (rebuilt.ordered, rebuilt.needs) == (objective.ordered, objective.needs)


@every
def test_same_seed_same_objective(name, options):
    torch.manual_seed(1)
    first = fitted(name, options).state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = fitted(name, options).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    assert_close(first, second, atol=0, rtol=0)


@every
def test_draws_come_only_from_the_generator(name, options):
    objective = fitted(name, options)
    before = torch.get_rng_state()
    gradients(objective, *batch())
    assert torch.equal(before, torch.get_rng_state())


MATCHED = {
    "info_nce": 0,
    "nt_xent": 0,
    "spectral": 0,
    "align_uniform": 0,
    "barlow_twins": 0,
    "vicreg": 0,
    "prototypes": 0,
    "cpc": 150,
    "held_out_statistics": 150,
    "masked": 150,
    "next_sequence": 150,
}


def train(objective, outputs, context, steps, rate=0.01):
    if not steps:
        return
    optimizer = torch.optim.Adam(objective.parameters(), rate)
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(objective, outputs, context, step).backward()
        optimizer.step()


@over(MATCHED)
def test_matched_views_are_preferred(name, options):
    """Before or (where a predictor must be learned first) after training it."""
    objective = fitted(name, options)
    outputs, context = batch(48)
    train(objective, outputs, context, MATCHED[name])
    mixed, other = reorder(outputs, context, torch.arange(48).roll(1))
    apart = replace(
        context,
        views=(context.views[0], other.views[1]),
        statistics=(context.statistics[0], other.statistics[1]),
    )
    matched = loss_of(objective, outputs, context)
    shuffled = loss_of(objective, (outputs[0], mixed[1]), apart)
    assert matched < shuffled - 0.1 * shuffled.abs()


def test_order_is_learned():
    """Views whose vectors drift along the sequence are told from the swapped ones."""
    objective = fitted("sequence_order", SMALL["sequence_order"])
    outputs, context = batch(48)
    drift = torch.randn(DIM, generator=source(4))
    outputs = (outputs[0], outputs[1] + drift)
    train(objective, outputs, context, 150)
    assert loss_of(objective, outputs, context) < 0.3
    assert loss_of(objective, outputs[::-1], context) > 1.0


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("held_out_statistics", 0.3),
        ("autoencoder", 0.5),
        ("denoising", 0.5),
        ("masked", 0.7),
        ("cpc", 0.5),
    ],
)
def test_vectors_that_know_the_target_predict_it(name, share):
    objective = fitted(name, SMALL.get(name, {}))
    outputs, context = batch(64)
    start = loss_of(objective, outputs, context)
    train(objective, outputs, context, 200)
    assert loss_of(objective, outputs, context) < share * start


def test_distillation_moves_vectors_towards_the_teachers():
    objective = fitted("distillation", {})
    _, context = batch(48)
    vectors = torch.randn(48, DIM, generator=source(2)).requires_grad_()
    start = loss_of(objective, (vectors, vectors), context)
    optimizer = torch.optim.Adam([vectors], 0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss_of(objective, (vectors, vectors), context).backward()
        optimizer.step()
    assert loss_of(objective, (vectors, vectors), context) < 0.4 * start


def test_statistics_that_cannot_be_known_cost_one():
    objective = fitted("held_out_statistics", {})
    outputs, context = batch(4000)
    random = tuple(torch.randn(4000, STATISTICS, generator=source(s)) for s in (1, 2))
    with torch.no_grad():
        objective.predict.weight.zero_()
        objective.predict.bias.zero_()
    found = loss_of(objective, outputs, replace(context, statistics=random))
    assert found.item() == pytest.approx(1, abs=0.02)


def test_learned_temperature_is_held():
    objective = fitted("info_nce", {"learned": True})
    assert objective.log_scale.exp().item() == pytest.approx(10)
    with torch.no_grad():
        objective.log_scale.fill_(9.0)
    _, _, (slope,) = gradients(objective, *batch(noise=3.0))
    assert objective.log_scale.exp().item() == pytest.approx(100, rel=1e-5)
    assert slope.abs() > 0


BAD = {
    "info_nce": [{"temperature": 0}, {"temperature": 0.001, "learned": True}],
    "nt_xent": [{"temperature": float("nan")}, {"temperature": "warm"}],
    "spectral": [{"radius": -1}],
    "align_uniform": [{"alpha": 0}, {"sharpness": 21}, {"balance": float("inf")}],
    "barlow_twins": [{"redundancy": 0}],
    "vicreg": [{"variance": 0}],
    "cpc": [{"steps": 0}, {"size": 1.5}],
    "held_out_statistics": [{"hidden": -1}],
    "masked": [{"codes": 1}, {"targets": 0}],
    "next_sequence": [{"hidden": -1}],
    "sequence_order": [{"hidden": None}],
    "autoencoder": [{"points": 0}, {"distance": "hausdorff"}],
    "denoising": [{"targets": 0}, {"epsilon": 0}],
    "prototypes": [{"prototypes": 1}, {"iterations": 0}, {"epsilon": 0}],
    "distillation": [{"temperature": -0.1}],
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_bad_options_are_refused(name):
    for options in BAD[name]:
        with pytest.raises(InputError, match=r"got .*: "):
            OBJECTIVES[name](**options)
    with pytest.raises(InputError, match="it takes"):
        make_objective({name: (1.0, {"no_such_option": 1})})


@every
def test_misuse_is_one_sentence(name, options):
    made = WeightedSum(**options) if name == "mixture" else OBJECTIVES[name](**options)
    outputs, context = batch(4)
    with pytest.raises(InputError, match="is not fitted"):
        made(outputs, context)
    with pytest.raises(InputError, match="without a single token"):
        made.fit(Ragged(torch.zeros(0, TOKEN_DIM), torch.tensor([0])), DIM)
    objective = fitted(name, options)
    with pytest.raises(InputError, match=rf"built for \(seqs, {DIM}\)"):
        objective(tuple(vectors[:, 1:] for vectors in outputs), context)
    with pytest.raises(InputError, match="at least one sequence"):
        objective(*reorder(outputs, context, torch.zeros(0).long()))
    with pytest.raises(InputError, match="it takes at least"):
        objective((), context)
    for part in objective.needs:
        with pytest.raises(InputError, match=f"reads the context's {part}"):
            objective(outputs, replace(context, **{part: ()}))


def test_statistics_must_be_announced_and_fit():
    with pytest.raises(InputError, match="how many statistics"):
        OBJECTIVES["held_out_statistics"]().fit(batch()[1].whole, DIM)
    objective = fitted("held_out_statistics", {})
    outputs, context = batch()
    short = tuple(part[:, 1:] for part in context.statistics)
    with pytest.raises(InputError, match="it was built for"):
        objective(outputs, replace(context, statistics=short))
    with pytest.raises(InputError, match="it was built for"):
        objective(outputs, replace(context, statistics=context.statistics[:1]))


@every
def test_docstrings_cite_a_paper(name, options):
    made = WeightedSum(**options) if name == "mixture" else OBJECTIVES[name](**options)
    text = type(made).__doc__ or ""
    assert "References\n" in text
    assert name == "mixture" or re.search(r"\((19|20)\d\d\), \"", text)
    for option in made.option_names:
        assert re.search(rf"\b{option}\b.* : ", text), option


def test_declarations():
    assert [n for n, kind in OBJECTIVES.items() if kind.future] == ["cpc"]
    assert [n for n, kind in OBJECTIVES.items() if kind.ordered] == [
        "cpc",
        "next_sequence",
        "sequence_order",
    ]
    assert {n: kind.needs for n, kind in OBJECTIVES.items() if kind.needs} == {
        "held_out_statistics": ("statistics",),
        "denoising": ("whole",),
        "distillation": ("teachers",),
    }


def test_mixture_is_the_weighted_sum_of_its_parts():
    spec = {"info_nce": 2, "vicreg": (0.5, {"covariance": 3.0}), "cpc": [0.25, {"steps": 2}]}
    mixed = make_objective(spec).fit(batch(40, seed=50)[1].whole, DIM)
    outputs, context = batch()
    terms = mixed(outputs, seeded(context))
    alone = [
        fitted(name, options)
        for name, options in [
            ("info_nce", {}),
            ("vicreg", spec["vicreg"][1]),
            ("cpc", spec["cpc"][1]),
        ]
    ]
    expected = [2 * loss_of(alone[0], outputs, context), 0.5 * loss_of(alone[1], outputs, context)]
    expected.append(0.25 * loss_of(alone[2], outputs, context))
    assert_close(mixed.total(terms), torch.stack(expected).sum())
    assert list(terms) == [
        "info_nce",
        "vicreg.invariance",
        "vicreg.variance",
        "vicreg.covariance",
        "cpc.step_1",
        "cpc.step_2",
    ]
    assert mixed.weight("vicreg.covariance") == 1.5
    assert mixed.weight("cpc.step_2") == 0.125
    assert (mixed.ordered, mixed.future, mixed.needs) == (True, True, ())
    both = make_objective({"distillation": 1, "held_out_statistics": 1})
    assert both.needs == ("teachers", "statistics")
    assert not both.ordered
    assert make_objective({"denoising": 1}).least_views == 1


def test_make_objective_errors():
    assert type(make_objective("vicreg")) is OBJECTIVES["vicreg"]
    assert isinstance(make_objective({"vicreg": 1}), WeightedSum)
    with pytest.raises(InputError, match="did you mean 'vicreg'"):
        make_objective("vicregg")
    with pytest.raises(InputError, match="did you mean 'info_nce'"):
        make_objective({"infonce": 1.0})
    with pytest.raises(InputError, match="choose from info_nce"):
        make_objective("")
    with pytest.raises(InputError, match="pass a name"):
        make_objective({})
    for weight in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="above 0"):
            make_objective({"vicreg": weight})
    for part in ("much", (1.0, "temperature"), (1.0,), None):
        with pytest.raises(InputError, match=r"pass a weight or \(weight, options\)"):
            make_objective({"vicreg": part})


@every
def test_samples_too_small_for_a_codebook(name, options):
    constant = Ragged(torch.ones(20, TOKEN_DIM), torch.tensor([5, 15]))
    one = Ragged(torch.randn(1, TOKEN_DIM, generator=source(1)), torch.tensor([1]))
    half = Ragged(one.values.repeat(9, 1).half(), torch.tensor([9]))
    for sample in (constant, one, half):
        made = WeightedSum(**options) if name == "mixture" else OBJECTIVES[name](**options)
        check_finite(made.fit(sample, DIM, statistics=STATISTICS), *batch(5))


def test_k_means_finds_clusters_and_fills_the_book():
    centres = torch.tensor([[0.0, 0], [10, 0], [0, 10], [10, 10]])
    points = centres.repeat(50, 1) + 0.1 * torch.randn(200, 2, generator=source(1))
    book = k_means(points, 4, random_state=0)
    assert torch.cdist(centres, book).amin(1).max() < 0.1
    assert k_means(points[:3], 8, random_state=0).shape == (8, 2)


def test_import_brings_neither_scikit_learn_nor_poolers():
    code = (
        "import sys, onevec.objectives; "
        "print({'sklearn', 'scipy', 'onevec.poolers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
