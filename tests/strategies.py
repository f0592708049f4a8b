"""Jacobians for property-based tests, every corner made by construction. Structure is drawn, bulk values are seeded."""

from typing import Literal, NamedTuple, get_args

import numpy as np
from hypothesis import strategies as st

from mgrad.solvers import Array

Kind = Literal[
    "random", "agreeing", "conflicting", "duplicated", "zero", "antiparallel", "deficient", "parallel", "stationary"
]
KINDS: tuple[Kind, ...] = get_args(Kind)
Spread = Literal["unit", "common", "rows"]
SPREADS: tuple[Spread, ...] = get_args(Spread)
EXPONENT = 40  # 2⁴⁰ = 1.1·10¹²


class Problem(NamedTuple):
    """J [m, n] and a pull p [n]."""

    J: Array
    p: Array


class Stationary(NamedTuple):
    """J [m, n] and μ [m] > 0 with Jᵀμ = 0 exactly."""

    J: Array
    multipliers: Array


@st.composite
def jacobians(
    draw: st.DrawFn,
    *,
    kinds: tuple[Kind, ...] = KINDS,
    spreads: tuple[Spread, ...] = SPREADS,
    rows: tuple[int, int] = (1, 8),
    columns: tuple[int, int] = (1, 12),
) -> Array:
    """Draw J [m, n] of a kind, from small integers or normal deviates, scaled by powers of two (which are exact)."""
    kind = draw(st.sampled_from(kinds))
    m, n = draw(st.integers(*rows)), draw(st.integers(*columns))
    J = _build(kind, m, n, integers=draw(st.booleans()), rng=np.random.default_rng(draw(st.integers(0, 2**32 - 1))))
    return J * draw(row_scales(len(J), spreads))[:, None]


@st.composite
def problems(
    draw: st.DrawFn,
    *,
    kinds: tuple[Kind, ...] = KINDS,
    spreads: tuple[Spread, ...] = SPREADS,
    rows: tuple[int, int] = (1, 8),
    columns: tuple[int, int] = (1, 12),
) -> Problem:
    """Draw J of a kind and a pull, from none to one a thousand times as long as the longest row."""
    J = draw(jacobians(kinds=kinds, spreads=spreads, rows=rows, columns=columns))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    strength = draw(st.sampled_from([0.0, 2.0**-10, 1.0, 2.0**10]))
    return Problem(J, strength * (np.abs(J).max() or 1.0) * rng.standard_normal(J.shape[1]))


@st.composite
def row_scales(draw: st.DrawFn, m: int, spreads: tuple[Spread, ...] = SPREADS) -> Array:
    """Draw a power of two for each row: 1, one for all, or each its own, from 10⁻¹² to 10¹²."""
    spread = draw(st.sampled_from(spreads))
    exponents = st.integers(-EXPONENT, EXPONENT)
    if spread == "unit":
        return np.ones(m)
    if spread == "common":
        return np.full(m, 2.0 ** draw(exponents))
    return 2.0 ** np.array(draw(st.lists(exponents, min_size=m, max_size=m)), dtype=np.float64)


@st.composite
def stationary(
    draw: st.DrawFn, *, rows: tuple[int, int] = (2, 6), columns: tuple[int, int] = (1, 8), common: bool = True
) -> Stationary:
    """Draw J [m, n] of integers and integers μ ≥ 1 with Jᵀμ = 0; scaled by one power of two, which keeps that exact."""
    m, n = draw(st.integers(*rows)), draw(st.integers(*columns))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    J, mu = rng.integers(-3, 4, (m, n)).astype(np.float64), rng.integers(1, 5, m).astype(np.float64)
    mu[-1] = 1.0
    J[-1] = -mu[:-1] @ J[:-1]
    return Stationary(J * draw(row_scales(1, ("unit", "common") if common else ("unit",)))[0], mu)


@st.composite
def nearly_opposite(draw: st.DrawFn, *, rows: tuple[int, int] = (3, 4), columns: tuple[int, int] = (2, 4)) -> Array:
    """Draw J [m, n] of rows that are plus or minus one of two, to within 2⁻¹³ … 2⁻⁵⁰, each with its own scale."""
    m, n = draw(st.integers(*rows)), draw(st.integers(*columns))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    J = rng.standard_normal((m, n))
    J = J[rng.integers(2, size=m)] * rng.choice([-1.0, 1.0], (m, 1)) + 2.0 ** -draw(st.integers(13, 50)) * J
    return np.asarray(J * draw(row_scales(m))[:, None])


@st.composite
def orthogonal(draw: st.DrawFn, n: int) -> Array:
    """Draw an orthogonal matrix [n, n], to rounding."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return np.asarray(np.linalg.qr(rng.standard_normal((n, n)))[0])


def _build(kind: Kind, m: int, n: int, *, integers: bool, rng: np.random.Generator) -> Array:
    """Return J [m, n] of a kind. Kinds that need two rows get them."""

    def values(*shape: int) -> Array:
        return rng.integers(-3, 4, shape).astype(np.float64) if integers else rng.standard_normal(shape)

    m = m if kind in {"random", "agreeing", "zero", "deficient"} else max(2, m)
    J = values(m, n)
    if kind == "agreeing":  # no negative entry, no negative cosine
        J = np.abs(J)
    elif kind == "conflicting":  # against the first row, but not along it where n > 1
        J[0, 0] = J[0, 0] or 1.0
        J[1] = -J[0] + np.where(np.arange(n) == n - 1, 0.5, 0.0) * np.abs(J[0]).max() * (n > 1)
    elif kind == "duplicated":
        J[rng.integers(1, m)] = J[0] * 2.0 ** rng.integers(-2, 3)
    elif kind == "zero":
        J[rng.integers(m)] = 0.0
    elif kind == "antiparallel":
        J[rng.integers(1, m)] = -J[0] * 2.0 ** rng.integers(-2, 3)
    elif kind == "deficient":
        rank = int(rng.integers(1, max(2, min(m, n))))
        J = values(m, rank) @ values(rank, n)
    elif kind == "parallel":  # to within 10⁻³
        J = J[:1] + 2.0**-10 * J
    elif kind == "stationary":
        J[-1] = -rng.integers(1, 5, m - 1) @ J[:-1]
    return J
