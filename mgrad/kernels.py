"""Loops over the values of float32 rows on a CPU, compiled by numba: every value is read once.

In: where blocks of rows stand in memory. Out: their inner products; their combination. May import: numba and its
llvmlite, which the extra `fast` installs; only `compiled` imports this file.
"""

from contextlib import suppress
from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import carray, config, njit, types
from numba.core.cgutils import alloca_once_value, for_range
from numba.extending import intrinsic

if config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT leaves no compiler, without which the loops would take forever.")

# Values whose products are summed in float32: few enough for (120) of math.md in any order, and for those of two dozen
# rows, and of as many that are on their way, to stay in the nearest cache. A multiple of `LANES`.
BLOCK = 384
TILE = 3  # rows by rows whose sums stay in registers
LANES = 8  # values of a register
with suppress(RuntimeError):  # of a processor that LLVM does not know
    LANES = 16 if get_host_cpu_features().get("avx512f") else 8  # of which LLVM by itself takes 8 only
LINE = 64  # bytes that memory sends at a time
# No order of sums is promised, but 0, infinity and NaN are what they are.
_LOOSE = {"reassoc", "contract", "nsz"}

_BYTE, _NUMBER, _WORD = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(ir.FloatType(), LANES)


@intrinsic
def _pointer(context: Any, address: Any) -> Any:
    """Return an address as where float32 values begin."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.float32)(types.uint64), build


@intrinsic
def _ask(context: Any, address: Any) -> Any:
    """Ask for a line of memory, which is then on its way to a cache."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], _BYTE.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [place.type, _NUMBER, _NUMBER, _NUMBER])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [place.type], kind)
        builder.call(prefetch, [place, _NUMBER(0), _NUMBER(3), _NUMBER(1)])  # to be read, again, as data
        return context.get_dummy_value()

    return types.void(types.uint64), build


@njit(nogil=True, inline="always")
def _ask_all(address: Any, away: Any, length: Any) -> None:
    """Ask for values of a block; 0 stands for none."""
    if address != 0:
        for line in range(0, 4 * length, LINE):
            _ask(address + away + np.uint64(line))


@intrinsic
def _tile(context: Any, left: Any, right: Any, count: Any) -> Any:
    """Return the products of `TILE` rows with as many.

    At `left` and `right` stand their addresses; a row has count·`LANES` values.
    """

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        left, right, count = arguments

        def addresses(of: Any) -> list[Any]:
            table = builder.inttoptr(of, _WORD.as_pointer())
            return [builder.load(builder.gep(table, [_WORD(k)])) for k in range(TILE)]

        def added(vector: Any) -> Any:
            lanes = LANES
            while lanes > 1:
                lanes //= 2
                halves = [ir.Constant(ir.VectorType(_NUMBER, lanes), [*range(k, k + lanes)]) for k in (0, lanes)]
                vector = builder.fadd(*[builder.shuffle_vector(vector, vector, half) for half in halves])
            return builder.extract_element(vector, _NUMBER(0))

        rows, columns = addresses(left), addresses(right)
        sums = [alloca_once_value(builder, ir.Constant(_VECTOR, [0.0] * LANES)) for _ in range(TILE**2)]
        with for_range(builder, count) as loop:
            away = builder.mul(loop.index, _WORD(4 * LANES))
            places = [builder.inttoptr(builder.add(of, away), _VECTOR.as_pointer()) for of in (*rows, *columns)]
            values = [builder.load(place, align=4) for place in places]
            for k, total in enumerate(sums):
                product = builder.fmul(values[k // TILE], values[TILE + k % TILE], flags=("contract",))
                builder.store(builder.fadd(builder.load(total), product, flags=("contract",)), total)
        return context.make_tuple(builder, signature.return_type, [added(builder.load(total)) for total in sums])

    return types.UniTuple(types.float32, TILE**2)(types.uint64, types.uint64, types.int64), build


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
    tiles = (count // TILE) * (count // TILE + 1) // 2
    total = np.zeros((count, count))
    at = np.zeros(count, np.uint64)
    table = np.uint64(at.ctypes.data)
    width = np.uint64(4 * BLOCK)
    for number in range(len(pieces)):
        p, start, length = pieces[number]
        away, whole = np.uint64(4 * start), -(-length // LANES)
        for i in range(count):
            if places[p, i] == 0:
                at[i] = scratch + np.uint64(count) * width
                continue
            at[i] = places[p, i] + away
            if others[p, i] != 0 or whole * LANES > length:
                x = carray(_pointer(at[i]), length)
                at[i] = scratch + np.uint64(i) * width
                way, factor = carray(_pointer(at[i]), whole * LANES), factors[p, i]
                for q in range(length, whole * LANES):
                    way[q] = 0
                if others[p, i] == 0:
                    for q in range(length):
                        way[q] = x[q]
                else:
                    y = carray(_pointer(others[p, i] + away), length)
                    for q in range(length):
                        way[q] = factor * (x[q] - y[q])
        # What comes next is asked for meanwhile, a few rows for each tile.
        later, begin, size = pieces[min(number + 1, len(pieces) - 1)]
        ahead, done, asked = np.uint64(4 * begin), 0, 0
        for i in range(0, count, TILE):
            for j in range(i, count, TILE):
                done += 1
                while asked * tiles < done * count:
                    _ask_all(places[later, asked], ahead, size)
                    _ask_all(others[later, asked], ahead, size)
                    asked += 1
                found = _tile(table + np.uint64(8 * i), table + np.uint64(8 * j), whole)
                for k in range(TILE**2):
                    total[i + k // TILE, j + k % TILE] += found[k]
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
    for number in range(len(pieces)):
        p, start, length = pieces[number]
        later, begin, size = pieces[min(number + 1, len(pieces) - 1)]
        away, ahead = np.uint64(4 * start), np.uint64(4 * begin)
        sums[:] = 0
        for i in range(places.shape[1]):
            if factors[later, i] != 0:
                _ask_all(places[later, i], ahead, size)
                _ask_all(others[later, i], ahead, size)
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
