"""Many small quadratic programmes at once, on the device where their Gramians are, without ever waiting for it.

In: stacks of Gramians and linear terms as tensors. Out: `BatchSolution`, with the certificate of `solvers.certify`.
May import: solvers, for the names of the outcomes and the size of rounding.

Nothing here may ask the device for a value: no `if` on a tensor, no `.item()`, no boolean index, no number as a
branch of torch.where (it would be copied there). What is not wanted is computed all the same and masked out.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from mgrad.solvers import Domain, Status, rounding

# Fixed work. For the shortest vector of 64 rows of every degenerate kind 18 steps leave a tenth INACCURATE, 32 a
# hundredth, 40 hardly fewer (`python -m benchmarks.solvers --batch`); for rows that are far from dependent 10 do.
INTERIOR_STEPS = 32
ROUNDS = 3
_REACH = 0.995  # of the way to the border that an interior step takes

_CODES = {status: code for code, status in enumerate(Status)}


class BatchSolution(NamedTuple):
    """The answers of `solve_batch` for a stack of problems [...]: float64 tensors on the device of the Gramians.

    Attributes:
        multipliers: x [..., m] ≥ 0.
        status: [...] of integers, the places in `tuple(mgrad.Status)`.
        duality_gap: [...], relative, see `mgrad.solvers.certify`; likewise the next three.
        primal_residual: [...], of Gx + q ≥ 0.
        dual_residual: [...], of the domain.
        complementarity: [...].
    """

    multipliers: Tensor
    status: Tensor
    duality_gap: Tensor
    primal_residual: Tensor
    dual_residual: Tensor
    complementarity: Tensor

    @property
    def iterations(self) -> int:
        """The interior steps and the rounds of exchanges, the same for every problem."""
        return INTERIOR_STEPS + ROUNDS


class _Scaled(NamedTuple):
    """Minimise ½yᵀCy + qᵀy over y ≥ 0, vᵀy = level (math.md, 30): C [..., k, k], v ≥ 0 and the others [..., k].

    The first m variables, times `unit` [..., m], are those of the problem that was asked (on the simplex, up to their
    sum).
    """

    quadratic: Tensor
    linear: Tensor
    error: Tensor
    normal: Tensor
    level: Tensor
    unit: Tensor


@torch.no_grad()
def solve_batch(
    gramian: Tensor,
    linear: Tensor | None = None,
    *,
    domain: Domain = "nonnegative",
    bound: Tensor | float | None = None,
    linear_error: Tensor | None = None,
) -> BatchSolution:
    """Minimise ½xᵀGx + qᵀx over x ≥ 0 or over the simplex, for every problem of a stack (math.md, 15, 30-34).

    The problems, answers and certificate of `mgrad.solvers.solve`, which takes one problem at a time, on the host, and
    works until it is exact. Here the work is fixed: no value travels to the host and no shape depends on one. What this
    much work does not solve to rounding is INACCURATE by its own certificate.

    Args:
        gramian: G [..., m, m], symmetric positive semi-definite (not checked), of any scale and floating-point dtype.
            Only its lower triangle counts.
        linear: q [..., m], one value for each row of each Gramian; None stands for 0.
        domain: "nonnegative" (x ≥ 0) or "simplex" (x ≥ 0, Σ xᵢ = 1).
        bound: upper bound on Σ xᵢ√Gᵢᵢ, ≥ 0 (not checked), for the nonnegative domain alone: a number, or one for each
            problem [...].
        linear_error: [..., m] ≥ 0 (not checked), how far q may be off, where it is the difference of larger numbers;
            None for the rounding of its own digits.

    Returns:
        The answers, in float64 on the Gramian's device. OPTIMAL and BOUND_ACTIVE promise that duality gap and
        complementarity are at most 4m²·2⁻⁵², and that x is as close to its domain. A problem that holds NaN,
        infinity or a negative diagonal gets NaN multipliers and INACCURATE; its neighbours are not touched by it.
        Gradients are not tracked.

    Raises:
        TypeError: if an argument is no real floating-point tensor.
        ValueError: for a wrong shape, an unknown domain or a bound on the simplex.

    Cost: 35 Cholesky factorisations of order m + 1 for each problem, in some 3300 operations for the whole stack,
        however large. On a CPU the host's solver is the faster one.
    Source: Mehrotra 1992, for the predictor and corrector; Júdice & Pires 1994, for the exchange of blocks.

    Example:
        >>> found = solve_batch(torch.tensor([[[1.0, 0.0], [0.0, 3.0]], [[4.0, -2.0], [-2.0, 1.0]]]), domain="simplex")
        >>> found.multipliers.round(decimals=9).tolist()
        [[0.75, 0.25], [0.333333333, 0.666666667]]
        >>> [list(Status)[code].name for code in found.status]
        ['OPTIMAL', 'OPTIMAL']
    """
    G, q, error, limit = _check(gramian, linear, linear_error, domain, bound)
    simplex, m = domain == "simplex", q.shape[-1]
    norms = G.diagonal(dim1=-2, dim2=-1).sqrt()
    problem = _on_simplex(G, q, error, norms) if simplex else _with_slack(G, q, error, norms, limit)
    y, z, path = _interior(problem)
    x = _candidates(problem, y, z)[..., :m] * problem.unit
    if simplex:
        x = x / x.sum(-1, keepdim=True)
        figures, excess = _certify_on_simplex(G, q, x)
    else:
        figures, _ = _certify(G, q, error, norms, x, limit)
        # What is required of a zero row cannot be had, and would hide which candidate is the best for the others.
        _, excess = _certify(G, q.masked_fill(norms == 0, 0.0), error, norms, x, limit)

    excess = excess.masked_fill(excess.isnan(), torch.inf)  # a candidate that overflowed
    best = excess.argmin(0, keepdim=True)
    x, figures = (values.take_along_dim(best[..., None], 0)[0] for values in (x, figures))
    accurate = excess.take_along_dim(best, 0)[0] <= m * rounding(m)
    status = torch.full_like(best[0], _CODES[Status.INACCURATE]).masked_fill_(accurate, _CODES[Status.OPTIMAL])
    if not simplex:
        slack, size = _slack(G, q, x)
        short = ((slack < -rounding(m) * size - error) & (norms > 0)).any(-1)
        binding = _binds(x, norms, limit)[..., 0] & short & accurate
        endless = limit.isinf()[..., 0] & _falls_for_ever(problem, path)
        impossible = ((norms == 0) & (q < -error)).any(-1)
        status.masked_fill_(binding, _CODES[Status.BOUND_ACTIVE])
        status.masked_fill_(endless | impossible, _CODES[Status.UNBOUNDED])
    broken = ~(G.isfinite().all(-1) & q.isfinite() & norms.isfinite()).all(-1)
    status.masked_fill_(broken, _CODES[Status.INACCURATE])
    x, figures = (values.masked_fill(broken[..., None], torch.nan) for values in (x, figures))
    return BatchSolution(x, status, *figures.unbind(-1))


def _check(
    gramian: Tensor, linear: Tensor | None, linear_error: Tensor | None, domain: str, bound: Tensor | float | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Check what can be checked without waiting; return G, q, its error [..., m] and the bound [..., 1] in float64."""
    for label, value in (("gramian", gramian), ("linear", linear), ("linear_error", linear_error)):
        if value is not None and not (isinstance(value, Tensor) and value.is_floating_point()):
            found = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(
                f"`solve_batch({label})` must be a real floating-point tensor. Found {found}. "
                "Use mgrad.solvers.solve for arrays."
            )
    if gramian.ndim < 2 or gramian.shape[-1] != gramian.shape[-2] or not gramian.shape[-1]:
        raise ValueError(
            f"`solve_batch(gramian)` must be a stack of square matrices [..., m, m] with m ≥ 1. Found shape "
            f"{list(gramian.shape)}. Pass J @ J.mT of the gradient rows J."
        )
    for label, value in (("linear", linear), ("linear_error", linear_error)):
        if value is not None and value.shape != gramian.shape[:-1]:
            raise ValueError(
                f"`solve_batch({label})` must have one value for each row of each Gramian, "
                f"{list(gramian.shape[:-1])}. Found shape {list(value.shape)}. Expand it to that shape."
            )
    if domain not in {"nonnegative", "simplex"}:
        raise ValueError(
            f'`solve_batch(domain=...)` must be "nonnegative" or "simplex". Found {domain!r}. Choose one of the two.'
        )
    if domain == "simplex" and bound is not None:
        raise ValueError(
            "`solve_batch(bound=...)` must be None on the simplex, whose sum is 1. Found one. Leave it out, or use "
            'domain="nonnegative".'
        )
    if isinstance(bound, Tensor) and bound.shape not in {torch.Size(), gramian.shape[:-2]}:
        raise ValueError(
            f"`solve_batch(bound=...)` must be one number, or one for each problem, {list(gramian.shape[:-2])}. Found "
            f"shape {list(bound.shape)}. Reshape it."
        )
    G = gramian.double().tril()
    G = G + G.tril(-1).mT  # as in `solve`, the lower triangle counts
    q, error = (torch.zeros_like(G[..., 0]) if v is None else v.double() for v in (linear, linear_error))
    if isinstance(bound, Tensor):
        return G, q, error, bound.double().expand(G.shape[:-2])[..., None]
    return G, q, error, torch.full_like(q[..., :1], torch.inf if bound is None else bound)


def _on_simplex(G: Tensor, q: Tensor, error: Tensor, norms: Tensor) -> _Scaled:
    """Scale the simplex to a Gramian of unit diagonal (math.md, 17) and a linear term of at most 1."""
    shortest = norms.masked_fill(norms == 0, torch.inf).amin(-1, keepdim=True)
    shortest = shortest.masked_fill(shortest.isinf(), 1.0)
    lengths = torch.where(norms > 0, norms, shortest)  # the variable of a zero row has no scale of its own
    normal = shortest / lengths
    C, q, error = G / lengths[..., None] / lengths[..., None, :], q / lengths / shortest, error / lengths / shortest
    size = q.abs().amax(-1, keepdim=True).clamp(min=1.0)
    return _Scaled(C, q / size, error / size, normal, 1 / size, normal)


def _with_slack(G: Tensor, q: Tensor, error: Tensor, norms: Tensor, limit: Tensor) -> _Scaled:
    """Scale x ≥ 0 with its bound, which gets a slack variable: a zero row more. A bound of infinity has normals 0."""
    zero = norms == 0
    lengths = norms + zero
    q, error = (values.masked_fill(zero, 0.0) / lengths for values in (q, error))
    size = q.abs().amax(-1, keepdim=True)
    size = size + (size == 0)
    reach = limit.masked_fill(limit == 0, 1.0)  # at a bound of 0 `unit` leaves nothing of the multipliers
    length = torch.minimum(size, reach)
    # A zero row stands for itself: ½y² + y, whose minimiser is 0.
    C = G / lengths[..., None] / lengths[..., None, :] * (length / size)[..., None] + torch.diag_embed(zero.double())
    normal = (length / reach).expand_as(q)
    unit = (length / lengths).masked_fill(zero | (limit == 0), 0.0)
    return _Scaled(
        pad(C, (0, 1, 0, 1)),
        pad((q / size).masked_fill(zero, 1.0), (0, 1)),
        pad(error / size, (0, 1)),
        pad(normal, (0, 1), value=1.0),
        torch.ones_like(size),
        unit,
    )


def _interior(problem: _Scaled) -> tuple[Tensor, Tensor, Tensor]:
    """Take the interior steps (math.md, 31-32); return y and slacks z [..., k], > 0, and every y [..., k, s]."""
    # q as flat as its error allows: what falls within that error alone is to stay at 0.
    C, q, v = problem.quadratic, problem.linear + problem.error, problem.normal
    k = q.shape[-1]
    y = _on_level(problem, 1 / v.clamp(min=problem.level))
    slack = _times(C, y) + q
    kappa = _dot(y, slack) / problem.level  # the mean of the slacks in units of v
    size = (y * slack.abs()).mean(-1, keepdim=True).clamp(min=1e-3)  # of the products yᵢzᵢ at the start
    z = torch.maximum(slack - kappa * v, size / y)
    system = C + _outer(v)
    path = []

    for _ in range(INTERIOR_STEPS):
        ratio = z / y
        matrix = system.clone()
        matrix.diagonal(dim1=-2, dim2=-1).add_(ratio + rounding(k))
        factor = torch.linalg.cholesky_ex(matrix)[0]
        descent = kappa * v - q - _times(C, y)  # what the step has to bring, apart from the centring
        missing = problem.level - _dot(v, y)
        part, along = torch.cholesky_solve(torch.stack([descent, v], -1), factor).unbind(-1)
        steepness = _dot(v, along)

        dy = part + (missing - _dot(v, part)) / steepness * along
        dz = -z - ratio * dy
        share = _share(y, z, dy, dz, 1.0)
        product = _dot(y, z)
        centring = (_dot(y + share * dy, z + share * dz) / product) ** 3 * product / k
        centre = (centring - dy * dz) / y

        part = torch.cholesky_solve((descent + centre)[..., None], factor)[..., 0]
        shift = (missing - _dot(v, part)) / steepness
        dy = part + shift * along
        dz = centre - z - ratio * dy
        share = _share(y, z, dy, dz, _REACH)
        y, z, kappa = y + share * dy, z + share * dz, kappa + share * (shift - missing)
        path.append(y)
    return y, z, torch.stack(path, -1)


def _on_level(problem: _Scaled, y: Tensor) -> Tensor:
    """Return the multiple of y with vᵀy = level."""
    return y * (problem.level / _dot(problem.normal, y))


def _share(y: Tensor, z: Tensor, dy: Tensor, dz: Tensor, reach: float) -> Tensor:
    """Return the share ≤ 1 [..., 1] of a step that goes at most `reach` of the way to where an entry is 0."""
    fall = -torch.minimum(dy / y, dz / z).amin(-1, keepdim=True)
    return reach / fall.clamp(min=reach)


def _candidates(problem: _Scaled, y: Tensor, z: Tensor) -> Tensor:
    """Return answers [3 + ROUNDS, ..., k] of which one is mostly exact, each with y ≥ 0, vᵀy = level.

    The best vertex (exact where all but one variable vanish); the interior answer without the variables that its
    slacks exceed; and the minimisers on the free variables, over rounds that exchange what is infeasible (math.md, 33).
    """
    C, q, v = problem.quadratic, problem.linear, problem.normal
    k = q.shape[-1]
    free = y > z
    y = y * free
    found = [_best_vertex(problem), _on_level(problem, y)]
    for _ in range(ROUNDS):
        target = _minimiser(problem, y, free)
        y = _on_level(problem, target.clamp(min=0.0))
        found.append(y)
        slack, size = _slack(C, q, y)
        error, share = rounding(k) * size + problem.error, y / problem.level
        falling = slack - _dot(share, slack) * v < -error - _dot(share, error) * v
        free = torch.where(free, target > 0, falling)
    return torch.stack(found)


def _best_vertex(problem: _Scaled) -> Tensor:
    """Return the vertex with the least objective [..., k]; a variable with normal 0 has none."""
    C, q, v = problem.quadratic, problem.linear, problem.normal
    values = (0.5 * C.diagonal(dim1=-2, dim2=-1) * problem.level / v + q) / v
    place = values.masked_fill(v == 0, torch.inf).argmin(-1, keepdim=True)
    return _on_level(problem, torch.zeros_like(v).scatter_(-1, place, 1.0))


def _minimiser(problem: _Scaled, y: Tensor, free: Tensor) -> Tensor:
    """Minimise over the free variables, of either sign; by two steps from y, so that a null direction is left alone."""
    C, q, v = problem.quadratic, problem.linear, problem.normal
    kept = free.double()
    largest = (v * kept).amax(-1, keepdim=True)
    largest = largest + (largest == 0)
    normal = v * kept / largest
    matrix = C * _outer(kept) + _outer(normal)
    matrix.diagonal(dim1=-2, dim2=-1).add_(1 - kept + rounding(q.shape[-1]))
    factor = torch.linalg.cholesky_ex(matrix)[0]
    along = torch.cholesky_solve(normal[..., None], factor)[..., 0]
    steepness = _dot(normal, along)
    steepness = steepness + (steepness == 0)
    y, level = y * kept, torch.zeros_like(largest)
    for _ in range(2):
        # The residual of C itself: the ridge of rounding size steers the step and not where it ends.
        change = torch.cholesky_solve((kept * (level * normal - q - _times(C, y)))[..., None], factor)[..., 0]
        missing = problem.level / largest - _dot(normal, y)
        shift = (missing - _dot(normal, change)) / steepness
        y, level = y + change + shift * along, level + shift - missing
    return y


def _certify(G: Tensor, q: Tensor, error: Tensor, norms: Tensor, x: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
    """Return the four figures of `mgrad.solvers.certify` over x ≥ 0 [..., 4], and by how much x is off [...] (34)."""
    lengths = norms + (norms == 0)
    slack, size = _slack(G, q, x)
    magnitude, length, total = _dot(x.abs(), size), _dot(x, norms), _dot(x, slack)
    highest = slack + rounding(q.shape[-1]) * size + error
    unmet = (-highest / lengths).amax(-1, keepdim=True).clamp(min=0.0)
    primal = _ratio(unmet, (size / lengths).amax(-1, keepdim=True))
    bounded = limit.isfinite()
    # The price of the bound itself.
    price = (-slack / lengths).amax(-1, keepdim=True) * ((unmet > 0) & bounded)
    gain = 0.5 * unmet.square() * ~bounded
    gap = _ratio((total + limit.masked_fill(~bounded, 0.0) * price).abs(), magnitude)
    gap = torch.maximum(gap, _ratio(gain, magnitude + gain))
    outside = _ratio((-x * norms).amax(-1, keepdim=True).clamp(min=0.0), _dot(x.abs(), norms))
    dual = torch.maximum(outside, _ratio((length - limit).clamp(min=0.0), length))
    complementarity = _ratio((x * slack + price * x * norms).abs().amax(-1, keepdim=True), magnitude)
    figures = torch.cat([gap, primal, dual, complementarity], -1)
    return figures, torch.cat([gap, dual, complementarity], -1).amax(-1)


def _certify_on_simplex(G: Tensor, q: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the four figures of `mgrad.solvers.certify` on the simplex [..., 4], and by how much x is off [...]."""
    slack, size = _slack(G, q, x)
    magnitude, level = _dot(x.abs(), size), _dot(x, slack)
    gap = (level - slack - rounding(q.shape[-1]) * size).amax(-1, keepdim=True).clamp(min=0.0)
    gap = _ratio(gap, magnitude)
    dual = torch.maximum((-x).amax(-1, keepdim=True).clamp(min=0.0), (x.sum(-1, keepdim=True) - 1).abs())
    complementarity = _ratio((x * (slack - level)).abs().amax(-1, keepdim=True), magnitude)
    return torch.cat([gap, gap, dual, complementarity], -1), torch.maximum(gap, complementarity)[..., 0]


def _binds(x: Tensor, norms: Tensor, limit: Tensor) -> Tensor:
    """Tell whether Σ xᵢnᵢ [..., 1] has reached the bound, to rounding."""
    return _dot(x, norms) >= limit * (1 - rounding(x.shape[-1]))


def _falls_for_ever(problem: _Scaled, path: Tensor) -> Tensor:
    """Tell [...] whether the path [..., k, s] has gone along a ray that falls for ever (math.md, 21)."""
    # Without a bound the interior steps go there by many orders of magnitude, until rounding leads them elsewhere. What
    # is certain to be gained, slope²/2γ with γ the error of the curvature, counts if it is more than rounding of the
    # objective, here of the size of 1.
    C, q = problem.quadratic, problem.linear
    precision = rounding(q.shape[-1])
    rays = path / path.sum(-2, keepdim=True)
    curvature, error = (rays * (C @ rays)).sum(-2), precision * (rays * (C.abs() @ rays)).sum(-2)
    slope = (rays * (q + precision * q.abs() + problem.error)[..., None]).sum(-2)  # as flat as its errors allow
    return ((curvature <= error) & (slope < 0) & (slope.square() > 2 * error * precision)).any(-1)


def _slack(A: Tensor, q: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return Ax + q and the sizes |A||x| + |q| of its terms [..., m]."""
    return _times(A, x) + q, _times(A.abs(), x.abs()) + q.abs()


def _times(A: Tensor, x: Tensor) -> Tensor:
    """Return A x [..., m]."""
    return (A @ x[..., None])[..., 0]


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """Return xᵀy [..., 1]."""
    return (x * y).sum(-1, keepdim=True)


def _outer(x: Tensor) -> Tensor:
    """Return x xᵀ [..., m, m]."""
    return x[..., None] * x[..., None, :]


def _ratio(value: Tensor, scale: Tensor) -> Tensor:
    """Return value / scale for values ≥ 0, 0 for 0 / 0 and 1 where there is no scale."""
    nothing = scale == 0
    return (value / (scale + nothing)).masked_fill(nothing & (value > 0), 1.0)
