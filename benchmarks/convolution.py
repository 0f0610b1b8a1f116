"""Speed of bfloat16 convolutions on small maps: library call against maps placed side by side.

``python -m benchmarks.convolution`` shows why ``incremental/convolution.py`` exists.
"""

from collections.abc import Callable
from typing import Any

from benchmarks.measuring import duration, parser, table, time_in_turns, use_threads

_SHAPES = (  # channels in, channels out, side, stride
    (64, 64, 32, 1),
    (256, 256, 8, 1),
    (128, 256, 16, 2),
    (256, 512, 8, 2),
    (512, 512, 4, 1),
    (64, 64, 7, 1),
    (64, 128, 7, 2),
    (128, 128, 4, 1),
)


def main() -> None:
    """Print a row per shape and batch."""
    made = parser(__doc__)
    made.add_argument("--batches", type=int, nargs="+", default=[32, 128], help="images of a step")
    made.add_argument("--repeats", type=int, default=9, help="turns of each side")
    options = made.parse_args()
    use_threads(options.threads)
    rows = [_row(*shape, batch, options.repeats) for batch in options.batches for shape in _SHAPES]
    print(
        table(
            ["channels, map, stride, batch", "as they are", "side by side", "ratio", "we use"], rows
        )
    )


def _row(
    channels_in: int, channels: int, side: int, stride: int, batch: int, repeats: int
) -> list[str]:
    import torch

    from incremental.convolution import Convolution, is_small, side_by_side

    layer = Convolution(channels_in, channels, stride).to(memory_format=torch.channels_last)
    maps = (
        torch.randn(batch, channels_in, side, side)
        .bfloat16()
        .to(memory_format=torch.channels_last)
        .requires_grad_()
    )
    gives = (side - 1) // stride + 1
    chosen = "side by side" if is_small(gives, gives, channels) else "library"

    def step(convolve: Callable[[Any, Any], Any]) -> Callable[[], Any]:
        def run() -> None:
            out = convolve(maps, layer.weight.bfloat16())
            out.sum().backward()

        return run

    works = {
        "library": step(
            lambda maps, weight: torch.nn.functional.conv2d(maps, weight, None, stride, 1)
        ),
        "side by side": step(lambda maps, weight: side_by_side(maps, weight, None, stride)),
    }
    seconds = time_in_turns(works, repeats)
    name = f"{channels_in} -> {channels}, {side} x {side}, {stride}, {batch}"
    both = seconds["library"], seconds["side by side"]
    return [name, duration(both[0]), duration(both[1]), f"{both[0] / both[1]:.2f}", chosen]


if __name__ == "__main__":
    main()
