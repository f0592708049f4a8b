"""`LessForgetting`: an optimizer around an optimizer, which hands it the constrained less-forgetting direction.

In: losses, or backward passes. Out: `.grad` and the base's step. May import: losses, jacobian, gathering, one_pass,
direction, anchor, starts, decrease, enforcement, groups, lagrangian, metric, noise, options, report, sketch,
step_report, storage, values. The only file that reads `param_groups` of an optimizer and knows its state dicts, and
with metric `torch.optim`.
"""

import warnings
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mgrad.anchor import Anchor
from mgrad.decrease import DecreaseRule, KeepPace
from mgrad.direction import Normalise, Scale, Solved, Solver, check_options, solve_direction
from mgrad.enforcement import Promise
from mgrad.gathering import Gathering
from mgrad.groups import check_groups, every_parameter, least_rate, not_finite, still, trainable
from mgrad.jacobian import (
    Block,
    Row,
    capture,
    check_dense,
    combine,
    gradient_type,
    gramian,
    norm,
    shared_graphs,
    whole,
)
from mgrad.lagrangian import Lagrangian, returned_losses
from mgrad.losses import (
    OBJECTIVE,
    Loss,
    check_finite,
    check_loss,
    check_names,
    loss_call,
    loss_values,
    named_losses,
)
from mgrad.metric import preconditioner, preconditioner_row
from mgrad.noise import GramianAverage, HalfBatches, Noise, RowAverage, SmoothRows
from mgrad.one_pass import OnePass, check_examples
from mgrad.options import Enforce, Metric, check_wrapping
from mgrad.report import Report
from mgrad.sketch import Sketch, Twice, Vectors, sketched_gramian
from mgrad.starts import Starts
from mgrad.step_report import StepReport
from mgrad.storage import Storage
from mgrad.values import root

_KEY = "less_forgetting"  # of our part of a state dict, which a bare optimizer ignores
_OPTIONS = (
    *("anchor", "decrease", "strength", "scale", "limit", "normalise", "noise", "solver", "metric", "enforce"),
    *("storage", "constraints", "missing"),
)
_SHARED = ("decrease", "strength", "scale", "limit", "normalise", "solver")  # options of `constrained_direction`, too
_OWN = ("anchor", "noise", "solver", "metric", "enforce", "storage")
_FIXED = ("anchor", "noise", "storage", "constraints", "missing")  # of which something is kept from step to step


class LessForgetting(Optimizer):
    """Fine-tune on several losses so that every one falls, with the least forgetting (math.md, 1).

    Wraps any `torch.optim` optimizer and gives it, in place of the gradient, the direction d nearest to pure
    unforgetting under which every constraint loss still falls as the rule `decrease` requires. With no pull
    (`strength=0`) and no conflict between the losses, d is the gradient of their sum and every step is that of plain
    fine-tuning. Parameter groups, state and defaults are the base's own: schedulers, clipping and checkpoints work on
    either.

    Args:
        base: the optimizer to wrap, with its parameters. Real dense parameters only.
        anchor: the forgetting objective f₀ in closed form, `Anchor`, `FisherAnchor` or a sum of such, from the weights
            at this moment; None for the objectives passed to `backward` alone. A group's `"anchor"` (default 1.0)
            multiplies its part, 0.0 leaves the group out.
        decrease: the rule for the required decrease b: `KeepPace`, `MinNorm`, `NoIncrease`, `ParetoNavigation`,
            `Target` or `Proportional` (docs/choosing.md).
        strength: of the pull of the objective, ≥ 0, in the sense of `scale`.
        scale: "relative": the pull has the norm strength·‖r‖, whatever the units of f₀; "absolute": strength·∇f₀.
        limit: the multipliers are kept within Σ λᵢ‖gᵢ‖ ≤ limit·(‖p‖ + max bᵢ⁺/‖gᵢ‖), p the pull; where this binds, the
            report's status says so.
        normalise: "gradient" poses (1) for gᵢ/‖gᵢ‖, in the `metric`; "loss" for gᵢ/fᵢ = ∇log fᵢ, fᵢ > 0: the direction
            then does not depend on the units of any loss, and has none of its own, so that the learning rate must be
            chosen anew (math.md, 70-71). None for gᵢ.
        noise: None takes the gradients as they come; `SmoothRows()`, `SmoothGramian()` or `HalfBatches()` sets what is
            known from other steps or from two half batches against their noise (docs/choosing.md).
        solver: "active_set" solves exactly, on the host, which waits for the gradients; "device" solves where the
            parameters are, which must be one device, with fixed work and without ever waiting (docs/how-to.md).
        metric: in which (1) is meant. "euclidean"; or "base", that of the base's own preconditioner, so that its step
            along d keeps the promise (math.md, 50-52): of SGD, Adam, AdamW, RMSprop, Adagrad and Adafactor.
        enforce: "gradient" promises the decrease of d alone; "step" corrects what the base makes of it, momentum and
            weight decay included, by the least change under which every loss falls by η·b to first order, η the least
            learning rate of the groups (math.md, 53-54). The rows are kept until then.
        storage: `Storage(...)` keeps the rows and θ₀ in less memory of the device; None as they are (docs/how-to.md).
        constraints: the names that every step must have, no more and no fewer; None for any.
        missing: whether a step may lack some of `constraints`, all but one at most, such as a language without a batch
            this time. They have no part in that step: nothing is required of them.

    Raises:
        TypeError: if the base is no optimizer, a parameter is complex or sharded, or an option of the wrong kind.
        ValueError: for a wrong option, a base that maximises, or an anchor reference or group `"anchor"` that does not
            fit.

    Attributes:
        base: the wrapped optimizer.
        report: the `Report` of the last solve, None before the first.
        step_report: with enforce="step" the `StepReport` of the last step, None before the first.

    Cost: of a step: one backward pass and n gradient values for each constraint, n values for θ₀, one read of
        each row for G, one combination of them, solves over m variables. On a CPU the memory of all rows but one is
        kept for the next step. `storage` has less.
        metric="base": P once more for each parameter. enforce="step": memory of the rows and of n values, two further
        reads of each row; with metric="base" memory of P, too.
    Source: "Less-forgetting Multi-lingual Fine-tuning" (Mao et al., NeurIPS 2022) for the problem; math.md for the
        formulas.

    Example:
        >>> model = torch.nn.Linear(3, 1)
        >>> opt = LessForgetting(torch.optim.AdamW(model.parameters(), lr=1e-2))
        >>> opt.zero_grad()
        >>> report = opt.backward({"en": model(torch.ones(3)).square().sum(), "de": model(torch.zeros(3)).exp().sum()})
        >>> opt.step()
        >>> report.names
        ('en', 'de')
    """

    # What is of one step; `_reset` empties it, and no copy or checkpoint holds it.
    _gathering: Gathering  # the gradients that wait
    _solved: bool  # `.grad` holds the direction
    _lagrangian: Lagrangian | None  # whose gradient that is
    _promise: Promise | None  # of that direction, where the step is to keep it
    _spent: tuple[weakref.ref[Tensor], int] | None = None  # a gradient that the last step has used, and its version

    def __init__(
        self,
        base: Optimizer,
        *,
        anchor: Anchor | None = Anchor(),  # noqa: B008 - holds no state
        decrease: DecreaseRule = KeepPace(),  # noqa: B008 - frozen
        strength: float = 0.1,
        scale: Scale = "relative",
        limit: float = 1e4,
        normalise: Normalise | None = None,
        noise: Noise | None = None,
        solver: Solver = "active_set",
        metric: Metric = "euclidean",
        enforce: Enforce = "gradient",
        storage: Storage | None = None,
        constraints: Iterable[str] | None = None,
        missing: bool = False,
    ) -> None:
        """Check the options and remember θ₀."""
        if not isinstance(base, Optimizer):
            found = f"the class {base.__name__}" if isinstance(base, type) else type(base).__name__
            raise TypeError(
                f"`LessForgetting(base)` must be an instance of torch.optim.Optimizer. Found {found}. "
                "Pass one with its parameters, such as torch.optim.AdamW(model.parameters())."
            )
        self.base = base
        self.anchor = anchor
        self.decrease = decrease
        self.strength = strength
        self.scale: Scale = scale
        self.limit = limit
        self.normalise: Normalise | None = normalise
        self.noise: Noise | None = noise
        self.solver: Solver = solver
        self.metric: Metric = metric
        self.enforce: Enforce = enforce
        self.storage = Storage() if storage is None else storage
        self._check_options()
        self._sketches = 0  # so many have been drawn
        self.constraints = None if constraints is None else check_names(constraints)
        if missing and self.constraints is None:
            raise ValueError(
                "`LessForgetting(missing=True)` must know the constraints of which some may be missing. Found none. "
                "Name them all: LessForgetting(constraints=[...], missing=True). Without `constraints` any are taken."
            )
        self.missing = missing
        self.report: Report | None = None
        self.step_report: StepReport | None = None
        self._row_average = RowAverage(noise.decay) if isinstance(noise, SmoothRows) else None
        self._gramian_average = GramianAverage(noise.decay) if noise and not self._row_average else None
        # Not Optimizer.__init__, which would add the base's groups anew and give them a second state: here groups,
        # state and defaults are properties that show the base's. __setstate__ sets up hooks and profiling.
        self.__setstate__({})
        check_groups(self.param_groups)
        self._starts = Starts(anchor, self.storage, self.param_groups)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; an option of an optimizer in use is checked as when wrapping, or refused."""
        if "_gathering" in vars(self):
            if name in _FIXED:
                raise AttributeError(
                    f"`opt.{name} = ...` must be set when wrapping. Found {value!r} for an optimizer in use. Wrap the "
                    "base anew; for no pull set opt.strength = 0."
                )
            if name in {*_SHARED, *_OWN}:
                self._check_options(**{name: value})
        super().__setattr__(name, value)

    # ------------------------------------------------------------------ what is the base's

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The base's parameter groups; while gradients wait for the solve, these too, for a `GradScaler` to unscale."""
        return self._gathering.shown(self.base.param_groups)

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.base.param_groups = groups

    @property
    def state(self) -> Any:
        """The base's state; nothing of ours is in it."""
        return self.base.state

    @state.setter
    def state(self, state: Any) -> None:
        self.base.state = state

    @property
    def defaults(self) -> dict[str, Any]:
        """The base's defaults."""
        return self.base.defaults

    @defaults.setter
    def defaults(self, defaults: dict[str, Any]) -> None:
        self.base.defaults = defaults

    @property
    def start(self) -> Mapping[Tensor, Tensor]:
        """θ₀ by parameter, of those that are anchored: the tensors themselves, to be read and not to be written."""
        return MappingProxyType(self._starts.start)

    # ------------------------------------------------------------------ gradients

    def backward(
        self,
        constraints: Mapping[str, Loss] | Sequence[Loss],
        objective: Tensor | Callable[[], Tensor] | None = None,
        *,
        examples: Mapping[str, int | Sequence[int]] | Sequence[int | Sequence[int]] | None = None,
    ) -> Report:
        """Backpropagate every loss, compute the direction and write it to `.grad`.

        The losses are backpropagated in order. The graph of a loss is freed by its own backward pass, unless it
        shares operations with a later loss: then by the last loss that uses it. One graph at a time, with less
        memory, is the `constraint` form.

        Args:
            constraints: scalar losses that are each to fall, by name, or in order (their names are then "0", "1", …).
                With storage=Storage(rows="sketch") functions without arguments that return them, which are called
                twice, with the same random numbers, so that one graph at a time is held; a tensor keeps its graph.
                With noise=HalfBatches() a pair for each, of the two halves of its batch: the loss is their mean.
            objective: a scalar loss added to the anchor's f₀, or a function without arguments that returns it.
            examples: where the losses come from one forward pass over one batch, how many of its examples are whose, in
                their order, by name or in the order of the losses: all losses are then backpropagated together, and
                the rows are the same up to rounding (math.md, 130-132). With noise=HalfBatches() a pair for each.

        Returns:
            The report of the direction. With solver="device" its figures are fetched when they are looked at.

        Raises:
            TypeError: if a loss is not a tensor (with noise=HalfBatches() a pair of them), a name not a string, a
                number of examples no integer, or a gradient is sparse.
            ValueError: if there is no constraint, a name is unknown or has gradients already, or a loss is not a real
                scalar, needs no gradient, or depends on none of the parameters; if `examples` do not fit the losses,
                batch norm in training mode mixes them, or no rows are kept; if a function returns another loss at its
                second call; as `solve`.
            RuntimeError: if `.grad` still holds a direction, or inside a `constraint` block; with `examples`, if a
                gradient is accumulated behind the graph's back.
            FloatingPointError: if a loss or a gradient is not finite. After any error the gradients of this call are
                dropped; parameters, optimizer state and what stood in `.grad` are as before. With solver="device"
                neither losses nor gradients are asked whether they are finite: where a gradient is not, the direction
                is 0, and looking at the report raises.

        Warns:
            UserWarning: among several processes: `DistributedDataParallel` averages one backward pass alone after a
                forward pass.

        Cost: m backward passes (and one for the objective), with `examples` one; with storage=Storage(rows="sketch")
            another one for each multiplier above 0.
        """
        _warn_of_processes()
        if self.storage.rows == "sketch":
            if examples is not None:
                raise ValueError(
                    f"`opt.backward(..., examples={examples!r})` must keep the rows that one pass makes. Found "
                    'Storage(rows="sketch"), which keeps none. Leave `examples` out, or use another storage.'
                )
            return self._backward_twice(constraints, objective)
        losses = named_losses(constraints, parts=2 if isinstance(self.noise, HalfBatches) else 1)
        spans = None if examples is None else check_examples(examples, losses)
        parts = [(name, part) for name, pair in losses.items() for part in pair]
        everything = [(loss_call(name), part) for name, part in parts]
        for call, loss in everything:
            check_loss(call, loss)
        self._check_open("opt.backward(...)")
        self._gathering.drop_overflow()
        for name in losses:
            self._check_name(loss_call(name), name)
            if name in self._gathering.rows:
                raise ValueError(
                    f"`{loss_call(name)}` must name a constraint that has no gradients yet. Found some "
                    f"from `opt.constraint({name!r})`. Use one of the two forms, or call opt.zero_grad() first."
                )
        if objective is not None:
            # Called when nothing else can be wrong: `Replay` goes on by a batch.
            everything.append((OBJECTIVE, objective() if callable(objective) else objective))
            check_loss(*everything[-1])
        try:
            seeds = [torch.full_like(part, 1 / len(losses[name])) for name, part in parts]
            if spans is None:
                retained = shared_graphs([loss for _, loss in everything])
                for (name, part), seed, retain in zip(parts, seeds, retained, strict=False):
                    with self.constraint(name):
                        torch.autograd.backward(part, seed, retain_graph=retain)
            else:
                later, wait = None if objective is None else everything[-1][1], self.solver != "device"
                together = [part for _, part in parts]
                rows = self._one_pass.rows(together, seeds, spans, self._parameters(), later, wait=wait)
                for (name, _), row in zip(parts, rows, strict=True):
                    with self.constraint(name):
                        for parameter, block in row.items():
                            parameter.grad = block
            if objective is not None:
                with capture(self._parameters(), self._gathering.objective):
                    torch.autograd.backward(everything[-1][1])
                _check_reached(OBJECTIVE, self._gathering.objective)
            values: dict[str, float | Tensor] = {name: pair[0] for name, pair in losses.items()}
            # After the passes: before them the question would make the device wait.
            if self.solver != "device":
                numbers = [loss.item() for _, loss in everything]
                for (call, _), number in zip(everything, numbers, strict=True):
                    check_finite(call, number)
                values = dict.fromkeys(losses, 0.0)
                for (name, _), number in zip(parts, numbers, strict=False):
                    values[name] += number / len(losses[name])
            return self.solve(values if values.keys() == self._gathering.rows.keys() else None)
        except BaseException:
            self._gathering.forget(losses)
            raise

    def _backward_twice(self, constraints: Any, objective: Any) -> Report:
        """Do what `backward` does without keeping a gradient: sketch them all, solve, and add them up in `.grad`."""
        losses = {name: loss for name, (loss,) in named_losses(constraints).items()}
        self._check_open("opt.backward(...)")
        for name in losses:
            self._check_name(loss_call(name), name)
        names = self._ordered(losses, "`opt.backward(constraints)` must hold", "", "Pass their losses")
        parameters = self._parameters()
        check_dense("objective_loss.backward()", parameters)
        twice = [Twice(loss_call(name), losses[name], parameters) for name in names]
        if objective is not None:
            twice.append(Twice(OBJECTIVE, objective() if callable(objective) else objective, parameters))
        sketch = Sketch(self.storage.sketch, parameters, self._sketches)
        vectors: list[Vectors] = [{} for _ in range(len(names) + 1)]  # the last is that of g₀
        reached = set[Tensor]()
        for loss, vector in zip(twice, vectors, strict=False):
            with sketch.take(vector) as found:
                loss.first()
            _check_reached(loss.call, found)
            check_finite(loss.call, loss.value)
            reached |= found
        pull = self._objective_row(reached)
        for parameter in parameters:
            if (block := pull(parameter)) is not None:
                sketch.add(vectors[-1], parameter, block)
        values = torch.tensor([loss.value for loss in twice[: len(names)]], dtype=torch.float64, device="cpu")
        average = self._gramian_average
        solved, _ = self._decide(names, sketched_gramian(vectors), values, None)
        outside = [parameter.grad for parameter in parameters]
        try:
            for parameter, block in zip(parameters, combine([pull], [solved.pull], parameters, keep=True), strict=True):
                if block is None and parameter in reached:
                    block = torch.zeros_like(parameter, dtype=gradient_type(parameter))
                parameter.grad = block
            for loss, factor in zip(twice, [*solved.multipliers, solved.pull], strict=False):
                if factor:
                    loss.second(float(factor))
        except BaseException:
            for parameter, gradient in zip(parameters, outside, strict=True):
                parameter.grad = gradient
            self._gramian_average = average
            raise
        self._sketches += 1
        return self._settle(names, solved)

    @contextmanager
    def constraint(self, name: str) -> Iterator[None]:
        """Let what is backpropagated inside the block be the gradient of one constraint.

        Several backward passes add up, in one block or in several of the same name; with noise=HalfBatches() there are
        two blocks of each name, of two halves whose gradients add up to the row. Gradients that stood in `.grad`
        before are back after the block; plain backward passes outside of any block belong to the objective.

        Args:
            name: of the constraint.

        Yields:
            Nothing; call `loss.backward()` inside.

        Raises:
            TypeError: if the name is not a string, or a gradient is sparse.
            ValueError: if the name is not among the optimizer's `constraints`, or nothing that was backpropagated
                depends on the parameters.
            RuntimeError: inside another block, or while `.grad` still holds a direction; for a third half; with
                storage=Storage(rows="sketch"), which keeps no gradient.

            After an exception inside the block the constraint has no gradient, whatever had been added up before.

        Cost: no memory beyond n gradient values for each name.

        Example:
            >>> weights = torch.nn.Parameter(torch.ones(2))
            >>> opt = LessForgetting(torch.optim.SGD([weights], lr=0.1))
            >>> for name, batches in {"en": [1.0, 2.0], "de": [3.0]}.items():
            ...     with opt.constraint(name):
            ...         for batch in batches:
            ...             (batch * weights).square().sum().backward()
            >>> opt.solve().names
            ('en', 'de')
        """
        call = f"opt.constraint({name!r})"
        if self.storage.rows == "sketch":
            raise RuntimeError(
                f'`{call}` must keep a gradient. Found Storage(rows="sketch"), which keeps none. Pass functions that '
                "return the losses to opt.backward(...), or use another storage."
            )
        self._check_name(call, name)
        self._check_open(call)
        self._gathering.drop_overflow()
        with self._gathering.take(name, self._parameters, self._still):
            yield

    def solve(self, losses: Mapping[str, float | Tensor] | None = None) -> Report:
        """Compute the direction from the gradients so far and write it to `.grad`.

        `step` does it if it has not been done; call it to clip, scale or look at the direction first. A parameter that
        took no part in any loss keeps no gradient and is left alone, anchored or not, as in plain fine-tuning.

        Args:
            losses: the value of every constraint by name, numbers or scalar tensors, for a rule that asks for them
                (`Target`) and for normalise="loss"; `backward` passes its own. With solver="device" they are not asked
                whether they are finite.

        Returns:
            The report, also kept in `report`.

        Raises:
            ValueError: if constraints that the optimizer was promised are missing, the rule does not fit them or asks
                for losses that it is not told; if the losses have other names or are no scalars; with
                normalise="loss", if they are not known or not positive; with solver="device", if the parameters are on
                several devices.
            RuntimeError: if there is no constraint gradient or the direction is there already; if a parameter was
                added behind the wrapper's back.
            TypeError: if what was backpropagated outside of any constraint has left a sparse gradient, the losses are
                no mapping to numbers or tensors, or the rule returns no `Requirement` of them all.
            FloatingPointError: if a gradient or a loss is not finite; nothing is changed then. With solver="device" the
                direction is 0 instead, and looking at the report raises.

        Cost: one read of each row, one combination, three solves over m variables.
        """
        self._check_open("opt.solve()")
        gathering = self._gathering
        if not gathering.rows:
            raise RuntimeError(
                "`opt.solve()` and `opt.step()` must come after the gradients of at least one constraint. Found none. "
                "Call opt.backward(losses), or backpropagate inside `with opt.constraint(name):`."
            )
        names = self._ordered(gathering.rows, "`opt.solve()` must come after", "gradient of ", "Backpropagate them")
        half = [name for name in gathering.rows if name not in gathering.halves]
        if isinstance(self.noise, HalfBatches) and half:
            raise ValueError(
                f"`opt.solve()` must come after both halves of every constraint with noise=HalfBatches(). Found one of "
                f"{half}. Backpropagate the other in a second `with opt.constraint(name):`."
            )
        parameters = self._parameters()
        check_dense("objective_loss.backward()", parameters)
        rows: list[Row] = [*(self._row(name) for name in names), self._objective_row()]
        home = self._home(parameters)
        known: Any = None if losses is None else loss_values(losses, names, home if self.solver == "device" else None)
        metric = self._metric_row(rows, parameters, home, known)
        products: Any = gramian(rows, parameters, home, metric)
        solved, products = self._decide(names, products, known, rows)
        if self._row_average is not None:
            for i, name in enumerate(names):  # one by one: an old mean goes when its new one is there
                rows[i] = self._row_average.add(name, gathering.rows[name])
        coefficients, keep = [*solved.multipliers, solved.pull], bool(self._row_average) or self.enforce == "step"
        directions = combine(rows, coefficients, parameters, keep=keep)
        for parameter, block in zip(parameters, directions, strict=True):
            parameter.grad = block
            if block is not None and solved.void is not None:
                block.masked_fill_(solved.void, 0.0)
        report = self._settle(names, solved)
        if self.enforce == "step":
            G, b, error, still = products[:-1, :-1], solved.decrease, solved.error, self._still()
            if self._gramian_average is not None:
                b, error = solved.brought(products)
            self._promise = Promise(names, rows[:-1], parameters, still, metric, G, b, error, self.limit, home)
        return report

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of this step: those of the constraints and those in `.grad`.

        Args:
            set_to_none: as in torch.

        Raises:
            RuntimeError: inside a `constraint` block, whose gradients would be lost; on a framework's wrapper that has
                taken on this class, which would zero nothing of ours.
        """
        self._check_itself("opt.zero_grad()")
        self._check_closed("opt.zero_grad()")
        self._reset()
        self._spent = None
        self.base.zero_grad(set_to_none=set_to_none)

    # ------------------------------------------------------------------ steps

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Let the base take its step along the direction, which is computed first if it has not been.

        With a closure that returns the losses a base may evaluate them several times in one step, as LBFGS does: the
        multipliers are those of the step's beginning, and what the step lowers is φ = α·f₀ + Σ λᵢfᵢ (math.md, 104).

        Args:
            closure: returns the losses as `backward` takes them, but as tensors, or a pair of these and an objective;
                they are backpropagated here. Or, as in torch, it calls `zero_grad` and `backward` (or the `constraint`
                blocks) itself and returns a loss: every evaluation then has multipliers of its own.

        Returns:
            What the base's step returns: of the first kind of closure φ at the step's beginning, a tensor.

        Raises:
            ValueError: as `backward` and `solve`; if later evaluations have other constraints than the first.
            RuntimeError: as `solve`: there must be something to step on; if losses are returned of which something has
                been backpropagated before.
            FloatingPointError: as `solve`; parameters and state are untouched then. After an error at a later
                evaluation of losses they are where the base has left them, and there are no gradients.

        Cost: of the first evaluation that of `backward`, of each further one a single backward pass.
        """
        if closure is None and not self._solved:
            self.solve()
        underway = _Underway()
        self._begin(underway)
        before, rate = {}, 0.0
        if self.enforce == "step" or self._promise is not None:
            # What has been frozen since the solve still has its part of the direction, and moves.
            parameters = self._promise.parameters if self._promise is not None else self._parameters()
            before, rate = {p: p.detach().clone() for p in parameters}, least_rate(self.base.param_groups)
        hook = None
        if underway.promise is not None and getattr(self.base, "_optimizer_step_pre_hooks", None):
            # What another hook of the base's leaves, which may clip: this one is the last.
            hook = self.base.register_step_pre_hook(lambda *_: self._begin(underway))
        try:
            result = self.base.step() if closure is None else self.base.step(lambda: self._evaluate(closure, underway))
        except BaseException:
            if underway.lagrangian is not None:
                self.zero_grad()  # the gradient of φ is of no step that can go on
            raise
        finally:
            if hook is not None:
                hook.remove()
        if underway.promise is not None:
            self.step_report = underway.promise.keep(before, rate, underway.share)
        self._reset()
        self._mark_spent()
        return result

    def _evaluate(self, closure: Callable[[], Any], underway: "_Underway") -> Any:
        """Call the closure and leave the direction in `.grad`; the first call promises: the step begins there."""
        with torch.enable_grad():
            found = closure()
            if (losses := returned_losses(found)) is not None:
                found = self._evaluate_losses(*losses, underway)
        if not self._solved:
            self.solve()
        if underway.promise is None:
            self._begin(underway)
        return found

    def _begin(self, underway: "_Underway") -> None:
        """Note what is promised of the step that begins with what is in `.grad`."""
        if self._promise is not None:
            underway.promise, underway.share = self._promise, self._promise.share()

    def _evaluate_losses(self, losses: Any, objective: Any, underway: "_Underway") -> Tensor:
        """Leave the gradient of φ in `.grad`: at the first evaluation of a step d, whose φ is then held."""
        held = underway.lagrangian
        if held is None and (self._gathering.rows or self._solved):
            raise RuntimeError(
                "`opt.step(closure)` must backpropagate the losses that the closure returns. Found gradients of "
                f"{list(self._gathering.rows) or 'a direction'} already. Return the losses and leave them be, or "
                "backpropagate them and return a number."
            )
        named = named_losses(losses, parts=2 if isinstance(self.noise, HalfBatches) else 1)
        for name, pair in named.items():
            for part in pair:
                check_loss(loss_call(name), part)  # their values are part of φ: a function is none, sketched or not
        if objective is not None:
            objective = objective() if callable(objective) else objective
            check_loss(OBJECTIVE, objective)
        self.zero_grad()
        if held is None:
            self.backward(losses, objective)
            assert self._lagrangian is not None
            held = underway.lagrangian = self._lagrangian
        else:
            held.backward(named, objective)
        forgetting = [] if objective is None else [objective.detach()]
        for parameter, strength in self._starts.strengths(self.base.param_groups).items():
            if strength and parameter.requires_grad and parameter.grad is not None:
                forgetting.append(self._starts.moved(parameter, strength))
                if not self._solved:  # in a later evaluation; in d it is already
                    parameter.grad.add_(self._starts.pull_back(parameter, strength).mul_(held.pull))
        self._solved = True
        return held.value(named, forgetting)

    # ------------------------------------------------------------------ groups and checkpoints

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base and anchor it at its present weights, unless it says `"anchor": 0.0`.

        Args:
            param_group: as in torch.

        Raises:
            TypeError: if a parameter is complex or sharded.
            ValueError: if the anchor has tensors of its own, which cannot know the new parameters. The group is not
                added then.
        """
        self.base.add_param_group(param_group)
        try:
            group = self.base.param_groups[-1]
            check_groups([group])
            self._starts.extend(group)
        except BaseException:
            self.base.param_groups.pop()
            raise

    def state_dict(self) -> dict[str, Any]:
        """Return the base's state dict with θ₀ beside it; it also loads in the bare base.

        Returns:
            The base's state dict and, under "less_forgetting", θ₀ by the parameters' position in the groups.
        """
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        state_dict = self.base.state_dict()
        places = every_parameter(self.base.param_groups)
        state_dict[_KEY] = {"anchor": self._starts.state_dict(places)}
        if (average := self._row_average or self._gramian_average) is not None:
            state_dict[_KEY]["noise"] = {type(self.noise).__name__: average.state_dict(places)}
        if self.storage.rows == "sketch":
            state_dict[_KEY]["sketches"] = self._sketches
        for after in self._optimizer_state_dict_post_hooks.values():
            changed = after(self, state_dict)
            state_dict = state_dict if changed is None else changed
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict of the wrapper, or one of the bare base: θ₀ then stays what it is.

        What `noise` averages goes on from where it was saved, and begins anew where it was not.

        Args:
            state_dict: from `state_dict` of a wrapper or of a base with the same groups.

        Raises:
            ValueError: if it does not fit; nothing is changed then.
        """
        state_dict = state_dict.copy()
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            changed = before(self, state_dict)
            state_dict = state_dict if changed is None else changed
        own = state_dict.pop(_KEY, None)
        starts = own["anchor"] if own else {}
        if self._starts.start and not starts:
            warnings.warn(
                "`opt.load_state_dict(...)` must hold θ₀ to restore it. Found none, as in a checkpoint of the bare "
                "base. The anchor stays at the weights of when it was wrapped: wrap before you load the model's.",
                stacklevel=2,
            )
        places = every_parameter(self.base.param_groups)
        self._starts.check_state_dict(starts, places)
        anchors = [group.get("anchor") for group in self.base.param_groups]
        self.base.load_state_dict(state_dict)
        for group, anchor in zip(self.base.param_groups, anchors, strict=True):
            if own is None and anchor is not None:
                group.setdefault("anchor", anchor)  # a bare checkpoint does not know it
        self._starts.load_state_dict(starts, places)
        self._sketches = own.get("sketches", 0) if own else self._sketches
        means = own.get("noise", {}).get(type(self.noise).__name__) if own else None
        if self._row_average is not None:
            self._row_average = self._row_average.loaded(means, places)
        if self._gramian_average is not None:
            self._gramian_average = self._gramian_average.loaded(means, places)
        if self._solved:
            self._mark_spent()
        self._reset()
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle keeps: as in torch no hooks, and no gradients."""
        ours = ("report", "step_report", "_sketches", "_row_average", "_gramian_average", "_starts")
        return {name: getattr(self, name) for name in ("base", *_OPTIONS, *ours)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a state of `__getstate__`, with no gradients."""
        super().__setstate__(state)
        self._gathering = Gathering(self.storage, halved=isinstance(self.noise, HalfBatches))
        self._reset()
        self._one_pass = OnePass()
        self.register_step_pre_hook(_solve_first)

    def __repr__(self) -> str:
        """Show the options and the base."""
        base = "\n".join("  " + line for line in repr(self.base).splitlines())
        return f"LessForgetting({', '.join(f'{name}={getattr(self, name)!r}' for name in _OPTIONS)}\n{base}\n)"

    # ------------------------------------------------------------------ inside

    def _reset(self) -> None:
        """Have no gradients of any constraint."""
        self._gathering.clear()
        self._solved = False
        self._lagrangian = None
        self._promise = None

    def _mark_spent(self) -> None:
        """Remember one of the gradients that are in `.grad` as a direction that was used."""
        gradient = next((p.grad for p in self._parameters() if p.grad is not None), None)
        self._spent = None if gradient is None else (weakref.ref(gradient), gradient._version)

    def _is_spent(self, gradient: Tensor | None) -> bool:
        """Tell whether a gradient is that of the last step, also if something was added to it; not if it was zeroed."""
        if gradient is None or self._spent is None or gradient is not self._spent[0]():
            return False
        if gradient._version == self._spent[1]:
            return True
        # On a device the question whether all is 0 would wait: what was changed is taken for zeroed.
        return self.solver != "device" and bool(gradient.any())

    def _parameters(self) -> list[Tensor]:
        """Return the parameters that want a gradient, in the order of the groups."""
        return trainable(self.base.param_groups)

    def _home(self, parameters: Sequence[Tensor]) -> torch.device:
        """Return where the step is solved."""
        if self.solver != "device":
            return torch.device("cpu")
        devices = list(dict.fromkeys(str(parameter.device) for parameter in parameters))
        if len(devices) != 1:
            raise ValueError(
                '`LessForgetting(solver="device")` must have all parameters on one device. Found them on '
                f'{", ".join(devices)}. Move the model to one, or use solver="active_set".'
            )
        return parameters[0].device

    def _decide(
        self, names: Sequence[str], products: Any, known: Any, rows: Sequence[Row] | None
    ) -> tuple[Solved, Any]:
        """Return the answer for the products of the rows and g₀, and these where it is.

        Args:
            names: of the constraints.
            products: [m + 1, m + 1].
            known: the values of the losses, or None.
            rows: to look for what is not finite; None where they are not kept.
        """
        estimate, average = products, self._gramian_average
        if self.solver != "device":
            if not products.isfinite().all():
                self._raise_not_finite([*(f"constraint {name!r}" for name in names), "the objective"], products, rows)
            if average is not None:
                average = average.then(
                    names, products, {n: (h * h.abs()).to(products) for n, h in self._gathering.halves.items()}
                )
                estimate = average.estimate(names, products[-1, -1])
            products, estimate, known = products.numpy(), estimate.numpy(), None if known is None else known.numpy()
        solved = solve_direction(
            estimate[:-1, :-1],
            estimate[:-1, -1],
            root(estimate[-1, -1]),
            losses=known,
            names=names,
            decrease=self.decrease,
            strength=self.strength,
            scale=self.scale,
            limit=self.limit,
            normalise=self.normalise,
            declared=self.constraints,
        )
        self._gramian_average = average
        return solved, products

    def _settle(self, names: Sequence[str], solved: Solved) -> Report:
        """Give up the gradients for the direction, which is in `.grad` now."""
        self._reset()
        self._solved, self.report = True, solved.report
        self._lagrangian = Lagrangian(dict(zip(names, solved.multipliers, strict=True)), solved.pull)
        return solved.report

    def _metric_row(
        self, rows: Sequence[Row], parameters: Sequence[Tensor], home: torch.device, losses: Tensor | None
    ) -> Row | None:
        """Return P for the rows of a step, None for 1."""
        if self.metric == "euclidean":
            still = self._still()
            return (lambda p: torch.full_like(p, float(p not in still), dtype=torch.float32)) if still else None
        sizes: Sequence[Any] | None = None
        if self.normalise == "gradient":
            # By the Euclidean norms, as those in P are not known yet.
            sizes = [norm((b for p in parameters if (b := whole(row(p))) is not None), home) for row in rows[:-1]]
        elif self.normalise == "loss" and losses is not None:
            sizes = list(losses)
        return preconditioner_row(self.base, self.base.param_groups, rows, sizes, keep=self.enforce == "step")

    def _still(self) -> set[Tensor]:
        """Return what keeps no promise of a step and is not to be corrected."""
        return set() if self.enforce == "gradient" else still(self.base.param_groups)

    def _row(self, name: str) -> Row:
        """Return a constraint's row, or the mean of its rows."""
        row, average = self._gathering.rows[name], self._row_average
        return row.get if average is None else average.row(name, row)

    def _objective_row(self, reached: Set[Tensor] = frozenset()) -> Row:
        """Return g₀ as a row: the anchor's gradient and what was backpropagated outside of the constraints.

        Args:
            reached: the parameters that constraints without a row have reached.
        """
        rows, means = self._gathering.rows, self._row_average.rows if self._row_average else {}
        reached = set(reached).union(*rows.values(), *(means.get(name, ()) for name in rows))
        strengths, outside = self._starts.strengths(self.base.param_groups), self._gathering.objective

        def row(parameter: Tensor) -> Block | None:
            losses = [block for block in (parameter.grad, outside.get(parameter)) if block is not None]
            if (losses or parameter in reached) and strengths[parameter]:
                return self._starts.pull(parameter, strengths[parameter], losses)
            return sum(losses[1:], start=losses[0]) if losses else None

        return row

    def _check_options(self, **changed: Any) -> None:
        """Check the options, some of them changed, each by itself, beside the others and beside the base."""
        options = {name: getattr(self, name) for name in (*_SHARED, *_OWN)} | changed
        check_wrapping(**{name: options[name] for name in _OWN})
        check_options("LessForgetting", **{name: options[name] for name in _SHARED})
        metric, enforce = options["metric"], options["enforce"]
        if metric == "base":
            preconditioner(self.base)  # raises for one that is not known
        if (metric, enforce) != ("euclidean", "gradient") and any(
            "lr" not in group for group in self.base.param_groups
        ):
            raise ValueError(
                f'`LessForgetting(metric={metric!r}, enforce={enforce!r})` must know the learning rate. Found no "lr" '
                f"in a parameter group of {type(self.base).__name__}. Give its groups one."
            )

    def _check_itself(self, call: str) -> None:
        """Raise on an object that shows our attributes and class, as Lightning's does, but would set its own."""
        if "base" not in vars(self):
            raise RuntimeError(
                f"`{call}` must be called on the LessForgetting itself. Found a {type(self).__name__} around it, which "
                f"would keep gradients of its own. Call {call.replace('opt.', 'opt.optimizer.', 1)}."
            )

    def _check_closed(self, call: str) -> None:
        """Raise inside a block."""
        if (name := self._gathering.capturing) is not None:
            raise RuntimeError(
                f"`{call}` must not be inside a constraint. Found `opt.constraint({name!r})` open. Close it first."
            )

    def _check_open(self, call: str) -> None:
        """Raise if gradients cannot be taken now."""
        self._check_itself(call)
        self._check_closed(call)
        if self._solved or any(self._is_spent(parameter.grad) for parameter in self._parameters()):
            done = "`opt.step()` or `opt.zero_grad()`" if self._solved else "`opt.zero_grad()`"
            raise RuntimeError(
                f"`{call}` must come after {done}. Found the last direction still in `.grad`. Call opt.zero_grad() at "
                "the start of every step. To add up micro-batches use `with opt.constraint(name):`."
            )

    def _ordered(self, found: Collection[str], must: str, what: str, advice: str) -> list[str]:
        """Return the names of a step in the order of `constraints`; raise if it lacks one that it may not lack."""
        missing = [name for name in self.constraints or () if name not in found]
        if missing and not self.missing:
            raise ValueError(
                f"{must} every one of the constraints {list(self.constraints or ())}. Found no {what}{missing}. "
                f"{advice}, or wrap with missing=True."
            )
        return [name for name in self.constraints or found if name in found]

    def _check_name(self, call: str, name: str) -> None:
        """Raise for a name that is no string or that is unknown."""
        if not isinstance(name, str):
            raise TypeError(f"`{call}` must be named by a string. Found {type(name).__name__}. Use str({name!r}).")
        if self.constraints is not None and name not in self.constraints:
            raise ValueError(
                f"`{call}` must be one of the constraints {list(self.constraints)}. Found the unknown name {name!r}. "
                "Add it to `constraints` when wrapping."
            )

    def _raise_not_finite(self, losses: Sequence[str], products: Tensor, rows: Sequence[Row] | None) -> None:
        """Raise with the first loss and parameter whose gradient is not finite."""
        if rows is None:
            loss = losses[int((~products.diagonal().isfinite()).int().argmax())]
            raise FloatingPointError(
                f"the gradient of {loss} must be finite. Found NaN or infinity. Parameters and optimizer state are "
                "untouched: call opt.zero_grad() and skip this batch, or lower the rate."
            )
        for loss, row in zip(losses, rows, strict=True):
            if (place := not_finite(row, self.base.param_groups)) is not None:
                raise FloatingPointError(
                    f"the gradient of {loss} must be finite. Found NaN or infinity in {place}. Parameters and "
                    "optimizer state are untouched: call opt.zero_grad() and skip this batch, or lower the rate."
                )
        raise FloatingPointError(
            "the squared norms of the gradients must be finite in float64. Found an overflow. Scale the losses down."
        )


@dataclass
class _Underway:
    """What is noted of a step while the base takes it: what it promises, and the φ that its closure lowers."""

    promise: Promise | None = None
    share: Any = 1.0
    lagrangian: Lagrangian | None = None


def _warn_of_processes() -> None:
    """Warn where gradients may be those of one process among several."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and (count := distributed.get_world_size()) > 1:
        warnings.warn(
            f"`opt.backward(...)` must have gradients that all processes share. Found {count} processes, of which "
            "DistributedDataParallel averages the first backward pass after a forward pass and no other. Backpropagate "
            "in `with opt.constraint(name):` blocks, a forward pass in each, or average the gradients yourself.",
            stacklevel=3,
        )


def _solve_first(opt: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Compute the direction before any other hook of the step: one that clips finds it in `.grad`, as in torch."""
    assert isinstance(opt, LessForgetting)
    waiting = opt._gathering.rows and not opt._solved and opt._gathering.capturing is None
    if waiting and not any((*args[1:], *kwargs.values())):
        opt.solve()


def _check_reached(call: str, reached: Collection[Tensor]) -> None:
    """Raise for a loss that has reached no parameter."""
    if not reached:
        raise ValueError(
            f"`{call}` must find a gradient. Found none: it depends on none of the optimizer's parameters. Check that "
            "it comes from this model and that it is not detached."
        )
