"""Train on noisy gradients with every option against noise, and look at what is learnt in truth.

In: counts. Out: records. May import: rules.study, mgrad.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.rules.study import PROBLEMS, Losses
from mgrad import HalfBatches, LessForgetting, SmoothGramian, SmoothRows, constrained_direction

Record = dict[str, Any]
OPTIONS: dict[str, dict[str, Any]] = {
    "as they come": {},
    "as they come, strength 0.01": {"strength": 0.01},
    "SmoothRows()": {"noise": SmoothRows()},
    "SmoothGramian()": {"noise": SmoothGramian()},
    "HalfBatches()": {"noise": HalfBatches()},
    'normalise="gradient"': {"normalise": "gradient"},
    'normalise="loss"': {"normalise": "loss"},
}
SUM = "the sum, no pull"
RATES = (0.01, 0.03, 0.1, 0.3)  # each option at the one that leaves the least of the losses
LONGER = (1.0, 3.0)  # of normalised gradients, whose lengths do not say how far the minimum is
HALVED = 100  # steps after which the rate is half of what it was
STRENGTH = 0.1
SIZES = {"conflicting": 10, "fittable": 40}  # directions that the losses know
IDLE = 1000  # directions that only the noise knows


def measure(steps: int, seeds: int) -> list[Record]:
    """Train every problem with every option.

    Args:
        steps: of each run.
        seeds: runs of each, whose medians are taken.

    Returns:
        One record for each problem, noise and option, at its best rate.
    """
    settings = [(p, noise, option) for p in SIZES for noise in (1.0, 3.0) for option in (SUM, *OPTIONS)]
    records = []
    for problem, noise, option in tqdm(settings, unit="setting"):
        tried = []
        for rate in (*RATES, *LONGER) if "normalise" in OPTIONS.get(option, {}) else RATES:
            runs = [_train(problem, option, noise, rate, steps, seed) for seed in range(seeds)]
            tried.append({"rate": rate} | {name: float(np.median([run[name] for run in runs])) for name in runs[0]})
        best = min(tried, key=lambda record: record["mean"])
        figures = {name: None if np.isnan(value) else float(f"{value:.4g}") for name, value in best.items()}
        records.append({"problem": problem, "noise": noise, "option": option, **figures})
    return records


def _train(problem: str, option: str, noise: float, rate: float, steps: int, seed: int) -> dict[str, float]:
    """Train once from 0; noise: of each gradient, relative to its length at the start."""
    generator = torch.Generator().manual_seed(seed)
    size = SIZES[problem]
    known = PROBLEMS[problem](generator)
    theta = torch.nn.Parameter(torch.zeros(size + IDLE, dtype=torch.float64))

    def losses(theta: Tensor) -> Tensor:
        return known(theta[:size])

    settings = {"strength": STRENGTH} | OPTIONS.get(option, {"strength": 0.0})
    base = torch.optim.SGD([theta], lr=rate)
    opt = LessForgetting(base, **settings)
    scheduler = torch.optim.lr_scheduler.LambdaLR(base, lambda step: 1 / (1 + step / HALVED))
    start, sizes = losses(theta).detach(), _rows(losses, theta).norm(dim=1)
    halves = 2 if isinstance(settings.get("noise"), HalfBatches) else 1
    seen, risen = [], 0
    for _ in range(steps):
        truth = _rows(losses, theta)
        shaken = torch.randn(halves, len(start), len(theta), generator=generator, dtype=torch.float64)
        shaken *= noise * sizes[:, None] * (halves / len(theta)) ** 0.5  # the mean of the halves is as noisy as a whole
        if option == SUM:
            theta.grad = (truth + shaken[0]).sum(0)
            base.step()
        else:
            opt.zero_grad()
            pushed = [losses(theta) + (push - push.detach()) for push in shaken @ theta]  # the noise is of gradients
            opt.backward([pair if halves == 2 else pair[0] for pair in zip(*pushed, strict=True)])
            opt.step()
            assert opt.report is not None
            expected = constrained_direction(truth).report.strong_stationarity
            seen.append(opt.report.strong_stationarity / expected if settings.get("normalise") is None else np.nan)
        assert theta.grad is not None
        risen += int((truth @ theta.grad < 0).sum())
        scheduler.step()
    shares = (losses(theta).detach() / start).sort().values
    report = constrained_direction(_rows(losses, theta)).report
    return {
        "mean": float(shares.mean()),
        "worst": float(shares[-1]),
        "strong": report.relative_strong_stationarity,
        "distance": float(theta.detach()[:size].norm()),
        "idle": float(theta.detach()[size:].norm()),
        "seen": float(np.median(seen)) if seen else np.nan,
        "risen": risen / (steps * len(start)),
    }


def _rows(losses: Losses, theta: Tensor) -> Tensor:
    """Return the gradients of the losses, without noise [m, n]."""
    return torch.stack([torch.autograd.grad(loss, theta, retain_graph=True)[0] for loss in losses(theta)])
