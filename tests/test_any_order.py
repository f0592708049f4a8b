"""Whatever is called in whatever order, the optimizer is what a simple model of it says, or says what is wrong.

The model is the base by itself, on parameters of its own: torch's SGD and scheduler are handed the direction that the
mathematics gives for the gradients noted down. All but the direction is compared bit for bit.
"""

import copy
import io
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import ExponentialLR

from mgrad import KeepPace, LessForgetting, MinNorm, constrained_direction
from tests.training import assert_identical

NAMES = ["en", "de", "fr"]
WIDTH = 3  # numbers in each parameter
MOST = 3  # parameters
STRENGTH = 0.5

vectors = st.lists(st.integers(-4, 4), min_size=WIDTH, max_size=WIDTH)
places = st.lists(st.booleans(), min_size=MOST, max_size=MOST)


def tensor(values: list[int]) -> Tensor:
    """Return integers as a vector."""
    return torch.tensor(values, dtype=torch.float64)


def group(parameter: Tensor, index: int) -> dict[str, Any]:
    """Return a group of one parameter with a rate of its own; the second is not anchored."""
    return {"params": [parameter], "lr": 0.1 / (1 + index), **({"anchor": 0.0} if index == 1 else {})}


class Machine(RuleBasedStateMachine):
    """The optimizer (`opt`, on `theta`) and the model (`base`, on `twin`, and what is noted down)."""

    @initialize(
        values=vectors, scale=st.sampled_from(["relative", "absolute"]), rule=st.sampled_from([KeepPace(), MinNorm()])
    )
    def build(self, values: list[int], scale: Any, rule: Any) -> None:
        self.options: dict[str, Any] = {"decrease": rule, "strength": STRENGTH, "scale": scale}
        self.theta, self.twin = [Parameter(tensor(values))], [Parameter(tensor(values))]
        self.start = [tensor(values)]
        self.opt = self.wrapped()
        self.base: Optimizer = SGD([group(self.twin[0], 0)], momentum=0.9)
        self.schedules = ExponentialLR(self.opt, 0.5), ExponentialLR(self.base, 0.5)
        self.rows: dict[str, dict[int, Tensor]] = {}
        self.state = "open"  # then "solved", then "spent": the direction is in .grad, and has been used
        self.stepped = False
        self.saved: dict[str, Any] | None = None
        self.fresh = True  # something has been done since the last checkpoint was written or read

    def wrapped(self) -> LessForgetting:
        """Return a new optimizer on the parameters."""
        return LessForgetting(SGD([group(p, i) for i, p in enumerate(self.theta)], momentum=0.9), **self.options)

    # ------------------------------------------------------------------ gradients

    @precondition(lambda self: self.state == "open")
    @rule(name=st.sampled_from(NAMES), at=places, centre=vectors, factor=st.sampled_from([0.5, 1.0, 3.0]))
    def accumulate(self, name: str, at: list[bool], centre: list[int], factor: float) -> None:
        """½·factor·‖θ_k − c‖² for some of the parameters."""
        reached = [i for i in range(len(self.theta)) if at[i]]
        if not reached and name not in self.rows:
            with pytest.raises(ValueError, match="must find a gradient"), self.opt.constraint(name):
                pass
            return
        with self.opt.constraint(name):
            for i in reached:
                (0.5 * factor * (self.theta[i] - tensor(centre)).square().sum()).backward()
        self.fresh = True
        row = self.rows.setdefault(name, {})  # blocks of one name add up
        for i in reached:
            gradient = factor * (self.twin[i].detach() - tensor(centre))
            row[i] = row[i] + gradient if i in row else gradient

    @precondition(lambda self: self.state == "open")
    @rule(centres=st.lists(vectors, min_size=3, max_size=3))
    def accumulate_all(self, centres: list[list[int]]) -> None:
        for name, centre in zip(NAMES, centres, strict=True):
            self.accumulate(name, [True] * MOST, centre, 1.0)

    @precondition(lambda self: self.state == "open")
    @rule(at=st.integers(0, MOST - 1), slope=vectors)
    def objective(self, at: int, slope: list[int]) -> None:
        """A plain backward pass outside."""
        for parameters in (self.theta, self.twin):
            if at < len(parameters):
                (parameters[at] @ tensor(slope)).backward()

    @precondition(lambda self: self.state == "open" and self.rows)
    @rule()
    def solve(self) -> None:
        self.opt.solve()
        self.compare_direction()

    def compare_direction(self) -> None:
        """What is in `.grad` is the direction of the mathematics; the model goes on with its digits."""
        used = [i for i, p in enumerate(self.twin) if p.grad is not None or any(i in row for row in self.rows.values())]
        zero = torch.zeros(WIDTH, dtype=torch.float64)
        J = torch.stack([torch.cat([row.get(i, zero) for i in used]) for row in self.rows.values()])
        blocks = []
        for i in used:
            gradient, parameter = self.twin[i].grad, self.twin[i].detach()
            block = zero if gradient is None else gradient
            blocks.append(block if i == 1 else block + parameter - self.start[i])
        expected, report = constrained_direction(J, torch.cat(blocks), **self.options)
        assert self.opt.report is not None
        assert self.opt.report.names == tuple(self.rows)
        parts = dict(zip(used, expected.split(WIDTH), strict=True))
        size = float(torch.cat(blocks).norm()) * report.pull + float(report.multipliers @ report.gradient_norms)
        for i, (parameter, twin) in enumerate(zip(self.theta, self.twin, strict=True)):
            if i not in parts:
                assert parameter.grad is None
                continue
            assert parameter.grad is not None
            assert (parameter.grad - parts[i]).norm() <= 2.0**-30 * size
            twin.grad = parameter.grad.clone()
        self.rows, self.state = {}, "solved"

    @rule(set_to_none=st.booleans())
    def zero_grad(self, set_to_none: bool) -> None:
        self.opt.zero_grad(set_to_none=set_to_none)
        self.base.zero_grad(set_to_none=set_to_none)
        self.rows, self.state = {}, "open"

    # ------------------------------------------------------------------ steps

    @precondition(lambda self: self.state == "solved" or (self.state == "open" and self.rows))
    @rule()
    def step(self) -> None:
        solved = self.state == "solved"
        self.opt.step()
        if not solved:  # by the step itself, from where the model still stands
            self.compare_direction()
        self.base.step()
        self.state, self.stepped, self.fresh = "spent", True, True

    @precondition(lambda self: self.stepped)
    @rule()
    def schedule(self) -> None:
        for schedule in self.schedules:
            schedule.step()

    @precondition(lambda self: len(self.theta) < MOST)
    @rule(values=vectors)
    def add_group(self, values: list[int]) -> None:
        index = len(self.theta)
        for optimizer, parameters in ((self.opt, self.theta), (self.base, self.twin)):
            parameters.append(Parameter(tensor(values)))
            optimizer.add_param_group(group(parameters[-1], index))
        self.start.append(tensor(values))

    # ------------------------------------------------------------------ checkpoints

    @precondition(lambda self: self.fresh)
    @rule()
    def save(self) -> None:
        self.fresh = False
        file = io.BytesIO()
        torch.save([self.opt.state_dict(), self.schedules[0].state_dict()], file)
        self.saved = {
            "file": file.getvalue(),
            "twin": copy.deepcopy([self.base.state_dict(), self.schedules[1].state_dict()]),
            "values": [parameter.detach().clone() for parameter in self.twin],
            "start": list(self.start),
        }

    def read(self) -> Any:
        """Return what was saved of the optimizer and its scheduler."""
        assert self.saved is not None
        return torch.load(io.BytesIO(self.saved["file"]), weights_only=True)

    @precondition(lambda self: self.fresh and self.saved is not None)
    @rule()
    def load(self) -> None:
        """Into the optimizer as it is: it drops the gradients of the step that it is in."""
        assert self.saved is not None
        self.fresh = False
        state, schedule = self.read()
        if len(self.saved["values"]) != len(self.theta):
            before = copy.deepcopy(self.opt.state_dict())
            with pytest.raises(ValueError, match="different number of parameter groups"):
                self.opt.load_state_dict(state)
            assert_identical(self.opt.state_dict(), before)
            return
        self.opt.load_state_dict(state)
        self.schedules[0].load_state_dict(schedule)
        self.load_twin()
        for parameter, value in zip(self.theta, self.saved["values"], strict=True):
            parameter.data.copy_(value)
        self.rows, self.state = {}, "spent" if self.state != "open" else "open"

    @precondition(lambda self: self.fresh and self.saved is not None)
    @rule()
    def resume(self) -> None:
        """In a new process, in all but name."""
        assert self.saved is not None
        self.fresh = False
        values = self.saved["values"]
        self.theta, self.twin = ([Parameter(value.clone()) for value in values] for _ in range(2))
        for parameter in self.theta:
            parameter.data.add_(1)  # so that θ₀ must come from the checkpoint
        self.opt = self.wrapped()
        self.base = SGD([group(p, i) for i, p in enumerate(self.twin)], momentum=0.9)
        self.schedules = ExponentialLR(self.opt, 0.5), ExponentialLR(self.base, 0.5)
        state, schedule = self.read()
        self.opt.load_state_dict(state)
        self.schedules[0].load_state_dict(schedule)
        self.load_twin()
        for parameter, value in zip(self.theta, values, strict=True):
            parameter.data.copy_(value)
        self.rows, self.state, self.stepped = {}, "open", False

    def load_twin(self) -> None:
        """Bring the model to what was saved of it."""
        assert self.saved is not None
        state, schedule = self.saved["twin"]
        self.base.load_state_dict(copy.deepcopy(state))
        self.schedules[1].load_state_dict(copy.deepcopy(schedule))
        for parameter, value in zip(self.twin, self.saved["values"], strict=True):
            parameter.data.copy_(value)
        self.start = list(self.saved["start"])

    # ------------------------------------------------------------------ what always holds

    @invariant()
    def what_is_too_early_or_too_late_says_so(self) -> None:
        if self.state != "open":
            with pytest.raises(RuntimeError, match="last direction still in"), self.opt.constraint("en"):
                pass
            with pytest.raises(RuntimeError, match="last direction still in"):
                self.opt.solve()
        elif not self.rows:
            with pytest.raises(RuntimeError, match="must come after the gradients of at least one constraint"):
                self.opt.solve()
        if self.state == "spent" or (self.state == "open" and not self.rows):
            with pytest.raises(RuntimeError, match="must come after"):
                self.opt.step()

    @invariant()
    def parameters_and_gradients_are_those_of_the_model(self) -> None:
        for parameter, twin in zip(self.theta, self.twin, strict=True):
            assert_identical(parameter.detach(), twin.detach())
            assert_identical(parameter.grad, twin.grad)

    @invariant()
    def the_checkpoint_is_that_of_the_base_with_the_starting_point(self) -> None:
        state = self.opt.state_dict()
        anchor = state.pop("less_forgetting")["anchor"]
        assert_identical(state, self.base.state_dict())
        assert_identical(anchor, {i: start for i, start in enumerate(self.start) if i != 1})


TestAnyOrder = Machine.TestCase
TestAnyOrder.settings = settings(max_examples=100, stateful_step_count=50, suppress_health_check=[HealthCheck.too_slow])
