"""No direction that lowers every loss as required is nearer to the pull (math.md, Proposition 20)."""

from collections.abc import Iterator

import numpy as np
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mgrad import KeepPace, MinNorm, NoIncrease, Proportional, Status, constrained_direction
from mgrad.decrease import DecreaseRule
from mgrad.problems import Problem, suite
from mgrad.solvers import Array, rounding
from tests.asserts import slack_error
from tests.reference import quadprog_direction
from tests.strategies import Problem as Drawn
from tests.strategies import problems as jacobians_and_pulls

RULES: list[DecreaseRule] = [KeepPace(), KeepPace(0.5, 0.0), MinNorm(), NoIncrease(), Proportional(0.5)]
rules = st.sampled_from(RULES)


def competitors(J: Array, p: Array, b: Array, d: Array, rng: np.random.Generator) -> Iterator[Array]:
    """Yield directions that are meant to be better, with Jx ≥ b to the tolerances of quadprog; some are close by."""
    size = float(np.linalg.norm(d)) + float(np.linalg.norm(p))
    for length in (10.0, 1.0, 1e-3, 1e-6):  # what is nearest to another pull, all around and beside it
        x = quadprog_direction(J, p + length * size * rng.standard_normal(len(p)), b)
        if x is not None:
            yield x
            yield d + rng.uniform() * (x - d)  # on the way: the set is convex
    towards = p - d
    for kept in range(len(J) + 1):  # straight for the pull, along the borders of some requirements, as far as one may
        rows = J[rng.permutation(len(J))[:kept]]
        along = towards - np.linalg.pinv(rows) @ (rows @ towards) if kept else towards
        slope, slack = J @ along, J @ d - b
        reach = np.divide(slack, -slope, out=np.full(len(J), np.inf), where=slope < 0)
        yield d + max(0.0, min(1.0, float(reach.min(initial=np.inf)))) * along


def assert_none_nearer(J: Array, p: Array, b: Array, d: Array, multipliers: Array, x: Array) -> None:
    """(80), with what x lacks of b at the price of the multipliers: (d − p)ᵀ(x − d) = λᵀ(Jx − b) − λᵀ(Jd − b).

    And d = p + Jᵀλ to the rounding of that sum.
    """
    error = 2 * slack_error(J, p, b, multipliers) + slack_error(J, x, b, np.zeros(len(J)))
    lack = np.maximum(0.0, b - J @ x)
    rounded = rounding(len(J) + 1) * float(np.linalg.norm(np.abs(p) + np.abs(J).T @ multipliers))
    excess = float(multipliers @ (lack + error)) + rounded * float(np.linalg.norm(x - d))
    assert float((d - p) @ (x - d)) >= -excess
    assert float((x - p) @ (x - p)) >= float((d - p) @ (d - p)) + float((x - d) @ (x - d)) - 2 * excess - 1e-12 * float(
        (x - p) @ (x - p)
    )


def assert_best(J: Array, p: Array, rule: DecreaseRule, seed: int) -> None:
    """No competitor is nearer to the pull than the direction under a rule."""
    found = constrained_direction(torch.as_tensor(J), torch.as_tensor(p), decrease=rule)
    assume(found.report.status is Status.OPTIMAL)
    d, b, multipliers = found.direction.numpy(), found.report.decrease, found.report.multipliers
    for x in competitors(J, p, b, d, np.random.default_rng(seed)):
        assert_none_nearer(J, p, b, d, multipliers, x)


@given(jacobians_and_pulls(rows=(1, 5), columns=(1, 6), spreads=("unit", "common")), rules, st.integers(0, 2**32 - 1))
def test_no_admissible_direction_is_nearer_to_the_pull(drawn: Drawn, rule: DecreaseRule, seed: int) -> None:
    assert_best(drawn.J, drawn.p, rule, seed)


@given(st.sampled_from([p for p in suite() if p.size <= 40]), rules, st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_nor_on_the_synthetic_problems(problem: Problem, rule: DecreaseRule, seed: int) -> None:
    """With the pull of a model that has moved."""
    theta = problem.start + torch.as_tensor(np.random.default_rng(seed).standard_normal(problem.size))
    assert_best(problem.jacobian(theta).numpy(), (theta - problem.start).numpy(), rule, seed)
