"""Counts floating-point operations and bytes of a piece of work; a multiply-add is two operations.

``torch.utils.flop_counter`` counts the operations of convolutions and matrix products, forward and
backward; element-wise work is not counted, as is usual. Bytes are what every operator would read
and write without caches and fusion (views move nothing): an upper bound of the traffic.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from incremental.network import IncrementalNetwork, NetworkConfig, freeze


def count_flops(work: Callable[[], object]) -> int:
    """Run the work once and return its number of operations."""
    counter = FlopCounterMode(display=False)
    with counter:
        work()
    return int(counter.get_total_flops())


class TrafficCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # untyped metaclass
    """Adds up the bytes that operators read and write; ``bytes`` holds the sum."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in torch
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and add the bytes that it moves."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not _is_view(func):
            self.bytes += _size((args, kwargs)) + _size(result)
        return result


def _is_view(func: Any) -> bool:
    returned = func._schema.returns
    return (
        any(each.alias_info is not None and not each.alias_info.is_write for each in returned)
        or func._schema.name == "aten::detach"
    )


def _size(values: Any) -> int:
    if isinstance(values, Tensor):
        return values.numel() * values.element_size()
    if isinstance(values, dict):
        return sum(_size(each) for each in values.values())
    if isinstance(values, list | tuple):
        return sum(_size(each) for each in values)
    return 0


def count_bytes(work: Callable[[], object]) -> int:
    """Run the work once and return the number of bytes that it moves."""
    with TrafficCounter() as counter:
        work()
    return int(counter.bytes)


def model_step(
    config: NetworkConfig, batch_size: int, rows: int, old_rows: int, bfloat16: bool = False
) -> Callable[[], None]:
    """Return a function that does the least work of a training step.

    The work is student forward and backward, teacher forward and weight update, once each.

    Args:
        config: The network's configuration.
        batch_size: Number of images.
        rows: Number of classes of the student.
        old_rows: Number of classes of the teacher; 0: no teacher.
        bfloat16: Use autocast with float32 weights.
    """
    student = IncrementalNetwork(config, rows).train()
    teacher = freeze(IncrementalNetwork(config, old_rows)) if old_rows else None
    optimiser = torch.optim.SGD(student.parameters(), lr=1e-3, weight_decay=1e-5)
    images = torch.rand(batch_size, config.channels, config.image_size, config.image_size)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            outputs = student(images)
            if teacher is not None:
                with torch.no_grad():
                    teacher(images)
        optimiser.zero_grad()
        outputs.logits.float().logsumexp(1).mean().backward()
        optimiser.step()

    return step


def model_flops_per_image(config: NetworkConfig, rows: int, old_rows: int) -> float:
    """Return the operations of the least step per image; they are proportional to the batch."""
    return count_flops(model_step(config, 2, rows, old_rows)) / 2


def forward_flops_per_image(config: NetworkConfig, rows: int) -> float:
    """Return the operations of the forward pass of one image."""
    network = freeze(IncrementalNetwork(config, rows))
    images = torch.rand(1, config.channels, config.image_size, config.image_size)
    return float(count_flops(lambda: network(images)))


def traffic(
    work_of: Callable[[int], Callable[[], object]], low: int = 2, high: int = 4
) -> tuple[float, float]:
    """Return (bytes per step, bytes per image): a line through the traffic of two batch sizes.

    Args:
        work_of: Function (batch size) -> step.
        low: Smaller batch size.
        high: Larger batch size.
    """
    few, many = count_bytes(work_of(low)), count_bytes(work_of(high))
    slope = (many - few) / (high - low)
    return few - slope * low, slope
