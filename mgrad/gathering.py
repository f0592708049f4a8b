"""The gradients of one step, which wait for its direction.

In: backward passes, constraint by constraint. Out: a row for each, and what stands outside of them. May import:
jacobian, scaling, storage. Knows no optimizer.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from mgrad.jacobian import along, capture, whole
from mgrad.scaling import Groups, Look
from mgrad.storage import Storage, opened


class Gathering:
    """The rows of a step.

    Attributes:
        rows: of each constraint, its gradient by parameter, as it is kept.
        halves: of each that came in two halves, the signed root of their inner product.
        objective: the gradient of the objective passed to `backward`, by parameter.
        capturing: the constraint whose block is open.
    """

    def __init__(self, storage: Storage, *, halved: bool) -> None:
        """Have nothing yet.

        Args:
            storage: how rows are kept.
            halved: whether each constraint comes in two halves.
        """
        self.storage, self.halved = storage, halved
        self.rows: dict[str, dict[Tensor, Any]] = {}
        self._memory: list[dict[Tensor, Any]] = []  # the rows of the step before, each until its place is taken
        self.clear()

    def clear(self) -> None:
        """Have no gradients of any constraint."""
        # Given back to the system all at once, the memory of rows on a CPU would come back page by page: each is kept
        # until the next row of its place comes. That of the first is `.grad`.
        if rows := list(self.rows.values()):
            self._memory = [{}, *(row for row in rows[1:] if all(place.is_cpu for place in row))]
        self.rows = {}
        self.halves: dict[str, Tensor] = {}
        self.objective: dict[Tensor, Tensor] = {}
        self.capturing: str | None = None
        self._look = Look()  # from outside, perhaps a scaler's

    def forget(self, names: Iterable[str]) -> None:
        """Drop the rows of some constraints, and the objective's."""
        for name in names:
            self.rows.pop(name, None)
            self.halves.pop(name, None)
        self.objective.clear()

    def shown(self, groups: Groups) -> Groups:
        """Return parameter groups with all that waits behind the first, for a `GradScaler` to unscale."""
        if not self.rows:
            return groups
        blocks = [block for row in self.rows.values() for block in row.values()]
        waiting = [block if isinstance(block, Tensor) else block.factor for block in blocks]
        return self._look.groups(groups, [*waiting, *self.halves.values()])

    def drop_overflow(self) -> None:
        """Forget what a scaler has found to be no step: `model.zero_grad()`, which may follow, does not reach it."""
        blocks = (whole(block) for row in self.rows.values() for block in row.values())
        if self._look.has_overflow(block for block in blocks if block is not None):
            self.clear()

    @contextmanager
    def take(
        self, name: str, parameters: Callable[[], Sequence[Tensor]], still: Callable[[], Set[Tensor]]
    ) -> Iterator[None]:
        """Make what is backpropagated inside the block part of a constraint's row; after an exception there is none.

        Args:
            name: of the constraint.
            parameters: returns those whose gradients are taken.
            still: returns those over which halves are not compared.

        Raises:
            RuntimeError: for a third half.
            ValueError: if nothing was backpropagated.
        """
        call = f"opt.constraint({name!r})"
        if name in self.halves:
            raise RuntimeError(
                f"`{call}` must be opened twice with noise=HalfBatches(), once for each half. Found a third time. Put "
                "all micro-batches of a half into one block."
            )
        row = {} if self.halved else opened(self.rows.get(name, {}))
        if name not in self.rows and self._memory:
            self._memory.pop(0)  # for the row to come
        self.capturing = name
        try:
            with capture(parameters(), row):
                yield
        except BaseException:
            # Some parameters may have all that was backpropagated and others a part: no gradient of anything.
            self.rows.pop(name, None)
            raise
        finally:
            self.capturing = None
        if not row:
            raise ValueError(
                f"`{call}` must find a gradient. Found none: no loss that was backpropagated inside depends on the "
                "optimizer's parameters. Check that the loss comes from this model and that it is not detached."
            )
        if self.halved and name in self.rows:
            first, unmoved = self.rows[name], still()
            moving = [parameter for parameter in parameters() if parameter not in unmoved]
            home = next(iter(row)).device  # where a scaler of gradients there can unscale it
            product = along([first.get], row.get, moving, home)[0].sum()
            self.halves[name] = product.sign() * product.abs().sqrt()  # in the unit of a gradient, which may be scaled
            for parameter, block in first.items():
                row[parameter] = row[parameter].add_(block) if parameter in row else block
        self.rows[name] = self.storage.kept(row)
