"""Less-forgetting fine-tuning: every loss falls, and the model moves no further from what it knew than it must.

>>> import torch
>>> from mgrad import LessForgetting
>>> model = torch.nn.Linear(4, 2)
>>> opt = LessForgetting(torch.optim.AdamW(model.parameters(), lr=1e-3))
>>> batches = {"en": torch.randn(8, 4), "de": torch.randn(8, 4)}
>>> for _ in range(3):
...     opt.zero_grad()
...     report = opt.backward({name: model(batch).square().mean() for name, batch in batches.items()})
...     opt.step()
>>> sorted(report.names)
['de', 'en']
"""

from mgrad.anchor import Anchor
from mgrad.batched import BatchSolution, solve_batch
from mgrad.decrease import (
    DecreaseRule,
    KeepPace,
    MinNorm,
    NoIncrease,
    ParetoNavigation,
    Proportional,
    Requirement,
    Situation,
    Target,
)
from mgrad.direction import Direction, constrained_direction
from mgrad.distillation import Distillation
from mgrad.fisher import FisherAnchor, estimate_fisher
from mgrad.less_forgetting import LessForgetting
from mgrad.noise import HalfBatches, SmoothGramian, SmoothRows
from mgrad.replay import Replay, mask_tokens
from mgrad.report import Report
from mgrad.solvers import Status
from mgrad.stationarity import ParetoStationarity, pareto_stationarity
from mgrad.step_report import StepReport
from mgrad.storage import Storage

__all__ = [
    "Anchor",
    "BatchSolution",
    "DecreaseRule",
    "Direction",
    "Distillation",
    "FisherAnchor",
    "HalfBatches",
    "KeepPace",
    "LessForgetting",
    "MinNorm",
    "NoIncrease",
    "ParetoNavigation",
    "ParetoStationarity",
    "Proportional",
    "Replay",
    "Report",
    "Requirement",
    "Situation",
    "SmoothGramian",
    "SmoothRows",
    "Status",
    "StepReport",
    "Storage",
    "Target",
    "constrained_direction",
    "estimate_fisher",
    "mask_tokens",
    "pareto_stationarity",
    "solve_batch",
]
