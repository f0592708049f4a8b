"""What is set against the noise of mini-batches: means with their weights, and free of bias where that is said."""

import copy
import io
import itertools
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, AdamW

from mgrad import HalfBatches, LessForgetting, NoIncrease, SmoothGramian, SmoothRows, Target, constrained_direction
from mgrad.noise import GramianAverage, Noise, RowAverage

EPS = 2.0**-52
EVERY: dict[str, Noise] = {"rows": SmoothRows(0.8), "gramian": SmoothGramian(0.8), "halves": HalfBatches(0.8)}
every_noise = pytest.mark.parametrize("noise", EVERY.values(), ids=EVERY)


def rows(seed: int, steps: int, m: int = 3, n: int = 6) -> Tensor:
    """Return the gradients of every step [steps, m, n]."""
    return torch.randn(steps, m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def wrap(theta: Tensor, noise: Noise | None, **options: Any) -> LessForgetting:
    """Wrap an optimizer that does not move, so that a pull is what the test makes it."""
    return LessForgetting(SGD([theta], lr=0.0), noise=noise, **{"anchor": None, "scale": "absolute", **options})


def feed(opt: LessForgetting, theta: Tensor, step: Tensor, pull: Tensor | None = None) -> None:
    """Give an optimizer gradients by losses that are linear; two halves that differ where it wants halves."""
    opt.zero_grad()
    half = torch.linspace(-0.1, 0.1, step.shape[1], dtype=step.dtype)
    for i, row in enumerate(step):
        parts = [row / 2 + half, row / 2 - half] if isinstance(opt.noise, HalfBatches) else [row]
        for part in parts:
            with opt.constraint(str(i)):
                (part @ theta).backward()
    if pull is not None:
        (pull @ theta).backward()


def mean(values: Sequence[Any], decay: float) -> Any:
    """Return the mean in which each step counts `decay` times as much as the next."""
    weights = [decay**age for age in reversed(range(len(values)))]
    return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)


@given(
    st.lists(st.sets(st.integers(0, 3), min_size=1), min_size=1, max_size=12),
    st.integers(0, 2**32 - 1),
    st.floats(0.0, 0.99),
    st.sampled_from([SmoothGramian, HalfBatches]),
    st.integers(1, 6),
)
def test_where_some_have_been_missing_the_products_are_still_of_vectors(
    present: list[set[int]], seed: int, decay: float, kind: Any, rank: int
) -> None:
    """(128): semi-definite with c and ‖g₀‖², and every length is the mean of its own steps.

    To the rounding of k² cosines, sums of k products each, and of their eigenvalues.
    """
    J, theta = rows(seed % 1000, len(present), m=5), zeros()
    scales = 10.0 ** torch.randint(-3, 4, (len(present), 5), generator=torch.Generator().manual_seed(seed))
    J = J * scales[:, :, None] * (torch.arange(6) < rank)  # of few values, products of other steps are of no vectors
    opt = wrap(theta, kind(decay), strength=1.0)
    for step, names in zip(J, present, strict=True):
        opt.zero_grad()
        for i in sorted(names):
            for _ in range(2 if kind is HalfBatches else 1):  # halves without noise
                with opt.constraint(str(i)):
                    (step[i] @ theta).backward()
        (step[4] @ theta).backward()
        report = opt.solve()
    products = np.block([[report.gramian, report.correlation[:, None]], [report.correlation, report.objective_norm**2]])
    lengths = np.sqrt(products.diagonal())
    assert np.linalg.eigvalsh(products / lengths / lengths[:, None])[0] >= -2 * len(products) ** 2 * EPS
    for i, square in zip(map(int, report.names), report.gramian.diagonal(), strict=True):
        factor = 4.0 if kind is HalfBatches else 1.0
        squares = [factor * float(step[i] @ step[i]) for step, has in zip(J, present, strict=True) if i in has]
        # The weight of each step is known to ε, not to ε of itself: what is forgotten of a larger one is not.
        assert abs(square - mean(squares, decay)) <= 4 * (len(squares) + 8) * EPS * max(squares)


def zeros(n: int = 6, **options: Any) -> Tensor:
    return Parameter(torch.zeros(n, **{"dtype": torch.float64, **options}))


# ---------------------------------------------------------------------- what is solved


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_smoothed_rows_are_solved_as_their_means(decay: float) -> None:
    theta, steps, pull = zeros(), rows(0, 7), rows(1, 1)[0, 0]
    opt = wrap(theta, SmoothRows(decay), strength=0.7)
    for t in range(len(steps)):
        feed(opt, theta, steps[t], pull)
        opt.step()
        expected = constrained_direction(mean(list(steps[: t + 1]), decay), pull, strength=0.7)
        assert theta.grad is not None
        # The rounding of t + 1 products, through a solve of rows that are far from dependent.
        assert torch.allclose(theta.grad, expected.direction, rtol=0, atol=1e3 * EPS * expected.direction.norm())


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_a_smoothed_gramian_gives_its_multipliers_to_the_present_rows(decay: float) -> None:
    theta, steps = zeros(), rows(2, 7)
    pulls = rows(3, 7)[:, 0]
    opt = wrap(theta, SmoothGramian(decay), strength=0.7)
    products, slopes = [], []
    for step, pull in zip(steps, pulls, strict=True):
        feed(opt, theta, step, pull)
        report = opt.solve()
        assert theta.grad is not None
        products.append(step @ step.T)
        slopes.append(step @ pull / pull.norm())
        G, c = mean(products, decay), mean(slopes, decay) * pull.norm()
        # Rows and a pull with these products, up to a rotation: only those matter.
        whole = torch.block_diag(G, torch.ones(1, 1, dtype=torch.float64))
        whole[-1, :-1] = whole[:-1, -1] = c
        whole[-1, -1] = pull @ pull
        root = torch.linalg.cholesky(whole)
        expected = constrained_direction(root[:-1], root[-1], strength=0.7).report
        size = float(expected.multipliers.max())
        assert np.allclose(report.multipliers, expected.multipliers, rtol=0, atol=1e4 * EPS * size)
        direction = 0.7 * pull + torch.as_tensor(report.multipliers) @ step
        assert torch.allclose(theta.grad, direction, rtol=0, atol=100 * EPS * direction.norm())
        opt.step()


def test_half_batches_are_right_on_the_average() -> None:
    """E Ĝ = G* + φ diag τ (math.md, 78), over every outcome of two steps with noise of two values in each half."""
    decay, signal, jitter = 0.6, rows(4, 1, m=2)[0], 0.1 * rows(5, 1, m=2)[0]
    outcomes = list(itertools.product((-1.0, 1.0), repeat=4))
    total, count = np.zeros((2, 2)), 0
    for both in itertools.product(outcomes, repeat=2):
        theta = zeros()
        opt = wrap(theta, HalfBatches(decay))
        for signs in both:
            opt.zero_grad()
            for (i, _), sign in zip(itertools.product(range(2), range(2)), signs, strict=True):
                with opt.constraint(str(i)):
                    ((signal[i] / 2 + sign * jitter[i]) @ theta).backward()
            report = opt.solve()
            opt.step()
        total += report.gramian
        count += 1
    newest = 1 / (1 + decay)
    left = newest**2 + (1 - newest) ** 2  # of the variance, in a mean of two steps
    variance = 2 * (jitter * jitter).sum(1)  # of two halves
    expected = (signal @ signal.T + left * variance.diag()).numpy()
    assert count == 256
    assert np.allclose(total / count, expected, rtol=0, atol=1e3 * EPS * expected.max())


def test_the_first_step_takes_nothing_out() -> None:
    theta, step = zeros(), rows(6, 1)[0]
    opt = wrap(theta, HalfBatches())
    feed(opt, theta, step)
    assert np.allclose(opt.solve().gramian, (step @ step.T).numpy(), rtol=1e-14)


@pytest.mark.parametrize(("noise", "left"), [(None, 1.0), (SmoothGramian(), 1.0), (HalfBatches(0.9), 1 / 19)])
def test_what_noise_hides_of_a_promise(noise: Noise | None, left: float) -> None:
    """(73): ∇fᵀE[d] = w‖∇f‖² + cτ/(‖∇f‖² + τ), with what is left of τ; each half has noise of its own direction."""
    theta = zeros(4)
    g, pull, *shakes = torch.eye(4, dtype=torch.float64)
    pull = pull - 0.5 * g
    opt = wrap(theta, noise, strength=1.0)
    for _ in range(400):  # 0.9⁴⁰⁰ is below rounding
        opt.zero_grad()
        halves = [g / 2 + 2 * shake for shake in shakes]
        for part in halves if isinstance(noise, HalfBatches) else [sum(halves)]:
            with opt.constraint("0"):
                (part @ theta).backward()
        (pull @ theta).backward()
        report = opt.solve()
        opt.step()
    variance = left * 8.0
    kept = g @ pull + report.multipliers[0] * g @ g
    assert abs(kept - (1 - 0.5 * variance / (1 + variance))) < 1e-12


# ---------------------------------------------------------------------- semi-definite


@given(st.integers(1, 5), st.integers(0, 10_000), st.floats(0.0, 1.0))
def test_what_is_left_is_the_nearest_semidefinite_gramian(m: int, seed: int, depth: float) -> None:
    step = rows(seed, 1, m=m, n=4)[0]
    names = [str(i) for i in range(m)]
    products = torch.zeros(m + 1, m + 1, dtype=torch.float64)
    products[:-1, :-1] = G = step @ step.T
    # Twice the same step: in their mean half of the noise is taken out, here `depth` of every square.
    halves = {name: (1 - 2 * depth) / 4 * G[i, i] for i, name in enumerate(names)}
    average = GramianAverage(0.999999).then(names, products, halves).then(names, products, halves)
    found = average.estimate(names, products[-1, -1])[:-1, :-1]
    lengths = G.diagonal().sqrt()
    units = lengths[:, None] * lengths
    cosines, wanted = found / units, (G - depth * torch.diag(G.diagonal())) / units
    added = cosines - wanted
    allowed = 1e-5 * m  # the two weights differ by a millionth
    assert torch.linalg.eigvalsh(cosines).min() >= -allowed
    assert torch.linalg.eigvalsh(added).min() >= -allowed  # optimal: what is added is semi-definite,
    assert abs((added * cosines).sum()) <= allowed * m  # and orthogonal to what is there


@given(st.integers(0, 10_000), st.lists(st.floats(-6, 6), min_size=3, max_size=3))
def test_units_of_losses_do_not_matter(seed: int, exponents: list[float]) -> None:
    scales = 10.0 ** torch.tensor(exponents, dtype=torch.float64)
    steps, names = rows(seed, 3, n=2), ["0", "1", "2"]
    plain = scaled = GramianAverage(0.9)
    for step in steps:
        products = torch.zeros(4, 4, dtype=torch.float64)
        products[:-1, :-1] = G = step @ step.T
        other = products.clone()
        other[:-1, :-1] *= scales * scales[:, None]
        plain = plain.then(names, products, {name: 0.01 * G[i, i] for i, name in enumerate(names)})
        scaled = scaled.then(names, other, {name: 0.01 * other[i, i] for i, name in enumerate(names)})
    square = torch.zeros((), dtype=torch.float64)
    found, expected = scaled.estimate(names, square)[:-1, :-1], plain.estimate(names, square)[:-1, :-1]
    lengths = steps.square().sum(-1).amax(0).sqrt()
    assert torch.allclose(
        found / scales / scales[:, None] / lengths / lengths[:, None],
        expected / lengths / lengths[:, None],
        rtol=0,
        atol=1e3 * EPS,
    )


# ---------------------------------------------------------------------- halves


def test_two_halves_are_the_row_of_the_whole() -> None:
    pairs, blocks, whole = zeros(), zeros(), zeros()
    step = rows(7, 1)[0]
    opt = wrap(pairs, HalfBatches())
    report = opt.backward([((2 * row) @ pairs, (0 * row) @ pairs) for row in step])
    other = wrap(blocks, HalfBatches())
    feed(other, blocks, step)
    third = wrap(whole, None)
    feed(third, whole, step)
    assert np.allclose(report.multipliers, third.solve().multipliers, rtol=1e-12)
    assert np.allclose(other.solve().multipliers, report.multipliers, rtol=1e-12)
    for found in (pairs, blocks):
        assert found.grad is not None
        assert whole.grad is not None
        assert torch.allclose(found.grad, whole.grad, rtol=0, atol=1e3 * EPS * whole.grad.norm())


def test_the_loss_of_two_halves_is_their_mean() -> None:
    theta = zeros()
    opt = wrap(theta, HalfBatches(), decrease=Target([2.0]))
    report = opt.backward([((theta + 1).sum(), (theta + 2).sum())])
    assert report.decrease.tolist() == [9.0 - 2.0]


def test_a_parameter_that_one_half_alone_reaches() -> None:
    first, second = zeros(2), zeros(2)
    opt = LessForgetting(SGD([first, second], lr=0.0), anchor=None, noise=HalfBatches())
    opt.backward({"en": (first.sum(), second.sum())})
    assert first.grad is not None
    assert second.grad is not None
    assert first.grad.tolist() == second.grad.tolist() == [0.5, 0.5]


def test_a_head_of_a_language_that_is_missing_is_left_alone() -> None:
    """Its mean row is of no part in this step, and so pulls nothing; that of a language that is there does."""
    body, head, other = (Parameter(torch.ones(2)) for _ in range(3))
    opt = LessForgetting(SGD([body, head, other], lr=0.1), noise=SmoothRows(), constraints=["en", "de"], missing=True)
    opt.backward({"en": (body * head).sum(), "de": (body * other).sum()})
    opt.step()
    opt.zero_grad()
    opt.backward({"en": body.square().sum()})
    assert other.grad is None
    assert head.grad is not None


@pytest.mark.parametrize("power", [-80, -60, 0, 60, 66])
def test_halves_of_float32_are_compared_whatever_their_size(power: int) -> None:
    """Also where float32 does not hold their products: a power of two changes no digit of the multipliers."""
    steps, multipliers = rows(0, 8, m=2).float().view(4, 2, 2, 6), list[Any]()  # step, constraint, half
    for scale in (1.0, 2.0**power):
        theta = torch.zeros(6, requires_grad=True)
        opt = LessForgetting(SGD([theta], lr=0.0), anchor=None, decrease=NoIncrease(), noise=HalfBatches())
        for step in scale * (steps + torch.tensor([2.0, -2.0])[:, None, None]):
            opt.zero_grad()
            (-step.sum((0, 1)) @ theta).backward()
            multipliers.append(
                opt.backward([tuple(2 * half @ theta for half in halves) for halves in step]).multipliers
            )
    first, second = np.array(multipliers).reshape(2, 4, 2)
    assert (first > 0).any()
    np.testing.assert_allclose(second, first, rtol=2.0**-20)  # sums of six float32 products, and of as many in float64


def test_halves_that_cancel_to_the_digit_are_a_row_that_is_zero() -> None:
    """As near a minimum, where all is noise: no estimate of a square is below 0."""
    theta = zeros(2)
    opt = LessForgetting(SGD([theta], lr=0.0), anchor=None, noise=HalfBatches())
    for _ in range(3):
        opt.zero_grad()
        report = opt.backward({"en": (theta.sum(), -theta.sum()), "de": (theta[0], theta[0])})
        assert report.gradient_norms.tolist() == [0.0, 1.0]


def complaint(kind: type[Exception], match: str, act: Callable[..., Any], *args: Any, **options: Any) -> None:
    with pytest.raises(kind, match=match):
        act(*args, **options)


def test_halves_must_be_two() -> None:
    theta = zeros()
    opt = wrap(theta, HalfBatches())
    complaint(TypeError, r"`opt.backward\({'0': ...}\)` must be a pair", opt.backward, [theta.sum()])
    for _ in range(2):
        with opt.constraint("en"):
            theta.sum().backward()
    with pytest.raises(RuntimeError, match="must be opened twice"), opt.constraint("en"):
        pass
    with opt.constraint("de"):
        theta.sum().backward()
    complaint(ValueError, r"both halves of every constraint .* Found one of \['de'\]", opt.solve)
    with opt.constraint("de"):
        theta.sum().backward()
    assert opt.solve().names == ("en", "de")


def test_a_pair_needs_half_batches() -> None:
    theta = zeros()
    opt = wrap(theta, None)
    complaint(TypeError, "must be a tensor. Found tuple", opt.backward, [(theta.sum(), theta.sum())])


def test_options_that_do_not_go_together() -> None:
    base = AdamW([zeros()])
    complaint(TypeError, r"must be None, SmoothRows\(\)", LessForgetting, base, noise="rows")
    complaint(TypeError, "SmoothRows", LessForgetting, base, noise=SmoothRows)
    for noise in EVERY.values():
        complaint(ValueError, "average on the host", LessForgetting, base, noise=noise, solver="device")
    complaint(ValueError, "metric is known", LessForgetting, base, noise=HalfBatches(), metric="base")
    for kind in (SmoothRows, SmoothGramian, HalfBatches):
        for decay in (-0.1, 1.0, float("nan")):
            complaint(ValueError, rf"`{kind.__name__}\(decay=...\)` must be in", kind, decay)


# ---------------------------------------------------------------------- nothing is lost


@every_noise
def test_a_step_that_fails_leaves_the_means_alone(noise: Noise) -> None:
    steps = rows(8, 3)
    found = []
    for spoilt in (False, True):
        theta = zeros()
        opt = wrap(theta, noise, decrease=NoIncrease(), strength=1.0)
        for t, step in enumerate(steps):
            if spoilt and t == 1:
                feed(opt, theta, torch.full_like(step, float("nan")))
                complaint(FloatingPointError, "must be finite", opt.solve)
            feed(opt, theta, step, steps[0, 0])
            if spoilt and t == 2:
                complaint(ValueError, "must name every constraint", opt.solve, {"other": 1.0})
            opt.step()
        assert theta.grad is not None
        found.append(theta.grad)
    assert torch.equal(*found)


@every_noise
@pytest.mark.parametrize("way", ["file", "copy", "pickle"])
def test_the_means_go_on_after_a_resume(noise: Noise, way: str) -> None:
    steps, theta = rows(9, 5), zeros()
    opt = wrap(theta, noise)
    for step in steps[:3]:
        feed(opt, theta, step)
        opt.step()
    if way == "file":
        file = io.BytesIO()
        torch.save(opt.state_dict(), file)
        file.seek(0)
        again = zeros()
        other = wrap(again, noise)
        other.load_state_dict(torch.load(file, weights_only=True))
    else:
        opt.zero_grad()
        other = copy.deepcopy(opt) if way == "copy" else pickle.loads(pickle.dumps(opt))
        again = other.param_groups[0]["params"][0]
    for step in steps[3:]:
        feed(opt, theta, step)
        feed(other, again, step)
        opt.step()
        other.step()
    assert theta.grad is not None
    assert again.grad is not None
    assert torch.equal(theta.grad, again.grad)
    assert opt.report is not None
    assert other.report is not None
    assert opt.report.to_dict() == other.report.to_dict()


@every_noise
def test_a_checkpoint_without_means_begins_anew(noise: Noise) -> None:
    step, other = rows(10, 2)
    theta = zeros()
    opt = wrap(theta, noise)
    feed(opt, theta, step)
    opt.step()
    opt.load_state_dict(wrap(zeros(), None).state_dict())
    feed(opt, theta, other)
    assert np.allclose(opt.solve().gramian, (other @ other.T).numpy(), rtol=1e-13)


@every_noise
def test_a_constraint_that_is_missing_keeps_its_mean(noise: Noise) -> None:
    """Steps without a constraint do not count for it; those of the others go on."""
    steps, theta = rows(11, 3), zeros()
    opt = wrap(theta, noise)
    feed(opt, theta, steps[0])
    opt.step()
    feed(opt, theta, steps[1, :2])
    opt.step()
    feed(opt, theta, steps[2])
    gramian = opt.solve().gramian
    last, others = steps[[0, 2], 2], steps[:, 0]
    if isinstance(noise, SmoothRows):
        expected = mean(list(last), 0.8).square().sum(), mean(list(others), 0.8).square().sum()
        assert np.allclose(gramian.diagonal()[[2, 0]], expected, rtol=1e-13)
    if isinstance(noise, SmoothGramian):
        pair = (steps[[0, 2], 0] * steps[[0, 2], 2]).sum(1)
        assert np.isclose(gramian[2, 2], mean(list(last.square().sum(1)), 0.8), rtol=1e-13)
        assert np.isclose(gramian[0, 2], mean(list(pair), 0.8), rtol=1e-12)
        assert np.isclose(gramian[0, 0], mean(list(others.square().sum(1)), 0.8), rtol=1e-13)
    assert np.linalg.eigvalsh(gramian).min() >= -1e-12 * gramian.max()


def test_smoothed_rows_of_half_precision_are_averaged_in_single() -> None:
    theta = zeros(4, dtype=torch.bfloat16)
    opt = wrap(theta, SmoothRows(0.99))
    for _ in range(3):
        opt.zero_grad()
        opt.backward([theta.sum()])
        opt.step()
    assert theta.grad is not None
    assert theta.grad.dtype is torch.bfloat16
    assert theta.grad.tolist() == [1.0] * 4
    saved = opt.state_dict()["less_forgetting"]["noise"]["SmoothRows"]["rows"]["0"][0]
    assert saved.dtype is torch.float32


def test_a_parameter_that_is_reached_no_more_fades_from_its_row() -> None:
    first, second = zeros(1), zeros(1)
    opt = LessForgetting(SGD([first, second], lr=0.0), anchor=None, noise=SmoothRows(0.5))
    opt.backward([(first + second).sum()])
    opt.step()
    opt.zero_grad()
    opt.backward([first.sum()])
    assert first.grad is not None
    assert second.grad is not None
    assert second.grad.item() == pytest.approx(1 / 3, rel=4 * EPS)  # weights 1 : 2


@every_noise
def test_a_step_is_enforced_on_the_rows_that_it_was_solved_for(noise: Noise) -> None:
    """Momentum breaks what d promises; the corrected step keeps ηb for the rows at hand."""
    theta, steps = zeros(), rows(12, 6)
    base = SGD([theta], lr=0.1, momentum=0.9)
    opt = LessForgetting(base, anchor=None, noise=noise, enforce="step")
    means, short = [], 0
    for step in steps:
        before = theta.detach().clone()
        feed(opt, theta, step)
        means.append(step)
        report = opt.solve()
        seen = mean(means, 0.8) if isinstance(noise, SmoothRows) else step
        assert theta.grad is not None
        brought = (seen @ theta.grad).numpy()
        opt.step()
        fallen = -(seen @ (theta.detach() - before)).numpy()
        allowed = 1e3 * EPS * float(step.square().sum(1).max())
        assert (fallen >= 0.1 * np.minimum(report.decrease, brought) - allowed).all()
        short += int((brought < report.decrease - allowed).sum())
    assert bool(short) is not isinstance(noise, SmoothRows), "means ask for more than d brings of some rows"


@pytest.mark.parametrize("noise", [SmoothGramian(0.9), HalfBatches(0.9)], ids=["gramian", "halves"])
def test_of_rows_that_have_become_short_a_step_takes_no_more_than_the_direction_brings(noise: Noise) -> None:
    """Proposition 15: the base that steps by −ηd itself is not corrected, whatever the mean of the rows asks for."""
    theta = zeros()
    opt = LessForgetting(SGD([theta], lr=0.5), anchor=None, noise=noise, enforce="step")
    for size in [1.0] * 9 + [1e-3]:
        before = theta.detach().clone()
        feed(opt, theta, size * torch.eye(1, 6, dtype=torch.float64))
        report = opt.solve()
        assert theta.grad is not None
        direction = theta.grad.clone()
        opt.step()
        moved = before - theta.detach()
        torch.testing.assert_close(moved, 0.5 * direction, rtol=0.0, atol=8 * EPS * float(before.norm() + 1))
    assert report.decrease[0] > 0.5, "of the mean"


@every_noise
def test_a_step_without_an_objective_tells_nothing_of_its_slope(noise: Noise) -> None:
    """(76): of the steps that have g₀ alone, here every second one of the same rows."""
    theta, always = zeros(), zeros()
    step, pull = rows(5, 1)[0], -rows(6, 1)[0].sum(0)
    now_and_then, ever = wrap(theta, noise, strength=1.0), wrap(always, noise, strength=1.0)
    for i in range(6):
        feed(now_and_then, theta, step, pull if i % 2 else None)
        feed(ever, always, step, pull)
        found, expected = now_and_then.solve(), ever.solve()
        if i % 2:
            np.testing.assert_allclose(found.correlation, expected.correlation, rtol=1e-12)
            np.testing.assert_allclose(found.multipliers, expected.multipliers, rtol=1e-9)


def test_a_promise_holds_the_mean_of_its_own_step() -> None:
    average, w = RowAverage(0.5), zeros()
    first = average.add("en", {w: torch.ones(6)})
    average.add("en", {w: torch.zeros(6)})
    mean = first(w)
    assert isinstance(mean, Tensor)
    assert torch.equal(mean, torch.ones(6))
