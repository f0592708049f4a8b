"""Loops over the values of float32 rows on a CPU, compiled by numba: every value is read once.

In: where blocks of rows stand in memory. Out: their inner products; their combination. May import: numba, which the
extra `fast` installs; only `compiled` imports this file.
"""

from typing import Any

import numpy as np
from numba import carray, config, njit, types
from numba.extending import intrinsic

if config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT leaves no compiler, without which the loops would take forever.")

# Values whose products are summed in float32: few enough for (120) of math.md in any order, even one by one, and for
# those of a dozen rows to stay in the nearest cache.
BLOCK = 512
TILE = 3  # rows by rows whose sums stay in registers
# No order of sums is promised, but 0, infinity and NaN are what they are.
_LOOSE = {"reassoc", "contract", "nsz"}


@intrinsic
def _pointer(context: Any, address: Any) -> Any:
    """Return an address as where float32 values begin."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.float32)(types.uint64), build


@njit(nogil=True, fastmath=_LOOSE, inline="always")
def _tile(at: Any, i: int, j: int, length: int, total: Any) -> None:
    """Add the products of three rows with three."""
    a, b, c = carray(_pointer(at[i]), length), carray(_pointer(at[i + 1]), length), carray(_pointer(at[i + 2]), length)
    x, y, z = carray(_pointer(at[j]), length), carray(_pointer(at[j + 1]), length), carray(_pointer(at[j + 2]), length)
    ax = ay = az = bx = by = bz = cx = cy = cz = np.float32(0)
    for q in range(length):
        ax += a[q] * x[q]
        ay += a[q] * y[q]
        az += a[q] * z[q]
        bx += b[q] * x[q]
        by += b[q] * y[q]
        bz += b[q] * z[q]
        cx += c[q] * x[q]
        cy += c[q] * y[q]
        cz += c[q] * z[q]
    total[i, j] += ax
    total[i, j + 1] += ay
    total[i, j + 2] += az
    total[i + 1, j] += bx
    total[i + 1, j + 1] += by
    total[i + 1, j + 2] += bz
    total[i + 2, j] += cx
    total[i + 2, j + 1] += cy
    total[i + 2, j + 2] += cz


_PIECES, _ADDRESSES, _FACTORS = types.int64[:, ::1], types.uint64[:, ::1], types.float32[:, ::1]


@njit(
    types.float64[:, ::1](_PIECES, _ADDRESSES, _ADDRESSES, _FACTORS, types.uint64),
    nogil=True,
    fastmath=_LOOSE,
)
def products(pieces: Any, places: Any, others: Any, factors: Any, scratch: Any) -> Any:
    """Return the inner products of rows whose blocks are factor·(x − y), right above the diagonal.

    Args:
        pieces: which values to take, [pieces, 3]: of which block, from which on, how many; `BLOCK` at most.
        places: the addresses of x, [blocks, k], k a multiple of `TILE`; 0 for a block of zeros.
        others: those of y; 0 where there is none.
        factors: the factors, 1 where there is no y.
        scratch: the address of (k + 1)·BLOCK float32 values, the last BLOCK of them 0.
    """
    count = places.shape[1]
    total = np.zeros((count, count))
    at = np.zeros(count, np.uint64)
    width = np.uint64(4 * BLOCK)
    for p, start, length in pieces:
        away = np.uint64(4 * start)
        for i in range(count):
            if places[p, i] == 0:
                at[i] = scratch + np.uint64(count) * width
                continue
            at[i] = places[p, i] + away
            if others[p, i] != 0:
                x, y = carray(_pointer(at[i]), length), carray(_pointer(others[p, i] + away), length)
                at[i] = scratch + np.uint64(i) * width
                way, factor = carray(_pointer(at[i]), length), factors[p, i]
                for q in range(length):
                    way[q] = factor * (x[q] - y[q])
        for i in range(0, count, TILE):
            for j in range(i, count, TILE):
                _tile(at, i, j, length, total)
    return total


@njit(
    types.void(_PIECES, types.uint64[::1], _ADDRESSES, _ADDRESSES, _FACTORS),
    nogil=True,
    fastmath=_LOOSE,
)
def combine(pieces: Any, targets: Any, places: Any, others: Any, factors: Any) -> None:
    """Write Σ factor·(x − y) over the rows to the targets, whose addresses may be those of an x.

    The other arguments are as of `products`; a row of factor 0 is not read.
    """
    sums = np.empty(BLOCK, np.float32)
    for p, start, length in pieces:
        away = np.uint64(4 * start)
        sums[:] = 0
        for i in range(places.shape[1]):
            factor = factors[p, i]
            if places[p, i] == 0 or factor == 0:
                continue
            x = carray(_pointer(places[p, i] + away), length)
            if others[p, i] == 0:
                for q in range(length):
                    sums[q] += factor * x[q]
            else:
                y = carray(_pointer(others[p, i] + away), length)
                for q in range(length):
                    sums[q] += factor * (x[q] - y[q])
        target = carray(_pointer(targets[p] + away), length)
        for q in range(length):
            target[q] = sums[q]
