"""What every instance of the stress run has to satisfy.

In: an `Instance` and a solver. Out: `Outcome`. May import: instances, references, mgrad.solvers.
"""

import inspect
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.solvers.instances import Instance
from benchmarks.solvers.references import answers, ray_or_room
from mgrad.solvers import Array, DualSolution, Status, certify

Solver = Callable[..., DualSolution]

GAP = 1e-12  # relative duality gap and dual residual of every answer that is called optimal
# A violation v of a row of length 1 is worth v²/2 of the objective.
VIOLATION = math.sqrt(2 * GAP)
WORSE = 1e-6  # of M, from which on a reference is counted as short of the optimum
SOLVED = {Status.OPTIMAL, Status.BOUND_ACTIVE}
SHARES = 5  # every so many instances get each of the checks that take longer


@dataclass
class Outcome:
    """What an instance brought.

    Attributes:
        index: of the instance.
        corners: of it.
        size: m.
        status: name of the solver's status; "raised" if there is no answer.
        gap: its duality gap, recomputed.
        primal: its primal residual, recomputed, where the status is OPTIMAL.
        seconds: that the solve took.
        violations: promises that are broken, in words. There must be none.
        remarks: what is allowed and worth counting.
        references: what each reference came to: "agrees", "short of the optimum", or how it failed.
    """

    index: int
    corners: dict[str, str]
    size: int
    status: str = "raised"
    gap: float = 0.0
    primal: float = 0.0
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    references: dict[str, str] = field(default_factory=dict)


def examine(instance: Instance, solver: Solver) -> Outcome:
    """Solve an instance and check what is promised of the answer."""
    outcome = Outcome(instance.index, instance.corners, instance.size)
    start = perf_counter()
    solution = _attempt(solver, instance, outcome, "")
    outcome.seconds = perf_counter() - start
    if solution is None:
        return outcome
    outcome.status = solution.status.name
    _check_answer(instance, solution, outcome, "")
    if solution.status in SOLVED:
        found = certify(**instance.problem, multipliers=solution.multipliers, linear_error=instance.linear_error)
        outcome.gap = found.duality_gap
        outcome.primal = found.primal_residual if solution.status is Status.OPTIMAL else 0.0
    else:
        outcome.remarks.append(solution.status.name)
    if outcome.violations:
        return outcome
    share = instance.index % SHARES
    if solution.status is Status.UNBOUNDED and share < 2:
        _check_unbounded(instance, outcome)
    if solution.status in SOLVED:
        longer = (_check_references, _check_frank_wolfe, _check_order, _check_scales, _check_start)[share]
        longer(instance, solution, solver, outcome)
    return outcome


def accepts(solver: Solver, option: str) -> bool:
    """Tell whether a solver has an option."""
    parameters = inspect.signature(solver).parameters
    return option in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


# ---------------------------------------------------------------- of every answer


def _attempt(solver: Solver, instance: Instance, outcome: Outcome, what: str, **options: Any) -> DualSolution | None:
    """Solve; an exception or a warning is a violation."""
    stated = {**instance.problem, "linear_error": instance.linear_error}
    stated |= options
    gramian, linear = stated.pop("gramian"), stated.pop("linear")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return solver(gramian, linear, **stated)
    except Exception as error:  # whatever it is, it is a violation
        outcome.violations.append(f"{what}raised {type(error).__name__}: {error}")
        return None


def _check_answer(
    instance: Instance, solution: DualSolution, outcome: Outcome, what: str, gap: float = GAP, **other: Any
) -> None:
    """Check what needs nothing but the certificate; `other` replaces parts of the problem."""
    x, broken = solution.multipliers, outcome.violations
    if x.shape != (instance.size,) or not np.isfinite(x).all():
        broken.append(f"{what}multipliers of shape {list(x.shape)} that are not all finite")
        return
    stated = {**instance.problem, "linear_error": instance.linear_error, **other}
    found = certify(**stated, multipliers=x)
    said = (solution.duality_gap, solution.primal_residual, solution.dual_residual, solution.complementarity)
    if said != tuple(found):
        broken.append(f"{what}the certificate says {found}, the solution {said}")
    if found.dual_residual > GAP:
        broken.append(f"{what}outside of the domain: dual residual {found.dual_residual:.1e}")
    if solution.status in SOLVED and not found.duality_gap <= gap:
        broken.append(f"{what}{solution.status.name} with duality gap {found.duality_gap:.1e}")
    unmet = found.primal_residual > max(VIOLATION, math.sqrt(2 * gap)) and not _within_error(instance, x)
    if solution.status is Status.OPTIMAL and unmet:
        broken.append(f"{what}OPTIMAL with primal residual {found.primal_residual:.1e}")
    if solution.status is Status.BOUND_ACTIVE and {**instance.problem, **other}["bound"] is None:
        broken.append(f"{what}BOUND_ACTIVE without a bound")
    if solution.status is Status.UNBOUNDED:
        # A bound leaves the multiplier of a zero row free.
        unheld = (instance.lengths == 0) & (instance.linear < 0)
        if instance.domain == "simplex" or (instance.bound is not None and not unheld.any()):
            broken.append(f"{what}UNBOUNDED on a bounded domain")
        elif instance.feasible and instance.linear_error is not None:
            broken.append(f"{what}UNBOUNDED, though q asks nothing impossible but for its error")


def _within_error(instance: Instance, x: Array) -> bool:
    """Tell whether every requirement is met but for the error of q."""
    error = 0.0 if instance.linear_error is None else instance.linear_error
    return bool((instance.gramian @ x + instance.linear + error >= 0).all())


def _check_unbounded(instance: Instance, outcome: Outcome) -> None:
    """Check by linear programmes that an unbounded problem is one."""
    found = ray_or_room(instance)
    if found == "room":
        outcome.violations.append("UNBOUNDED, but a direction meets every requirement with something to spare")
    outcome.remarks.append(f"unbounded: {found}")


# ---------------------------------------------------------------- of a share of the answers


def _check_references(instance: Instance, solution: DualSolution, _: Solver, outcome: Outcome) -> None:
    """No point of the domain that another solver finds is better, to the rounding of the objective."""
    x = solution.multipliers
    ours, size = instance.objective(x), instance.magnitude(x)
    for name, y in answers(instance):
        if isinstance(y, str):
            outcome.references[name] = y
            continue
        above, both = instance.objective(y) - ours, size + instance.magnitude(y)
        outcome.references[name] = "short of the optimum" if above > WORSE * both else "agrees"
        if above < -GAP * both:
            outcome.violations.append(f"{name} is better by {-above / both:.1e} of M")


def _check_frank_wolfe(instance: Instance, _: DualSolution, solver: Solver, outcome: Outcome) -> None:
    """Frank-Wolfe reaches the gap that is asked for, or says that its iterations did not suffice."""
    if not accepts(solver, "method"):
        return
    rng = np.random.default_rng(instance.index)
    method, decades = ("frank_wolfe", 6) if rng.random() < 0.75 else ("plain_frank_wolfe", 2)
    tolerance = 10.0 ** -int(rng.integers(2, decades + 1))
    bound = instance.bound
    if instance.domain == "nonnegative" and bound is None:
        bound = 10 * instance.natural_length
    found = _attempt(solver, instance, outcome, f"{method}: ", method=method, tolerance=tolerance, bound=bound)
    if found is not None:
        _check_answer(instance, found, outcome, f"{method} to {tolerance:.0e}: ", gap=tolerance, bound=bound)
        outcome.remarks.append(f"{method}: {found.status.name}")


def _check_order(instance: Instance, solution: DualSolution, solver: Solver, outcome: Outcome) -> None:
    """The order of the rows changes the objective by rounding at most."""
    order = np.random.default_rng(instance.index).permutation(instance.size)
    error = None if instance.linear_error is None else instance.linear_error[order]
    found = _attempt(
        solver,
        instance,
        outcome,
        "in another order: ",
        gramian=instance.gramian[np.ix_(order, order)],
        linear=instance.linear[order],
        linear_error=error,
    )
    if found is None:
        return
    if found.status is not solution.status:
        outcome.remarks.append(f"in another order: {found.status.name}")
    x = np.empty(instance.size)
    x[order] = found.multipliers
    _check_same(instance, solution, found, x, outcome, "in another order")


def _check_scales(instance: Instance, solution: DualSolution, solver: Solver, outcome: Outcome) -> None:
    """Scaling all rows by a power of two, and on x ≥ 0 each by its own, changes no digit."""
    exponents = np.random.default_rng(instance.index).integers(-20, 21, instance.size)
    if instance.domain == "simplex" or instance.index % 2:
        exponents[:] = exponents[0]
    scales = 2.0 ** exponents.astype(np.float64)
    common = bool((exponents == exponents[0]).all())
    options: dict[str, Any] = {"gramian": instance.gramian * np.outer(scales, scales)}
    if common and instance.domain == "nonnegative" and instance.bound is not None:
        options["bound"] = instance.bound * scales[0]
    factor = scales * scales[0] if common else scales
    options["linear"] = instance.linear * factor
    options["linear_error"] = None if instance.linear_error is None else instance.linear_error * factor
    found = _attempt(solver, instance, outcome, "scaled: ", **options)
    if found is None:
        return
    x = found.multipliers if common else found.multipliers * scales
    if found.status is not solution.status or not np.array_equal(x, solution.multipliers):
        outcome.remarks.append("scaled: digits differ")
    _check_same(instance, solution, found, x, outcome, "scaled")


def _check_start(instance: Instance, solution: DualSolution, solver: Solver, outcome: Outcome) -> None:
    """From any start the answer is as good."""
    if not accepts(solver, "start"):
        return
    rng = np.random.default_rng(instance.index)
    x = solution.multipliers
    near = np.maximum(x * rng.uniform(0.5, 1.5, len(x)), 0.0)
    start = (near, near + rng.permutation(near), np.where(rng.random(len(x)) < 0.5, near, 0.0))[rng.integers(3)]
    found = _attempt(solver, instance, outcome, "warm: ", start=start)
    if found is None:
        return
    _check_answer(instance, found, outcome, "warm: ")
    if found.status is not solution.status:
        outcome.remarks.append(f"warm: {found.status.name}")
    _check_same(instance, solution, found, found.multipliers, outcome, "warm")


def _check_same(
    instance: Instance, solution: DualSolution, other: DualSolution, x: Array, outcome: Outcome, what: str
) -> None:
    """Check that two answers that are both called optimal have the same objective, to its rounding."""
    if other.status not in SOLVED:
        return
    y = solution.multipliers
    apart = abs(instance.objective(x) - instance.objective(y))
    both = instance.magnitude(x) + instance.magnitude(y)
    if not apart <= GAP * both:
        outcome.violations.append(f"{what}: the objective differs by {apart / both if both else apart:.1e} of M")
