"""Who is timed: mgrad's solvers and those that a user could pick instead, each on the problem that it solves.

In: a `Problem`. Out: `Prepared`: the bare call, and how far above the optimum its answer is. May import: problems,
numpy, scipy, mgrad.solvers; daqp, quadprog, qpsolvers, torch and torchjd where they are installed.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import nnls

from benchmarks.solvers.problems import Problem
from mgrad.solvers import Array, DualSolution, Status, solve

INFINITE = 1e30  # what DAQP takes for no bound
EQUALITY = 5  # DAQP's mark of an equality row
OURS = "mgrad"
BARE = "DAQP"  # the reference of the ratios


class Failed(Exception):  # noqa: N818 - an outcome, not an error of this program
    """A solver said that it did not solve the problem, or answered something that is no answer."""


class Prepared(NamedTuple):
    """A problem in the form that a solver takes.

    Attributes:
        call: the bare call, nothing else; this is timed.
        excess: from its result to the excess over the optimum; raises `Failed` where there is none.
    """

    call: Callable[[], Any]
    excess: Callable[[Any], float]


@dataclass(frozen=True)
class Contender:
    """A solver that is timed.

    Attributes:
        name: of it.
        prepare: from a problem, and the same a step before, to the call.
        problems: the names of those that it solves.
        packages: that it needs.
        options: of `mgrad.solvers.solve` that it needs.
    """

    name: str
    prepare: Callable[[Problem, Problem], Prepared]
    problems: tuple[str, ...] = ("cone", "direction", "min-norm")
    packages: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @property
    def missing(self) -> str | None:
        """What it needs and is not there, in a line; None if nothing."""
        return missing(self.name, self.packages, self.options)


def missing(name: str, packages: Sequence[str] = (), options: Sequence[str] = ()) -> str | None:
    """Say in a line what of these packages and options of `mgrad.solvers.solve` is not there; None if nothing."""
    absent = [package for package in packages if find_spec(package) is None]
    if absent:
        return f"{name} is left out: {', '.join(absent)} is not installed (pip install 'mgrad[bench]')"
    if not set(options) <= set(inspect.signature(solve).parameters):
        return f"{name} is left out: this mgrad has no solve({', '.join(f'{option}=...' for option in options)})"
    return None


# ---------------------------------------------------------------- mgrad


def _ours(problem: Problem, **options: Any) -> Prepared:
    """Return the whole of what mgrad does: checks, multipliers, certificate."""

    def excess(result: DualSolution) -> float:
        if result.status not in {Status.OPTIMAL, Status.BOUND_ACTIVE}:
            raise Failed(result.status.value)
        return problem.excess(result.multipliers)

    return Prepared(lambda: solve(problem.gramian, problem.linear, domain=problem.domain, **options), excess)


def _cold(problem: Problem, _: Problem) -> Prepared:
    return _ours(problem)


def _warm(problem: Problem, before: Problem) -> Prepared:
    return _ours(problem, start=before.optimum.multipliers)


def _frank_wolfe(problem: Problem, _: Problem) -> Prepared:
    bound = {} if problem.bound is None else {"bound": problem.bound}
    return _ours(problem, method="frank_wolfe", tolerance=1e-6, **bound)


# ---------------------------------------------------------------- general QP solvers


def _daqp(problem: Problem, _: Problem) -> Prepared:
    import daqp

    m = len(problem.linear)
    rows = 1 if problem.domain == "simplex" else 0
    A = np.ones((rows, m))
    upper = np.concatenate([np.full(m, INFINITE), np.ones(rows)])
    lower = np.concatenate([np.zeros(m), np.ones(rows)])
    sense = np.concatenate([np.zeros(m), np.full(rows, EQUALITY)]).astype(np.int32)

    def excess(result: Any) -> float:
        if result[2] != 1:
            raise Failed(f"exit flag {result[2]}")
        return problem.excess(result[0])

    return Prepared(lambda: daqp.solve(problem.gramian, problem.linear, A, upper, lower, sense), excess)


def _quadprog(problem: Problem, _: Problem) -> Prepared:
    import quadprog

    m = len(problem.linear)
    rows = 1 if problem.domain == "simplex" else 0
    C = np.hstack([np.ones((m, rows)), np.eye(m)])
    b = np.concatenate([np.ones(rows), np.zeros(m)])
    return Prepared(
        lambda: quadprog.solve_qp(problem.gramian, -problem.linear, C, b, rows),
        lambda result: problem.excess(result[0]),
    )


def _qpsolvers(name: str) -> Callable[[Problem, Problem], Prepared]:
    """Return how qpsolvers calls one of its solvers."""

    def prepare(problem: Problem, _: Problem) -> Prepared:
        from qpsolvers import solve_qp

        zeros = np.zeros(len(problem.linear))
        options: dict[str, Any] = {"lb": zeros, "solver": name}
        if problem.domain == "simplex":
            options |= {"A": np.ones((1, len(zeros))), "b": np.ones(1)}

        def excess(result: Array | None) -> float:
            if result is None:
                raise Failed("no solution")
            return problem.excess(result)

        return Prepared(lambda: solve_qp(problem.gramian, problem.linear, **options), excess)

    return prepare


def _nnls(problem: Problem, _: Problem) -> Prepared:
    """Return Cholesky G = LLᵀ and min ‖Lᵀx + L⁻¹q‖ over x ≥ 0.

    On the simplex with q = 0 it is the same with G + s11ᵀ and q = −s·1, any s > 0, whose answer is a multiple of a.
    """
    G, q = problem.gramian, problem.linear
    level = float(np.diagonal(G).mean()) if problem.domain == "simplex" else 0.0

    def call() -> Array:
        factor = cholesky(G + level if level else G, lower=True)
        return np.asarray(nnls(factor.T, solve_triangular(factor, level - q, lower=True))[0])

    return Prepared(call, problem.excess)


# ---------------------------------------------------------------- TorchJD, from a Gramian in float64 to its weights


def _dual_proj(problem: Problem, _: Problem) -> Prepared:
    import torch
    from torchjd.aggregation import DualProjWeighting

    weighting, G = DualProjWeighting(), torch.from_numpy(problem.gramian)
    # Its u are 1/m each, and its answer is u + x/m.
    return Prepared(lambda: weighting(G), lambda result: problem.excess(_array(result) * len(problem.linear) - 1))


def _upgrad(problem: Problem, _: Problem) -> Prepared:
    """Return m projections, one of each row; the excess is that of all of them together."""
    import torch
    from torchjd.aggregation import UPGradWeighting
    from torchjd.linalg import QuadprogProjector

    weighting, G = UPGradWeighting(), torch.from_numpy(problem.gramian)

    def excess(_: Any) -> float:
        # The weighting returns a sum; its projector, called as it calls it, returns the parts.
        parts = QuadprogProjector()(torch.eye(len(G), dtype=torch.float64), G).numpy()
        projections = [
            Problem(problem.gramian, row, "nonnegative", None, problem.rows) for row in np.asarray(problem.gramian)
        ]
        parts = parts - np.eye(len(G))
        above = sum(p.excess(part) * p.scale for p, part in zip(projections, parts, strict=True))
        return above / sum(p.scale for p in projections)

    return Prepared(lambda: weighting(G), excess)


def _mgda(problem: Problem, _: Problem) -> Prepared:
    import torch
    from torchjd.aggregation import MGDAWeighting

    weighting, G = MGDAWeighting(), torch.from_numpy(problem.gramian)
    return Prepared(lambda: weighting(G), lambda result: problem.excess(_array(result)))


def _pcd(problem: Problem, _: Problem) -> Prepared:
    """Return PCD in its own form: the pull first, then the rows, all at length 1; every loss is to fall by 0.02."""
    import torch
    from torchjd.aggregation import PCDWeighting

    assert problem.pull is not None
    weighting = PCDWeighting()
    everything = np.vstack([problem.pull, problem.rows])
    G = torch.from_numpy(everything @ everything.T)
    lengths = np.sqrt(np.diagonal(G.numpy()) + weighting.eps)
    units = everything / lengths[:, None]
    C = units @ units.T
    own = Problem(
        C[1:, 1:], C[1:, 0] - float(weighting.tau) * np.diagonal(C)[1:], "nonnegative", None, units[1:], units[0]
    )

    def excess(result: Any) -> float:
        shares = _array(result) * lengths  # of the unit rows, up to a common factor that makes the first 1
        if not shares[0] > 0:
            raise Failed("no direction")
        return own.excess(shares[1:] / shares[0])

    return Prepared(lambda: weighting(G), excess)


def _array(tensor: Any) -> Array:
    """Return the weights of TorchJD as an array."""
    return np.asarray(tensor.numpy(), dtype=np.float64)


CONE, SIMPLEX = ("cone",), ("min-norm",)
CONTENDERS = [
    Contender(OURS, _cold),
    Contender(f"{OURS}, warm", _warm, options=("start",)),
    Contender(f"{OURS} frank_wolfe", _frank_wolfe, options=("method", "tolerance")),
    Contender(BARE, _daqp, packages=("daqp",)),
    Contender("quadprog", _quadprog, packages=("quadprog",)),
    Contender("qpsolvers: DAQP", _qpsolvers("daqp"), packages=("qpsolvers", "daqp")),
    Contender("qpsolvers: quadprog", _qpsolvers("quadprog"), packages=("qpsolvers", "quadprog")),
    Contender("Cholesky, nnls", _nnls),
    Contender("TorchJD UPGrad", _upgrad, CONE, ("torchjd", "qpsolvers", "quadprog")),
    Contender("TorchJD DualProj", _dual_proj, CONE, ("torchjd", "qpsolvers", "quadprog")),
    Contender("TorchJD PCD", _pcd, ("direction",), ("torchjd",)),
    Contender("TorchJD MGDA", _mgda, SIMPLEX, ("torchjd",)),
]
