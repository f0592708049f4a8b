"""Descents on the synthetic problems, step by step, by the mathematics alone: θ ← θ − ηd."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from torch import Tensor

from mgrad import KeepPace, Report, constrained_direction
from mgrad.decrease import DecreaseRule
from mgrad.direction import Scale
from mgrad.problems import Problem
from mgrad.solvers import Array

KEEP_PACE = KeepPace()


class Step(NamedTuple):
    """A step θ → θ − ηd, in float64, and the report of d."""

    theta: Tensor
    end: Tensor
    rate: float
    direction: Tensor
    report: Report
    losses: Array
    after: Array


def descend(
    problem: Problem,
    start: Tensor,
    rates: Iterable[float | Callable[[Tensor, Report], float]],
    *,
    anchor: Tensor | None = None,
    decrease: DecreaseRule = KEEP_PACE,
    strength: float = 0.0,
    scale: Scale = "relative",
    limit: float = 1e4,
) -> Iterator[Step]:
    """Take steps of the given sizes, or of sizes that depend on θ and report, anchored at the start or elsewhere."""
    theta, anchor = start, start if anchor is None else anchor
    losses = problem.losses(theta)
    for rate in rates:
        d, report = constrained_direction(
            problem.jacobian(theta),
            theta - anchor,
            losses=losses,
            decrease=decrease,
            strength=strength,
            scale=scale,
            limit=limit,
        )
        size = rate(theta, report) if callable(rate) else rate
        end = theta - size * d
        after = problem.losses(end)
        yield Step(theta, end, size, d, report, losses.numpy(), after.numpy())
        theta, losses = end, after
