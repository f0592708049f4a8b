"""Instances of the stress run: every corner by construction, each reproducible from (seed, index) alone.

In: a seed and an index. Out: `Instance`. May import: numpy, the types of mgrad.solvers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from mgrad.solvers import Array, Domain, rounding

LARGEST = 128  # rows
DECADES = 12  # scales are 10^±this


@dataclass(frozen=True)
class Instance:
    """Minimise ½xᵀGx + qᵀx over a domain.

    Attributes:
        index: of it.
        corners: what is special about its rows, their scale, the linear term and the domain.
        rows: J [m, n].
        gramian: G [m, m].
        linear: q [m].
        linear_error: [m], the rounding error of q as it was made; None to take every digit of it as meant.
        feasible: whether some direction meets what q asks, but for the rounding of q, so that the minimum is finite.
            Not said of nearly dependent rows: what makes it finite there may be lost in the rounding of G.
        domain: of x.
        bound: on Σ xᵢ√Gᵢᵢ, or None.
    """

    index: int
    corners: dict[str, str]
    rows: Array
    gramian: Array
    linear: Array
    linear_error: Array | None
    feasible: bool
    domain: Domain
    bound: float | None

    @property
    def size(self) -> int:
        """The number m of rows."""
        return len(self.linear)

    @property
    def lengths(self) -> Array:
        """√Gᵢᵢ [m]."""
        return np.asarray(np.sqrt(np.diagonal(self.gramian)))

    @property
    def natural_length(self) -> float:
        """The largest |qᵢ|/nᵢ, of the size of Σ xᵢnᵢ where the rows are not nearly dependent."""
        return _natural_length(self.gramian, self.linear)

    @property
    def problem(self) -> dict[str, Any]:
        """The arguments of `mgrad.solvers.certify` that state the problem, but for the multipliers."""
        return {"gramian": self.gramian, "linear": self.linear, "domain": self.domain, "bound": self.bound}

    def magnitude(self, x: Array) -> float:
        """Return M at x (math.md, 22): the sum of the absolute values of the terms of the objective."""
        return float(np.abs(x) @ (np.abs(self.gramian) @ np.abs(x) + np.abs(self.linear)))

    def objective(self, x: Array) -> float:
        """Return ½xᵀGx + qᵀx."""
        return float(0.5 * x @ self.gramian @ x + self.linear @ x)

    def inside(self, x: Array) -> Array:
        """Return a point of the domain near to x: no entry below 0, the sum 1, the bound kept."""
        x = np.maximum(x, 0.0)
        if self.domain == "simplex":
            return np.asarray(x / x.sum())
        length = float(x @ self.lengths)
        return x if self.bound is None or length <= self.bound else x * (self.bound / length)


def draw(seed: int, index: int, sizes: Sequence[int] = ()) -> Instance:
    """Draw an instance; m from `sizes`, or if none are given from 1 to 128, most of them small."""
    rng = np.random.default_rng([seed, index])
    m = int(rng.choice(sizes)) if len(sizes) else int(np.exp(rng.uniform(np.log(1.5), np.log(LARGEST + 1))))
    kind, scale, term, domain = (str(rng.choice(list(names))) for names in (ROWS, SCALES, LINEAR, DOMAINS))
    J = ROWS[kind](rng, m) * SCALES[scale](rng, m)[:, None]
    G = J @ J.T
    linear = LINEAR[term](rng, J)
    return Instance(
        index=index,
        corners={"rows": kind, "scale": scale, "linear term": term, "domain": domain},
        rows=J,
        gramian=G,
        linear=linear.value,
        linear_error=linear.error if rng.random() < 0.5 and domain != "simplex" else None,
        feasible=linear.feasible and "nearly" not in kind,
        domain="simplex" if domain == "simplex" else "nonnegative",
        bound=BOUNDS[domain](rng, _natural_length(G, linear.value)) if domain in BOUNDS else None,
    )


# ---------------------------------------------------------------- rows [m, n]


def _wide(rng: Generator, m: int) -> Array:
    return rng.standard_normal((m, m + int(rng.integers(1, 2 * m + 3))))


def _square(rng: Generator, m: int) -> Array:
    return rng.standard_normal((m, m))


def _tall(rng: Generator, m: int) -> Array:
    return rng.standard_normal((m, int(rng.integers(1, max(2, m)))))


def _any(rng: Generator, m: int) -> Array:
    """Return random rows of any of the three shapes, sometimes of small integers."""
    J = (_wide, _square, _tall)[rng.integers(3)](rng, m)
    return np.round(2 * J) if rng.random() < 0.25 else J


def _some(rng: Generator, m: int) -> NDArray[np.intp]:
    """Return the indices of some rows, at least one."""
    return rng.choice(m, int(rng.integers(1, m + 1)), replace=False)


def _copied(sign: Callable[[Generator, int], Array], apart: Callable[[Generator], float]) -> Callable[..., Array]:
    """Return a kind of rows in which some are, up to sign, length and a distance, copies of others."""

    def build(rng: Generator, m: int) -> Array:
        J = _any(rng, m)
        copies, own = _some(rng, m), rng.standard_normal(J.shape)
        lengths = 2.0 ** rng.integers(-2, 3, (len(copies), 1)) if rng.random() < 0.5 else 1.0
        signs = sign(rng, len(copies))[:, None]
        J[copies] = lengths * (signs * J[rng.integers(m, size=len(copies))] + apart(rng) * own[copies])
        return J

    return build


def _same(_: Generator, k: int) -> Array:
    return np.ones(k)


def _opposite(_: Generator, k: int) -> Array:
    return -np.ones(k)


def _either(rng: Generator, k: int) -> Array:
    return rng.choice([-1.0, 1.0], k)


def _exactly(_: Generator) -> float:
    return 0.0


def _nearly(rng: Generator) -> float:
    return float(10.0 ** rng.uniform(-16, -3))


def _one_line(rng: Generator, m: int) -> Array:
    """Return rows that are all plus or minus one of two, to within a distance."""
    J = rng.standard_normal((m, int(rng.integers(1, m + 3))))
    return np.asarray(J[rng.integers(min(2, m), size=m)] * _either(rng, m)[:, None] + _nearly(rng) * J)


def _zero(rng: Generator, m: int) -> Array:
    J = _any(rng, m)
    J[_some(rng, m)] = 0.0
    return J


def _rank_one(rng: Generator, m: int) -> Array:
    return np.outer(rng.integers(-3, 4, m), rng.standard_normal(int(rng.integers(1, m + 3))))


def _deficient(rng: Generator, m: int) -> Array:
    rank = int(rng.integers(1, max(2, m)))
    return rng.standard_normal((m, rank)) @ rng.standard_normal((rank, m + 2))


def _integers(rng: Generator, m: int) -> Array:
    """Return sparse rows of small integers, with many ties."""
    shape = m, int(rng.integers(1, m + 3))
    return np.where(rng.random(shape) < rng.choice([0.2, 0.5, 1.0]), rng.integers(-2, 3, shape), 0).astype(np.float64)


def _stationary(distance: Callable[[Generator], float]) -> Callable[..., Array]:
    """Return a kind of rows of which a positive combination vanishes, up to a distance."""

    def build(rng: Generator, m: int) -> Array:
        J = np.round(2 * _any(rng, m))  # integers, whose sums are exact
        combined = max(2, int(rng.integers(m + 1))) if m > 1 else 1
        J[combined - 1] = -rng.integers(1, 4, combined - 1) @ J[: combined - 1]
        J += distance(rng) * rng.standard_normal(J.shape)
        return rng.permutation(J)

    return build


def _agreeing(rng: Generator, m: int) -> Array:
    return np.abs(_any(rng, m))


def _conflicting(rng: Generator, m: int) -> Array:
    """Return the corners of a regular simplex, nearly: every two rows in conflict."""
    J = rng.standard_normal((m, m + 2))
    return np.asarray(J - J.mean(axis=0) * rng.uniform(0.9, 1.0))


ROWS: dict[str, Callable[[Generator, int], Array]] = {
    "n > m": _wide,
    "n = m": _square,
    "n < m": _tall,
    "duplicated": _copied(_same, _exactly),
    "nearly equal": _copied(_same, _nearly),
    "opposite": _copied(_opposite, _exactly),
    "nearly opposite": _copied(_opposite, _nearly),
    "equal or opposite, nearly": _copied(_either, _nearly),
    "on two lines, nearly": _one_line,
    "zero rows": _zero,
    "rank 1": _rank_one,
    "rank < m": _deficient,
    "sparse integers": _integers,
    "stationary": _stationary(_exactly),
    "nearly stationary": _stationary(_nearly),
    "agreeing": _agreeing,
    "conflicting": _conflicting,
}


# ---------------------------------------------------------------- scales [m]


def _power(rng: Generator, m: int) -> Array:
    """Return 10^U(−12, 12) [m], half of the time rounded to powers of two, which scale exactly."""
    values = 10.0 ** rng.uniform(-DECADES, DECADES, m)
    return np.asarray(2.0 ** np.round(np.log2(values)) if rng.random() < 0.5 else values)


SCALES: dict[str, Callable[[Generator, int], Array]] = {
    "1": lambda _, m: np.ones(m),
    "one for all": lambda rng, m: np.repeat(_power(rng, 1), m),
    "one for each row": _power,
    "10^±12 for all": lambda rng, m: np.full(m, 10.0 ** (DECADES * rng.choice([-1, 1]))),
    "10^±12, each": lambda rng, m: 10.0 ** (DECADES * rng.choice([-1.0, 1.0], m)),
    "for all and each": lambda rng, m: _power(rng, 1) * _power(rng, m),
}


# ---------------------------------------------------------------- linear terms [m]


class Linear(NamedTuple):
    """A linear term [m], how far rounding has moved it [m], and whether what it asks can be met but for that."""

    value: Array
    error: Array
    feasible: bool


def _asked(J: Array, pull: Array, decrease: Array | float = 0.0, *, feasible: bool) -> Linear:
    """Return J p − b and its rounding error."""
    terms = np.abs(J) @ np.abs(pull) + np.abs(decrease)
    return Linear(J @ pull - decrease, rounding(sum(J.shape)) * terms, feasible)


def _nothing(_: Generator, J: Array) -> Linear:
    return _asked(J, np.zeros(J.shape[1]), feasible=True)


def _cone(rng: Generator, J: Array) -> Linear:
    """Return Gw."""
    w = _weights(rng, len(J))
    error = rounding(sum(J.shape)) * (np.abs(J) @ (np.abs(J).T @ w))
    return Linear(J @ J.T @ w, error, feasible=True)


def _floor(rng: Generator, J: Array) -> Linear:
    """Return Gw − floor; the floor may ask for the impossible."""
    cone = _cone(rng, J)
    floor = rng.uniform(0, 1) * float((J * J).sum(axis=1).min())
    return Linear(cone.value - floor, cone.error + rounding(1) * floor, feasible=floor == 0)


def _pull(rng: Generator, J: Array) -> Linear:
    """Return J p with p of the size of the rows."""
    return _asked(J, _size(rng, J) * _vector(rng, J), feasible=True)


def _decrease(rng: Generator, J: Array) -> Linear:
    """Return J p − b, where b can be met: by a direction of its own."""
    size = _size(rng, J)
    p, toward = (size * _vector(rng, J) for _ in range(2))
    spare = rng.uniform(0, 1, len(J)) * np.linalg.norm(J, axis=1) * _size(rng, J)
    return _asked(J, p - toward, -spare, feasible=True)


def _demand(rng: Generator, J: Array) -> Linear:
    """Return J p − b with b ≥ 0 of each row alone, often more than can be met."""
    p = _size(rng, J) * _vector(rng, J)
    return _asked(J, p, rng.uniform(0, 1, len(J)) * np.linalg.norm(J, axis=1) * _size(rng, J), feasible=False)


def _random(rng: Generator, J: Array) -> Linear:
    """Return values of the size of the rows that no direction stands behind."""
    value = rng.standard_normal(len(J)) * np.linalg.norm(J, axis=1) * _size(rng, J)
    return Linear(value, rounding(1) * np.abs(value), feasible=False)


def _unrelated(rng: Generator, J: Array) -> Linear:
    """Return values that know nothing of the lengths of the rows."""
    value = rng.standard_normal(len(J)) * _power(rng, 1)
    return Linear(value, rounding(1) * np.abs(value), feasible=False)


def _scaled(term: Callable[[Generator, Array], Linear], sign: int) -> Callable[[Generator, Array], Linear]:
    """Return a linear term made much smaller or larger."""

    def build(rng: Generator, J: Array) -> Linear:
        linear, scale = term(rng, J), 2.0 ** (sign * int(rng.integers(10, 40)))
        return Linear(linear.value * scale, linear.error * scale, linear.feasible)

    return build


def _vector(rng: Generator, J: Array) -> Array:
    """Return a random vector [n]."""
    return np.asarray(rng.standard_normal((J.shape[1],)))


def _weights(rng: Generator, m: int) -> Array:
    return np.ones(m) if rng.random() < 0.5 else rng.uniform(0.1, 10, m)


def _size(rng: Generator, J: Array) -> float:
    """Return the length of one of the rows."""
    return float(np.linalg.norm(J[rng.integers(len(J))])) or 1.0


LINEAR: dict[str, Callable[[Generator, Array], Linear]] = {
    "0": _nothing,
    "Gw": _cone,
    "Gw − floor": _floor,
    "Jp": _pull,
    "Jp − b, can be met": _decrease,
    "Jp − b": _demand,
    "random": _random,
    "of another size": _unrelated,
    "tiny Jp − b": _scaled(_demand, -1),
    "huge Jp − b": _scaled(_demand, 1),
    "tiny Jp": _scaled(_pull, -1),
    "huge Jp": _scaled(_pull, 1),
}


# ---------------------------------------------------------------- domains


def _natural_length(G: Array, q: Array) -> float:
    """Return max |qᵢ|/nᵢ; where q is 0, max nᵢ."""
    norms = np.sqrt(np.diagonal(G))
    lengths = norms[norms > 0]
    return float((np.abs(q[norms > 0]) / lengths).max(initial=0.0)) or float(lengths.max(initial=1.0))


BOUNDS: dict[str, Callable[[Generator, float], float]] = {
    "loose bound": lambda _, length: 1e4 * length,
    "tight bound": lambda rng, length: length * 10.0 ** rng.uniform(-3, 0.5),
    "tiny bound": lambda rng, length: length * 10.0 ** rng.uniform(-DECADES, -3),
    "bound 0": lambda _, __: 0.0,
}
DOMAINS = ("simplex", "simplex", "simplex", "x ≥ 0", "x ≥ 0", "x ≥ 0", *BOUNDS)  # the first two more often
