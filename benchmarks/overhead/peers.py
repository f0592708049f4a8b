"""Training steps with AdamW by what others offer, each as its own documentation says.

In: a `Model`. Out: a function that takes a step. May import: models, steppers, torchjd, pytorch_optimizer,
conflictfree.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from benchmarks.overhead.models import Model
from benchmarks.overhead.steppers import RATE, STEPPERS, Step, Stepper, one_at_a_time


def torchjd(aggregator: str, chunk: int | None) -> Stepper:
    """Return TorchJD's steps with one of its aggregators; of the heads each has the gradient of its own loss.

    Args:
        aggregator: the name of its class.
        chunk: None for all rows at once by vmap, 1 for one after the other without it.
    """

    def start(model: Model) -> Step:
        from torchjd import aggregation, autojac  # not needed by the others

        opt = AdamW(model.parameters, lr=RATE)
        aggregate: Any = getattr(aggregation, aggregator)()
        shared = [parameter for parameter in model.shared.parameters() if parameter.requires_grad]

        def step() -> None:
            opt.zero_grad()
            if model.has_batches:
                autojac.backward(model.losses(), parallel_chunk_size=chunk)
                autojac.jac_to_grad(model.parameters, aggregate)
            else:
                features = model.shared(model.inputs[0])
                losses = [model.loss(features, i) for i in range(len(model.heads))]
                autojac.mtl_backward(losses, features=features, parallel_chunk_size=chunk)
                autojac.jac_to_grad(shared, aggregate)
            opt.step()

        return step

    return start


def torchjd_engine(weighting: str) -> Stepper:
    """Return TorchJD's steps by its Gramian engine, which keeps no rows: one more pass backpropagates the weighted sum.

    Args:
        weighting: the name of its class.
    """

    def start(model: Model) -> Step:
        from torchjd import aggregation, autogram

        opt = AdamW(model.parameters, lr=RATE)
        weigh: Any = getattr(aggregation, weighting)()
        # No batch dimension: with one it wants a loss for each example, and no batch norm.
        engine = autogram.Engine(model.shared, *(model.heads if model.has_batches else ()), batch_dim=None)

        def step() -> None:
            opt.zero_grad()
            losses = torch.stack(model.losses())
            losses.backward(weigh(engine.compute_gramian(losses)))
            opt.step()

        return step

    return start


def pcgrad(model: Model) -> Step:
    """Take steps of pytorch-optimizer's PCGrad, which takes losses as they come: each has its forward pass then."""
    from pytorch_optimizer import PCGrad

    opt = PCGrad(AdamW(model.parameters, lr=RATE))

    def losses() -> Iterator[Tensor]:
        if model.has_batches:
            yield from (model.loss(model.shared(x), i) for i, x in enumerate(model.inputs))
        else:
            yield from model.losses()

    def step() -> None:
        opt.zero_grad()
        opt.pc_backward(losses())
        opt.step()

    return step


def config(model: Model) -> Step:
    """Take steps of conflictfree's ConFIG; of the heads each has the gradient of its own loss."""
    from conflictfree.grad_operator import ConFIGOperator
    from conflictfree.utils import get_gradient_vector

    opt, operator = AdamW(model.parameters, lr=RATE), ConFIGOperator()
    network = nn.ModuleList([model.shared, model.heads] if model.has_batches else [model.shared])

    def step() -> None:
        opt.zero_grad()
        rows = []
        for loss in one_at_a_time(model):
            network.zero_grad()
            loss()
            rows.append(get_gradient_vector(network))
        operator.update_gradient(network, rows)
        opt.step()

    return step


PEERS: dict[str, Stepper] = {
    "TorchJD UPGrad": torchjd("UPGrad", None),
    "TorchJD UPGrad, no vmap": torchjd("UPGrad", 1),
    "TorchJD UPGrad, Gramian engine": torchjd_engine("UPGradWeighting"),
    "TorchJD MGDA": torchjd("MGDA", None),
    "TorchJD MGDA, no vmap": torchjd("MGDA", 1),
    "TorchJD PCD": torchjd("PCD", None),
    "TorchJD PCD, no vmap": torchjd("PCD", 1),
    "PCGrad": pcgrad,
    "ConFIG": config,
}
EVERYONE: dict[str, Stepper] = STEPPERS | PEERS
