"""How the cost of the Gramian and of the combination grows with n and with m.

In: rows of `scaling`. Out: fitted functions. May import: scaling.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.optimize import nnls

from benchmarks.overhead.scaling import PARTS, traffic

Row = dict[str, Any]
Along = Literal["values", "losses"]
FEWEST = 3  # points of a fit of two coefficients


@dataclass(frozen=True)
class Fit:
    """Seconds a + b·n at one m, or a·m + b·m² at one n; a, b ≥ 0, of least relative error.

    Attributes:
        part: "gramian" or "combination".
        along: "values", n, or "losses", m.
        at: the other's value.
        coefficients: a, b.
    """

    part: str
    along: Along
    at: int
    coefficients: tuple[float, float]

    def seconds(self, sizes: Any) -> Any:
        """Return the seconds at an array of sizes."""
        return _terms(self.along, sizes) @ np.array(self.coefficients)

    def __str__(self) -> str:
        """Return the formula."""
        a, b = self.coefficients
        if self.along == "values":
            return f"{self.part}, m = {self.at}: {1e6 * a:.3g} µs + {1e9 * b:.3g} ns·n"
        return f"{self.part}, n = {self.at:.0e}: {1e3 * a:.3g} ms·m + {1e3 * b:.3g} ms·m²"


def fits(rows: Sequence[Row]) -> list[Fit]:
    """Return what can be fitted: along n at the m of the most rows, and along m at the n of the most."""
    found = []
    directions: tuple[tuple[Along, Along], ...] = (("values", "losses"), ("losses", "values"))
    for along, other in directions:
        counts = [row[other] for row in rows]
        at = max(dict.fromkeys(counts), key=counts.count, default=0)
        chosen = [row for row in rows if row[other] == at]
        if len(chosen) >= FEWEST:
            sizes = np.array([row[along] for row in chosen], dtype=float)
            for part in PARTS:
                times = np.array([row[part][1] for row in chosen])
                a, b = nnls(_terms(along, sizes) / times[:, None], np.ones(len(chosen)))[0].tolist()
                found.append(Fit(part, along, at, (a, b)))
    return found


def share(row: Row, part: str) -> float:
    """Return the part's traffic in a second as a share of a copy's; above 1 where caches hold the rows."""
    return float(traffic(part, row["losses"], row["values"]) / row[part][1] / row["bandwidth"])


def _terms(along: str, sizes: Any) -> Any:
    """Return the terms of the formula [sizes, 2]."""
    sizes = np.asarray(sizes, dtype=float)
    return np.stack([np.ones_like(sizes), sizes] if along == "values" else [sizes, sizes**2], axis=-1)
