"""Three families of gradient rows, seeded: what the solvers are timed on.

In: a random generator and a size. Out: J [m, n]. May import: numpy, the types of mgrad.solvers.
"""

from collections.abc import Callable

import numpy as np

from mgrad.solvers import Array

# How far a row of a nearly stationary set is from the set that is: √δ is about this, relative to a row.
NEAR = 1e-3


def columns(m: int) -> int:
    """Return n for m rows: several times m, as gradients have, so that the rows are independent."""
    return 4 * m + 16


def conflicting(rng: np.random.Generator, m: int) -> Array:
    """Draw rows of two camps: a third of them (at least one) against the others, with cosines about −½."""
    against = np.arange(m) < max(1, m // 3)
    camps = rng.permutation(np.where(against, -1.0, 1.0)) if m > 1 else np.ones(1)
    return _lengths(rng, m) * (np.outer(camps, _direction(rng, m)) + _own(rng, m))


def agreeing(rng: np.random.Generator, m: int) -> Array:
    """Draw rows of one camp: cosines about ½, no two in conflict."""
    return _lengths(rng, m) * (_direction(rng, m) + _own(rng, m))


def nearly_stationary(rng: np.random.Generator, m: int) -> Array:
    """Draw rows of which a positive combination all but vanishes: √δ is about 10⁻³ of the longest row."""
    shares = rng.uniform(0.5, 1.5, m)
    rows = _own(rng, m)
    # Of one row alone nothing but itself can vanish.
    rows -= shares @ rows / shares.sum() if m > 1 else (1 - NEAR) * rows
    return _lengths(rng, m) * (rows + NEAR * _direction(rng, m))


FAMILIES: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "conflicting": conflicting,
    "agreeing": agreeing,
    "nearly stationary": nearly_stationary,
}


def rows(family: str, m: int, instance: int) -> tuple[Array, Array]:
    """Return J [m, n] of an instance and a neighbour of it, each row 1 % of its length away, as one step later."""
    rng = np.random.default_rng([list(FAMILIES).index(family), m, instance])
    J = FAMILIES[family](rng, m)
    away = 0.01 * np.linalg.norm(J, axis=1, keepdims=True) * _own(rng, m)
    return J, J + away


def _own(rng: np.random.Generator, m: int) -> Array:
    """Return what each row has to itself [m, n], of length about 1."""
    return np.asarray(rng.standard_normal((m, columns(m))) / np.sqrt(columns(m)))


def _direction(rng: np.random.Generator, m: int) -> Array:
    """Return a direction common to all rows [n], of length 1."""
    direction = rng.standard_normal(columns(m))
    return np.asarray(direction / np.linalg.norm(direction))


def _lengths(rng: np.random.Generator, m: int) -> Array:
    """Return lengths of rows [m, 1], between 1/√10 and √10."""
    return np.asarray(10.0 ** rng.uniform(-0.5, 0.5, (m, 1)))
