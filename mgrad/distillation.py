"""Forgetting as the change of what the model answers: distillation from the model that it was.

In: a model and what it was. Out: a scalar loss, to be passed as an objective. May import: nothing of mgrad.
"""

import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

Measure = Literal["kl", "mse", "cosine"]
Teacher = nn.Module | Mapping[Any, Tensor] | Callable[[], AbstractContextManager[Any]]


class Distillation:
    """The objective f₀ = how far the model's outputs are from those of the model that it was (math.md, 63).

    Call it on unlabeled inputs and pass what it returns: `opt.backward(losses, objective=distillation(inputs))`. The
    teacher is asked in evaluation mode and without gradients; the model's own mode and buffers stay as they are.

    Args:
        model: that is trained.
        teacher: what it was. A module (a copy made before: twice the memory); the starting weights by parameter, as
            `opt.start` has them anyway for the anchor: they are swapped in, without a second model, and what they do
            not hold, buffers too, is as it is now; or a function that returns a context in which the model is what it
            was, such as peft's `model.disable_adapter`.
        measure: "kl": KL(teacher ‖ model) of the softmax of logits over the last dimension, times temperature²; "mse";
            "cosine": 1 − the cosine along the last dimension.
        temperature: of the softmax, > 0.
        read: from what the model returns to the outputs compared, such as `lambda out: out.logits`; None for it
            itself.

    Raises:
        TypeError: for a teacher of another kind.
        ValueError: for starting weights of none of the model's parameters, an unknown measure or a temperature ≤ 0.

    Cost: of a call: a forward pass of the model and one of the teacher, unless its outputs are kept.
    Source: Hinton, Vinyals & Dean 2015; learning without forgetting (Li & Hoiem 2016).

    Example:
        >>> from copy import deepcopy
        >>> model = nn.Linear(3, 2)
        >>> distillation = Distillation(model, deepcopy(model))
        >>> distillation(torch.ones(4, 3)).item()
        0.0
    """

    def __init__(
        self,
        model: nn.Module,
        teacher: Teacher,
        *,
        measure: Measure = "kl",
        temperature: float = 1.0,
        read: Callable[[Any], Tensor] | None = None,
    ) -> None:
        """Check the options."""
        if not isinstance(teacher, (nn.Module, Mapping)) and not callable(teacher):
            raise TypeError(
                f"`Distillation(model, teacher)` must have a module, starting weights or a function that returns a "
                f"context. Found {type(teacher).__name__}. Pass copy.deepcopy(model), or opt.start."
            )
        if isinstance(teacher, Mapping) and not any(parameter in teacher for parameter in model.parameters()):
            raise ValueError(
                f"`Distillation(model, teacher)` must have starting weights by the model's parameters. Found none of "
                f"them among {len(teacher)} keys. Pass opt.start of an anchored optimizer, or copy.deepcopy(model)."
            )
        if measure not in {"kl", "mse", "cosine"}:
            raise ValueError(
                f'`Distillation(measure=...)` must be "kl", "mse" or "cosine". Found {measure!r}. Use "kl" for logits.'
            )
        if not 0 < temperature < math.inf:
            raise ValueError(
                f"`Distillation(temperature=...)` must be positive and finite. Found {temperature}. Use 1.0."
            )
        self.model, self.teacher = model, teacher
        self.measure, self.temperature = measure, temperature
        self.read = (lambda out: out) if read is None else read
        self.kept: dict[Hashable, Tensor] = {}

    def __call__(self, *inputs: Any, mask: Tensor | None = None, key: Hashable = None, **options: Any) -> Tensor:
        """Return the loss on inputs, a scalar.

        Args:
            inputs: of the model.
            mask: true where the outputs count, of their dimensions but the last; None for all.
            key: of these inputs: the teacher's outputs are kept under it and not computed again.
            options: of the model.

        Returns:
            The mean over all that counts; 0 where nothing does.
        """
        target = self.kept.get(key) if key is not None else None
        if target is None:
            with torch.no_grad(), self._teaching() as call:
                target = self.read(call(*inputs, **options)).detach()
            if key is not None:
                self.kept[key] = target
        apart = self._apart(self.read(self.model(*inputs, **options)), target)
        if mask is None:
            return apart.mean()
        counted = mask.to(apart)
        return (apart * counted).sum() / counted.expand_as(apart).sum().clamp(min=1.0)

    def _apart(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return how far outputs are from their target, of their dimensions but the last, in float32 at least."""
        outputs, target = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (outputs, target))
        if self.measure == "mse":
            return (outputs - target).square().mean(-1)
        # Where both are the same, to the digit, the gradient is 0 to the digit: of a gradient that is rounding alone a
        # relative pull would make a whole one.
        if self.measure == "cosine":
            student, teacher = (functional.normalize(x, dim=-1) for x in (outputs, target))
            return (student - teacher).square().sum(-1) / 2
        scaled = (x.div(self.temperature) for x in (outputs, target))
        student, teacher = (x - x.detach().amax(-1, keepdim=True) for x in scaled)  # or digits of log Σ exp are lost
        shares = (teacher - teacher.logsumexp(-1, keepdim=True)).exp()
        apart = (teacher - student).masked_fill(shares == 0, 0.0)  # 0·log 0 of what is masked out
        return (student.logsumexp(-1) - teacher.logsumexp(-1) + (shares * apart).sum(-1)) * self.temperature**2

    @contextmanager
    def _teaching(self) -> Iterator[Callable[..., Any]]:
        """Give what answers as the model did, in evaluation mode."""
        taught = self.teacher if isinstance(self.teacher, nn.Module) else self.model
        modes = [(module, module.training) for module in taught.modules()]
        taught.eval()
        try:
            if isinstance(self.teacher, nn.Module):
                yield self.teacher
            elif isinstance(self.teacher, Mapping):
                named = self.model.named_parameters()  # tied ones once: functional_call ties them
                values = {name: self.teacher.get(p, p).detach().to(p.device) for name, p in named}
                yield lambda *inputs, **options: functional_call(self.model, values, inputs, options)
            else:
                with self.teacher():
                    torch.clear_autocast_cache()  # of what the weights were outside; and below, inside
                    try:
                        yield self.model
                    finally:
                        torch.clear_autocast_cache()
        finally:
            for module, mode in modes:
                module.training = mode
