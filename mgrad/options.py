"""What the options of `LessForgetting` must be, each by itself and beside the others.

In: options as the user wrote them. Out: nothing, or an error. May import: anchor, noise, storage. Knows no optimizer.
"""

from typing import Literal

from mgrad.anchor import Anchor
from mgrad.noise import HalfBatches, Noise, SmoothRows
from mgrad.storage import Storage

Metric = Literal["euclidean", "base"]
Enforce = Literal["gradient", "step"]


def check_wrapping(
    *,
    anchor: Anchor | None,
    noise: Noise | None,
    solver: str,
    metric: str,
    enforce: str,
    storage: Storage | None,
) -> None:
    """Check the options that only the optimizer has, and which of them go together.

    Args:
        anchor: as of `LessForgetting`; likewise all others.
        noise: what is averaged.
        solver: where to solve.
        metric: in which the rows are multiplied.
        enforce: what is promised.
        storage: how rows are kept.

    Raises:
        TypeError: for an anchor, a noise or a storage of the wrong kind.
        ValueError: for an unknown metric or enforcement, or options that do not go together.
    """
    if anchor is not None and not isinstance(anchor, Anchor):
        raise TypeError(
            f"`LessForgetting(anchor=...)` must be an Anchor or None. Found {type(anchor).__name__}. "
            "Pass Anchor() for the distance from the starting weights."
        )
    if metric not in {"euclidean", "base"}:
        raise ValueError(
            f'`LessForgetting(metric=...)` must be "euclidean" or "base". Found {metric!r}. Choose one of the two.'
        )
    if enforce not in {"gradient", "step"}:
        raise ValueError(
            f'`LessForgetting(enforce=...)` must be "gradient" or "step". Found {enforce!r}. Choose one of the two.'
        )
    if not (noise is None or isinstance(noise, Noise)):
        raise TypeError(
            f"`LessForgetting(noise=...)` must be None, SmoothRows(), SmoothGramian() or HalfBatches(). Found "
            f"{noise!r}. Pass an instance."
        )
    if noise is not None and solver == "device":
        raise ValueError(
            f'`LessForgetting(noise={noise}, solver="device")` must average on the host. Found "device". Use '
            'solver="active_set".'
        )
    if isinstance(noise, HalfBatches) and metric == "base":
        raise ValueError(
            f'`LessForgetting(noise={noise}, metric="base")` must compare the halves before the metric is known. '
            'Found "base". Use metric="euclidean", or another noise.'
        )
    if not (storage is None or isinstance(storage, Storage)):
        raise TypeError(
            f"`LessForgetting(storage=...)` must be a Storage or None. Found {type(storage).__name__}. Pass "
            'Storage(rows="bfloat16"), for instance.'
        )
    if storage is not None:
        average = type(noise).__name__ if isinstance(noise, SmoothRows | HalfBatches) else None
        storage.check_options(average=average, enforce=enforce, metric=metric, solver=solver)
