"""Forgetting by what the weights meant: elastic weight consolidation, and the Fisher information that it needs.

In: a model and its data. Out: a diagonal, and the objective made of it. May import: anchor. Knows no optimizer.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from mgrad.anchor import Anchor

Fisher = Literal["empirical", "true", "sampled"]
IGNORED = -100  # a label that counts for nothing, as in torch's cross-entropy


class FisherAnchor(Anchor):
    """The objective f₀ = ½ Σ Fₖ(θₖ − θ₀ₖ)²: a weight may move as far as it meant little (math.md, 60).

    Args:
        fisher: F ≥ 0 by the names of the model's parameters, as `estimate_fisher` returns it, in any order.
        model: whose names they are. A parameter without F must not be anchored: give its group `"anchor": 0.0`.
        reference: θ₀, as of `Anchor`.

    Raises:
        TypeError: if F is no mapping to tensors.
        ValueError: if F has negative or infinite values, a name that the model has not, or another shape; when the
            optimizer is wrapped, if an anchored parameter has none.

    Cost: memory of F and of θ₀, 2n values.
    Source: EWC (Kirkpatrick et al. 2017).

    Example:
        >>> head = nn.Linear(2, 3)
        >>> batches = [(torch.randn(8, 2), torch.randint(3, (8,)))]
        >>> anchor = FisherAnchor(estimate_fisher(head, batches), head)
    """

    def __init__(
        self, fisher: Mapping[str, Tensor], model: nn.Module, reference: Sequence[Tensor] | None = None
    ) -> None:
        """Check F and keep it, by parameter."""
        super().__init__(reference)
        if not (isinstance(fisher, Mapping) and all(isinstance(value, Tensor) for value in fisher.values())):
            raise TypeError(
                f"`FisherAnchor(fisher, model)` must be a mapping from names to tensors. Found "
                f"{type(fisher).__name__}. Pass what estimate_fisher(...) returns."
            )
        named = dict(model.named_parameters())
        for name, value in fisher.items():
            if name not in named or value.shape != named[name].shape:
                found = f"shape {list(named[name].shape)} of the model's" if name in named else "no such parameter"
                raise ValueError(
                    f"`FisherAnchor(fisher, model)` must fit the model. Found {found} for {name!r} of shape "
                    f"{list(value.shape)}. Leave out what has been replaced since F was estimated, such as a head, and "
                    "pass the model itself, not one that wraps or compiles it."
                )
            if not (value >= 0).all() or not value.isfinite().all():
                raise ValueError(
                    f"`FisherAnchor(fisher, model)` must have finite values ≥ 0. Found others for {name!r}. Estimate "
                    "it anew."
                )
        self.fisher: dict[Tensor, Tensor] = {named[name]: value.detach() for name, value in fisher.items()}

    def weights(self, parameters: Sequence[Tensor]) -> list[Tensor | float]:
        """Return F for the parameters, on their devices, in float32 at least: 16 bits do not hold what it multiplies.

        Args:
            parameters: the anchored parameters, in order.

        Returns:
            One tensor for each parameter.

        Raises:
            ValueError: if there is none for one of them.
        """
        for k, parameter in enumerate(parameters):
            if parameter not in self.fisher:
                raise ValueError(
                    f"`FisherAnchor(fisher, model)` must have a value for every anchored parameter. Found none for "
                    f'number {k}, of shape {list(parameter.shape)}. Estimate it, or give its group "anchor": 0.0.'
                )
        kinds = [torch.promote_types(parameter.dtype, torch.float32) for parameter in parameters]
        return [self.fisher[p].to(device=p.device, dtype=kind) for p, kind in zip(parameters, kinds, strict=True)]


def estimate_fisher(
    model: nn.Module,
    batches: Iterable[tuple[Any, Tensor]],
    *,
    kind: Fisher = "empirical",
    logits: Callable[[Callable[..., Any], Any], Tensor] | None = None,
    chunk: int | None = None,
    generator: torch.Generator | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> dict[str, Tensor]:
    """Estimate the diagonal of the Fisher information of a classifier, the mean square of its score (math.md, 62).

    The gradients are those of single examples, a batch of them at a time. The model is evaluated as in `model.eval()`
    and left as it was.

    Args:
        model: of which the parameters that want a gradient count.
        batches: of (inputs, labels), each with the examples along its first dimension; labels [B] or [B, tokens],
            −100 for one that does not count. Of "true" and "sampled" only what is not −100 in them is used.
        kind: "empirical": the labels of the data; "true": the expectation over the labels that the model itself
            predicts, exactly, for labels [B]; "sampled": one label drawn from those for each of the data.
        logits: from a function that calls the model and the inputs of one batch to its logits [B, (tokens,) classes];
            None for `call(inputs)`, or `call(*inputs)` of a tuple and `call(**inputs)` of a mapping.
        chunk: examples whose gradients are taken at a time; None for the batch. At 1 they are taken without
            `torch.func.vmap`, for models that ask tensors for their values, as those of transformers do.
        generator: of the labels drawn.
        progress: what the batches are gone through with, such as `tqdm.tqdm` for a bar.

    Returns:
        F by the names of the parameters, each of its shape and device, in float32 at least.

    Raises:
        TypeError: for a batch that is no pair of inputs and labels.
        ValueError: if there is no example, or labels that "true" cannot take.
        RuntimeError: if the model cannot be batched by vmap, and chunk is not 1.

    Cost: a forward and a backward pass for each example, times the classes for "true"; n values for each example of a
        chunk.
    Source: Kirkpatrick et al. 2017; Kunstner, Hennig & Balles 2019 for the difference between the kinds.
    """
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    read = _call if logits is None else logits

    def score(values: Mapping[str, Tensor], inputs: Any, labels: Tensor) -> Tensor:
        """Return the log-likelihood of the labels of one example."""
        found = read(lambda *a, **k: functional_call(model, dict(values), a, k), _batch_of_one(inputs))[0]
        chosen = found.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        return (chosen * (labels != IGNORED)).sum()

    # Sums of many small squares, which 16 bits do not hold.
    kinds = {name: torch.promote_types(value.dtype, torch.float32) for name, value in parameters.items()}
    squares = {name: torch.zeros_like(value, dtype=kinds[name]) for name, value in parameters.items()}
    count = 0
    together = vmap(grad(score), in_dims=(None, 0, 0), chunk_size=chunk)

    def gradients(inputs: Any, labels: Tensor) -> Iterator[tuple[slice, dict[str, Tensor]]]:
        """Yield the scores of examples [examples, ...], with their places."""
        if chunk == 1:
            for i, label in enumerate(labels):
                found = grad(score)(parameters, _example(inputs, i), label)
                yield slice(i, i + 1), {name: value[None] for name, value in found.items()}
            return
        try:
            with sdpa_kernel(SDPBackend.MATH):  # the one kernel of attention that vmap knows
                yield slice(None), together(parameters, inputs, labels)
        except RuntimeError as error:
            if "vmap" not in str(error):
                raise
            raise RuntimeError(
                "`estimate_fisher(model, batches)` must have a model that torch.func.vmap can batch. Found one that "
                f"asks a tensor for its value ({type(model).__name__}). Pass chunk=1: one example after the other."
            ) from error

    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        for batch in progress(batches):
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                raise TypeError(
                    f"`estimate_fisher(model, batches)` must have pairs of inputs and labels. Found "
                    f'{type(batch).__name__}. Of mappings pass ((batch, batch.pop("labels")) for batch in batches).'
                )
            inputs, labels = batch
            count += len(labels)
            inputs = dict(inputs) if isinstance(inputs, Mapping) else inputs  # of mappings vmap knows dicts
            with torch.no_grad():
                drawn = _labels(kind, partial(read, model, inputs), labels, generator)
            for chosen, share in drawn:
                for places, found in gradients(inputs, chosen):
                    for name, gradient in found.items():
                        weight = share[places].reshape(-1, *(1 for _ in gradient.shape[1:]))
                        squares[name] += (gradient.to(kinds[name]).square() * weight).sum(0)
    finally:
        for module, mode in modes:
            module.training = mode
    if not count:
        raise ValueError("`estimate_fisher(model, batches)` must see an example. Found no batch. Pass some data.")
    return {name: value / count for name, value in squares.items()}


def _example(inputs: Any, i: int) -> Any:
    """Return the inputs of one example of a batch."""
    if isinstance(inputs, Mapping):
        return {name: value[i] for name, value in inputs.items()}
    return tuple(value[i] for value in inputs) if isinstance(inputs, (tuple, list)) else inputs[i]


def _batch_of_one(inputs: Any) -> Any:
    """Return the inputs of one example as those of a batch."""
    if isinstance(inputs, Mapping):
        return {name: value[None] for name, value in inputs.items()}
    return tuple(value[None] for value in inputs) if isinstance(inputs, (tuple, list)) else inputs[None]


def _call(call: Callable[..., Any], inputs: Any) -> Tensor:
    """Call a model on the inputs of a batch."""
    if isinstance(inputs, Mapping):
        found = call(**inputs)
    else:
        found = call(*inputs) if isinstance(inputs, (tuple, list)) else call(inputs)
    logits: Tensor = found
    return logits


def _labels(
    kind: Fisher, logits: Callable[[], Tensor], labels: Tensor, generator: torch.Generator | None
) -> list[tuple[Tensor, Tensor]]:
    """Return the labels of which the scores are squared, and how much each example of them counts [B]."""
    ones = torch.ones(len(labels), device=labels.device)
    if kind == "empirical":
        return [(labels, ones)]
    shares = logits().softmax(-1)
    if kind == "true":
        if labels.dim() != 1:
            raise ValueError(
                f'`estimate_fisher(kind="true")` must have one label for each example. Found labels of shape '
                f'{list(labels.shape)}. Use kind="sampled".'
            )
        counted = (labels != IGNORED).to(shares)
        return [(torch.full_like(labels, c), shares[:, c] * counted) for c in range(shares.shape[-1])]
    if kind == "sampled":
        drawn = torch.multinomial(shares.flatten(0, -2), 1, generator=generator).view_as(labels)
        return [(torch.where(labels == IGNORED, labels, drawn), ones)]
    raise ValueError(
        f'`estimate_fisher(kind=...)` must be "empirical", "true" or "sampled". Found {kind!r}. Choose one of them.'
    )
