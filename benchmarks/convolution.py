"""The last stage's convolutions in bfloat16: the library's kernels against one product of matrices, forward and backward.

``python -m benchmarks.convolution``. Why ``incremental/convolution.py`` exists.
"""

from collections.abc import Callable
from typing import Any

from benchmarks.measuring import alternately, duration, parser, table, use_threads

_SHAPES = (
    (64, 64, 32, 1),
    (256, 256, 8, 1),
    (256, 512, 8, 2),
    (512, 512, 4, 1),
    (64, 128, 7, 2),
    (128, 128, 4, 1),
)  # in, out, side, stride


def main() -> None:
    """Print a row per shape and batch."""
    made = parser(__doc__)
    made.add_argument("--batches", type=int, nargs="+", default=[32, 128], help="images of a step")
    made.add_argument("--repeats", type=int, default=9, help="turns of each side")
    options = made.parse_args()
    use_threads(options.threads)
    rows = [_row(*shape, batch, options.repeats) for batch in options.batches for shape in _SHAPES]
    print(table(["channels, map, stride, batch", "library", "product", "library / product", "we use"], rows))


def _row(channels_in: int, channels: int, side: int, stride: int, batch: int, repeats: int) -> list[str]:
    import torch

    import incremental.convolution as room

    layer = room.Convolution(channels_in, channels, stride).to(memory_format=torch.channels_last)
    maps = torch.randn(batch, channels_in, side, side).to(memory_format=torch.channels_last).requires_grad_()
    positions = ((side - 1) // stride + 1) ** 2
    chosen = "product" if positions <= room.MOST_POSITIONS else "library"

    def step(most: int) -> Callable[[], Any]:
        def run() -> None:
            room.MOST_POSITIONS = most
            with torch.autocast("cpu", torch.bfloat16):
                out = layer(maps)
            out.sum().backward()

        return run

    before = room.MOST_POSITIONS
    try:
        seconds = alternately({"library": step(0), "product": step(positions)}, repeats)
    finally:
        room.MOST_POSITIONS = before
    ratio = seconds["library"] / seconds["product"]
    name = f"{channels_in} -> {channels}, {side} x {side}, {stride}, {batch}"
    return [name, duration(seconds["library"]), duration(seconds["product"]), f"{ratio:.2f}", chosen]


if __name__ == "__main__":
    main()
