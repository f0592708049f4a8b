"""Against the noise of mini-batches: what is known of the gradients from the steps before, or from two half batches.

In: the rows of a step, or their inner products. Out: the same, with less noise. May import: jacobian, values. Knows no
optimizer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mgrad.jacobian import Row
from mgrad.values import quotient, root

Blocks = Mapping[Tensor, Tensor]


@dataclass(frozen=True)
class SmoothRows:
    """Average the rows over steps: ḡᵢ is the mean of the gradients so far, weighted by decayᵃᵍᵉ (math.md, 74).

    Every noise is lessened, that of d too, by (1 − decay)/(1 + decay) in its variance; what the gradients were some
    1/(1 − decay) steps ago still counts. This is momentum before the solve: leave out that of the base. Adam makes up
    for the shorter gradients: lower its learning rate, up to 4.4 times at 0.9 (math.md, 75).

    Args:
        decay: β in [0, 1).

    Raises:
        ValueError: for a decay outside [0, 1).

    Cost: memory of a row for each constraint, in float32 at least; one read and write of each.
    Source: momentum; for several objectives Zhou et al. 2022 (CR-MOGM), who average multipliers.
    """

    decay: float = 0.9

    def __post_init__(self) -> None:
        """Check the option."""
        _check_decay("SmoothRows", self.decay)


@dataclass(frozen=True)
class SmoothGramian:
    """Average G and c over steps: the multipliers are those of the mean, d is made of the present rows (math.md, 76).

    Multipliers become steady, and all but independent of the noise in the rows that they weigh. That every gradient
    seems longer than its expectation remains: see `HalfBatches`.

    Args:
        decay: β in [0, 1).

    Raises:
        ValueError: for a decay outside [0, 1).

    Cost: 5m² numbers.
    """

    decay: float = 0.9

    def __post_init__(self) -> None:
        """Check the option."""
        _check_decay("SmoothGramian", self.decay)


@dataclass(frozen=True)
class HalfBatches:
    """Average G and c, and take out the noise that two halves of every batch show: ‖aᵢ − bᵢ‖² (math.md, 77-79).

    Each constraint is backpropagated in two parts of independent data of equal size, aᵢ and bᵢ, whose sum is gᵢ: pairs
    of losses in `backward`, which stand for their mean, or two `constraint` blocks. δ, ‖r‖, b and λ are then those of
    the expected gradients, up to the noise that the mean of the rows over the same steps would keep. The batches of
    different constraints must be independent, too.

    Args:
        decay: β in [0, 1). At 0, as in the first step, nothing is taken out.

    Raises:
        ValueError: for a decay outside [0, 1).

    Cost: 5m² numbers; n values while the second half of a constraint is backpropagated, and a read of both.
    Source: derived in math.md.
    """

    decay: float = 0.9

    def __post_init__(self) -> None:
        """Check the option."""
        _check_decay("HalfBatches", self.decay)


Noise = SmoothRows | SmoothGramian | HalfBatches


class RowAverage:
    """The mean of each constraint's rows over the steps that had it, a tensor for each parameter."""

    def __init__(self, decay: float) -> None:
        """Begin with no steps."""
        self.decay = decay
        self.steps: dict[str, int] = {}
        self.rows: dict[str, dict[Tensor, Tensor]] = {}

    def row(self, name: str, new: Blocks) -> Callable[[Tensor], Tensor | None]:
        """Return the mean as it will be with a new row; nothing is changed yet."""
        old, share = self.rows.get(name, {}), _newest(self.decay, self.steps.get(name, 0) + 1)

        def mixed(parameter: Tensor) -> Tensor | None:
            before, block = old.get(parameter), new.get(parameter)
            if block is None:
                return None if before is None else before * (1 - share)
            block = block.detach().to(torch.promote_types(block.dtype, torch.float32))
            return block * share if before is None else torch.lerp(before, block, share)

        return mixed

    def add(self, name: str, new: Blocks) -> Row:
        """Make a new row part of the mean, and return it."""
        mixed, mean = self.row(name, new), dict(self.rows.get(name, {}))  # a promise may hold the old one
        for parameter in dict.fromkeys([*mean, *new]):
            block = mixed(parameter)
            assert block is not None
            mean[parameter] = block
        self.rows[name], self.steps[name] = mean, self.steps.get(name, 0) + 1
        return mean.get

    def state_dict(self, places: Sequence[Tensor]) -> dict[str, Any]:
        """Return the means by the parameters' places."""
        position = {parameter: i for i, parameter in enumerate(places)}
        rows = {name: {position[p]: block for p, block in row.items()} for name, row in self.rows.items()}
        return {"steps": dict(self.steps), "rows": rows}

    def loaded(self, state: Mapping[str, Any] | None, places: Sequence[Tensor]) -> "RowAverage":
        """Return the means of a `state_dict`, or none yet."""
        average = RowAverage(self.decay)
        if state is None:
            return average
        average.steps = dict(state["steps"])
        average.rows = {
            name: {places[i]: block.to(places[i].device, copy=True) for i, block in row.items()}
            for name, row in state["rows"].items()
        }
        return average


@dataclass(frozen=True, eq=False)
class GramianAverage:
    """The mean inner products of constraints, and the mean noise of each, over the steps that had them.

    Attributes:
        decay: β.
        names: of the k constraints so far.
        means: [5, k, k]: the steps that had both of a pair, G, and on the diagonals the noise, the steps that had g₀,
            too, and c/‖g₀‖.
    """

    decay: float
    names: tuple[str, ...] = ()
    means: Tensor = field(default_factory=lambda: torch.zeros(5, 0, 0, dtype=torch.float64, device="cpu"))

    def then(self, names: Sequence[str], products: Tensor, halves: Mapping[str, Tensor]) -> "GramianAverage":
        """Return the means with one step more.

        Args:
            names: of the step's m constraints.
            products: [m + 1, m + 1], of the rows and g₀; float64, on the host, finite.
            halves: aᵢ·bᵢ by name, of the halves of each constraint's row; empty where there are none.
        """
        known = tuple(dict.fromkeys([*self.names, *names]))
        grown = len(known) - len(self.names)
        means = functional.pad(self.means, (0, grown, 0, grown))
        gramian = products[:-1, :-1]
        # What has grown since the start is the length of g₀; it is the direction that is averaged.
        slopes = quotient(products[:-1, -1], root(products[-1, -1]))
        noise = torch.zeros_like(slopes)
        if halves:
            noise = gramian.diagonal() - 4 * torch.stack([halves[name] for name in names])
        places = _pairs(known, names)
        steps, lengths, noises, counted, tilts = means[places]
        steps, share = steps + 1, _newest(self.decay, steps + 1)
        parts = [steps, torch.lerp(lengths, gramian, share), torch.lerp(noises, noise.diag(), share), counted, tilts]
        if products[-1, -1] > 0:  # a g₀ of 0 has no slope: it is not one of 0
            parts[3:] = counted + 1, torch.lerp(tilts, slopes.diag(), _newest(self.decay, counted + 1))
        means[places] = torch.stack(parts)
        return GramianAverage(self.decay, known, means)

    def estimate(self, names: Sequence[str], objective_square: Tensor) -> Tensor:
        """Return what is known of the products of a step's constraints and g₀ (math.md, 76-79 and 128).

        Args:
            names: of the m constraints, which the means have.
            objective_square: ‖g₀‖².

        Returns:
            [m + 1, m + 1]: Ĝ, positive semi-definite, ĉ, and ‖g₀‖² as it is.
        """
        steps, gramian, noise, counted, slopes = self.means[_pairs(self.names, names)]
        surplus = (1 - _left(self.decay, steps.diagonal())) * noise.diagonal().clamp(min=0.0)
        whole = torch.empty(len(names) + 1, len(names) + 1, dtype=torch.float64, device="cpu")
        whole[:-1, :-1] = gramian
        whole[-1, :-1] = whole[:-1, -1] = slopes.diagonal() * root(objective_square)
        whole[-1, -1] = objective_square
        missed = (steps != steps[0, 0]).any() or (objective_square > 0 and (counted != steps).any())
        if missed:  # the means are of different steps
            whole = _compatible(whole)
        whole[:-1, :-1] = _without(whole[:-1, :-1], surplus)
        return whole

    def state_dict(self, _places: Sequence[Tensor]) -> dict[str, Any]:
        """Return the means."""
        return {"names": list(self.names), "means": self.means}

    def loaded(self, state: Mapping[str, Any] | None, _places: Sequence[Tensor]) -> "GramianAverage":
        """Return the means of a `state_dict`, or none yet."""
        if state is None or len(state["means"]) != len(self.means):  # of a version that kept others
            return GramianAverage(self.decay)
        return GramianAverage(self.decay, tuple(state["names"]), state["means"].clone())


def _pairs(known: Sequence[str], names: Sequence[str]) -> tuple[slice, Tensor, Tensor]:
    """Return the places of all pairs of some constraints."""
    at = torch.tensor([known.index(name) for name in names], device="cpu")
    return slice(None), at[:, None], at


def _newest(decay: float, steps: Any) -> Any:
    """Return the weight of the newest step in a mean over so many (math.md, 74)."""
    return (1 - decay) / (1 - decay**steps)


def _left(decay: float, steps: Any) -> Any:
    """Return the share of a step's variance that is left in the mean, the sum of the squared weights (math.md, 75)."""
    return (1 - decay) * (1 + decay**steps) / ((1 + decay) * (1 - decay**steps))


def _compatible(products: Tensor) -> Tensor:
    """Return products that some vectors of the same lengths have, with the cosines nearest in kind (math.md, 128)."""
    lengths = products.diagonal().sqrt()
    units = lengths[:, None] * lengths
    cosines = _semidefinite_part(quotient(products, units))
    if cosines is None:
        return products
    scales = cosines.diagonal().sqrt()
    found: Tensor = quotient(cosines, scales[:, None] * scales) * units
    return found


def _without(gramian: Tensor, surplus: Tensor) -> Tensor:
    """Return G − diag(surplus), or the nearest to it that is positive semi-definite in units of the rows' lengths."""
    surplus = surplus * (gramian.diagonal() > 0)  # of what is 0, halves that cancel to the digit, nothing can go
    if not surplus.any():
        return gramian
    less = gramian - surplus.diag()
    lengths = gramian.diagonal().sqrt()
    units = lengths[:, None] * lengths
    part = _semidefinite_part(quotient(less, units))
    return less if part is None else part * units


def _semidefinite_part(matrix: Tensor) -> Tensor | None:
    """Return the nearest positive semi-definite matrix, None where that is the matrix itself."""
    values, vectors = torch.linalg.eigh(matrix)
    if values[0] >= 0:
        return None
    part: Tensor = (vectors * values.clamp(min=0.0)) @ vectors.T
    return part


def _check_decay(rule: str, decay: float) -> None:
    """Raise for a decay outside [0, 1)."""
    if not 0 <= decay < 1:
        raise ValueError(
            f"`{rule}(decay=...)` must be in [0, 1). Found {decay}. Use 0.9, the default, a memory of ten steps."
        )
