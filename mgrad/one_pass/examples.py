"""Which examples of a batch are whose.

In: numbers as the user wrote them. Out: spans. May import: nothing of mgrad.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

Span = tuple[int, int]
"""The first example and the one after the last."""


def check_examples(
    examples: Mapping[str, int | Sequence[int]] | Sequence[int | Sequence[int]], parts: Mapping[str, Sequence[Tensor]]
) -> list[Span]:
    """Check who owns which examples of the batch.

    Args:
        examples: numbers of examples by name, or in the order of the losses; in the order in which they lie in the
            batch. Of a loss with several parts one number for each.
        parts: the losses, by name.

    Returns:
        For each part of each loss, in the order of `parts`, its first example and the one after its last.

    Raises:
        TypeError: if they are neither by name nor in order, or a number is no integer.
        ValueError: if the names are not those of the losses, or a number is not positive.
    """
    call = "opt.backward(..., examples=...)"
    if not isinstance(examples, (Mapping, Sequence)):
        raise TypeError(
            f"`{call}` must be numbers by name or in the order of the losses. Found {type(examples).__name__}. Pass "
            "how many examples of the batch are whose."
        )
    if not isinstance(examples, Mapping):
        examples = dict(zip(parts, examples, strict=True)) if len(examples) == len(parts) else {}
    if examples.keys() != parts.keys():
        raise ValueError(
            f"`{call}` must have a number for each of the losses {list(parts)}. Found {list(examples)}. Pass how many "
            "examples of the batch are whose, in their order."
        )
    spans, start = dict[str, list[Span]](), 0
    for name, value in examples.items():
        numbers = [value] if isinstance(value, int) or not isinstance(value, Sequence) else [*value]
        if any(not isinstance(number, int) or isinstance(number, bool) for number in numbers):
            raise TypeError(f"`{call}` must have integers. Found {value!r} for {name!r}. Pass numbers of examples.")
        if len(numbers) != len(parts[name]) or any(number < 1 for number in numbers):
            raise ValueError(
                f"`{call}` must have {len(parts[name])} positive number(s) for each loss. Found {value!r} for "
                f"{name!r}. Leave out a loss that has no examples."
            )
        spans[name] = []
        for number in numbers:
            spans[name].append((start, start + number))
            start += number
    return [span for name in parts for span in spans[name]]
