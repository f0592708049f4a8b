"""The plot of time against m, one panel for each problem.

In: the times. Out: a picture. May import: times, matplotlib.
"""

from pathlib import Path
from typing import NamedTuple

from benchmarks.solvers.times import Times


class Look(NamedTuple):
    """How a solver is drawn: a colour for its kind (of Okabe and Ito, whom the colour-blind can follow), a line."""

    colour: str
    line: str = "-"
    width: float = 1.6


OURS, GENERAL, LEAST_SQUARES, TORCHJD = "#000000", "#0072B2", "#009E73", "#D55E00"
LOOKS = {
    "mgrad": Look(OURS, "-", 3.2),
    "mgrad, warm": Look(OURS, "--", 2.2),
    "mgrad frank_wolfe": Look(OURS, ":", 2.2),
    "DAQP": Look(GENERAL),
    "quadprog": Look("#56B4E9"),
    "qpsolvers: DAQP": Look(GENERAL, "--"),
    "qpsolvers: quadprog": Look("#56B4E9", "--"),
    "Cholesky, nnls": Look(LEAST_SQUARES),
    "TorchJD UPGrad": Look(TORCHJD),
    "TorchJD DualProj": Look("#E69F00"),
    "TorchJD PCD": Look("#CC79A7"),
    "TorchJD MGDA": Look(TORCHJD, "--"),
}
LEADER = {"arrowstyle": "-", "lw": 0.5, "shrinkA": 0, "shrinkB": 0, "relpos": (0, 0.5)}  # from a line to its name
APART = 1.42  # labels are at least this factor apart


def draw(times: Times, path: Path) -> None:
    """Draw the median times on logarithmic axes, each line with its name at its end."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    problems, sizes = times.values("problem"), times.values("size")
    figure, _ = plt.subplots(1, len(problems), figsize=(5.2 * len(problems), 5.6), sharey=True, layout="constrained")
    for axis, problem in zip(figure.axes, problems, strict=True):
        ends = {}
        for solver in times.values("solver"):
            points = [(size, time) for size in sizes if (time := times.middle(problem, size, solver)) is not None]
            if points:
                look = LOOKS[solver]
                axis.plot(*zip(*points, strict=True), look.line, color=look.colour, linewidth=look.width)
                ends[solver] = points[-1][1]
        for solver, height in _spread(ends).items():
            axis.annotate(
                _label(solver),
                (sizes[-1], ends[solver]),
                (sizes[-1] * 1.25, height),
                color=LOOKS[solver].colour,
                fontsize=9,
                fontweight="bold" if solver.startswith("mgrad") else "normal",
                va="center",
                arrowprops=LEADER | {"color": LOOKS[solver].colour},
            )
        axis.set(title=problem, xlabel="m, rows of the Gramian", xscale="log", yscale="log")
        axis.set_xticks(sizes, map(str, sizes))
        axis.minorticks_off()
        axis.set_xlim(sizes[0] / 1.1, sizes[-1] * 12)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("µs from Gramian to multipliers, median")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _label(solver: str) -> str:
    """Return the name of a solver, what it is called through last."""
    through, _, name = solver.rpartition(": ")
    return f"{name} via {through}" if through else name


def _spread(ends: dict[str, float]) -> dict[str, float]:
    """Return heights for the labels, in the order of the ends of their lines and not on top of one another."""
    heights: dict[str, float] = {}
    lowest = 0.0
    for solver, end in sorted(ends.items(), key=lambda item: item[1]):
        lowest = heights[solver] = max(end, lowest * APART)
    shift = (max(ends.values(), default=1.0) / max(heights.values(), default=1.0)) ** 0.5
    return {solver: height * shift for solver, height in heights.items()}
