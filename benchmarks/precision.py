"""How far the Gramian is from that of float64, and how fast it is beside a copy: `python -m benchmarks.precision`.

In: nothing. Out: a table. May import: tables, mgrad.
"""

import argparse
from collections.abc import Callable, Sequence
from time import perf_counter

import torch
from torch import Tensor

from benchmarks.tables import table
from mgrad.jacobian import Row, gramian

HOST = torch.device("cpu")


def rows_of(kind: str, rows: int, size: int) -> Tensor:
    """Return rows [m, n] of normal values ("normal"), of a few large among many small ones ("heavy"), or "constant"."""
    J = torch.randn(rows, size, generator=torch.Generator().manual_seed(0))
    if kind == "heavy":
        J.pow_(5)
    if kind == "constant":
        J.fill_(1.1)
        for i, row in enumerate(J):
            row[: size * (i + 1) // (rows + 1)].neg_()
    return J


def measure(kind: str, rows: int, size: int) -> tuple[float, float, float]:
    """Return the largest error of G relative to the lengths, and the seconds of G and of a copy of all rows."""
    J, place = rows_of(kind, rows, size), torch.zeros(1).expand(size)
    functions: list[Row] = [{place: row}.get for row in J]
    copy, seconds = torch.empty_like(J), []
    works: list[Callable[[], Tensor]] = [lambda: gramian(functions, [place], HOST), lambda: copy.copy_(J)]
    for work in works:
        work()
        taken = []
        for _ in range(5):
            start = perf_counter()
            work()
            taken.append(perf_counter() - start)
        seconds.append(min(taken))
    exact = torch.zeros(rows, rows, dtype=torch.float64)
    for part in J.split(1 << 20, dim=1):
        exact += part.double() @ part.double().T
    lengths = exact.diagonal().sqrt()
    error = (gramian(functions, [place], HOST) - exact).abs() / lengths / lengths[:, None]
    return float(error.max()), seconds[0], seconds[1]


def main(argv: Sequence[str] | None = None) -> None:
    """Print a line for each kind and size."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=__doc__)
    parser.add_argument("--rows", type=int, default=6, help="m + 1; 6")
    parser.add_argument("--sizes", type=float, nargs="+", default=[1e6, 1e7, 1e8], help="n; 1e6 1e7 1e8")
    parser.add_argument("--threads", type=int, default=2, help="of the processor; 2")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    lines = []
    for kind in ("normal", "heavy", "constant"):
        for size in arguments.sizes:
            error, products, copy = measure(kind, arguments.rows, int(size))
            lines.append([kind, f"{size:.0e}", f"{error:.0e}", f"{1e3 * products:.0f}", f"{1e3 * copy:.0f}"])
    print(table(["rows", "n", "error of G", "ms", "a copy, ms"], lines))


if __name__ == "__main__":
    main()
