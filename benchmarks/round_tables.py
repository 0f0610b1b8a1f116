"""Tables of ``benchmarks.round``: seconds by stage, and the cost of a task of the protocol."""

from collections.abc import Mapping

from benchmarks.measuring import table
from benchmarks.reference_round import Stages

STAGES = ("observe", "score", "train", "prototypes", "aggregate")
ROUNDS_PER_TASK = 10  # of the protocol


def stage_table(rounds: Mapping[str, Mapping[str, Stages]]) -> str:
    """Return the seconds of each stage by round and side (``ours``, ``reference``)."""
    rows = []
    for name, sides in rounds.items():
        for stage in (*STAGES, "all"):
            ours, plain = sides["ours"][stage], sides["reference"][stage]
            ratio = f"{plain / ours:.1f}" if ours > 1e-3 else "-"
            rows.append((f"{name}: {stage}", f"{ours:.3f}", f"{plain:.3f}", ratio))
    return table(("round, stage", "ours, s", "reference, s", "ratio"), rows)


def task_table(rounds: Mapping[str, Mapping[str, Stages]], factor: float) -> str:
    """Return the seconds of a whole task, as measured and with more images.

    Args:
        rounds: The first and the middle round, each with both sides' stages.
        factor: Number of images of the protocol divided by the measured number.
    """
    first, middle = rounds.values()
    rows = []
    for label, images in (
        ("as measured", 1.0),
        (f"all images ({factor:.1f} times as many), estimated", factor),
    ):
        ours, plain = (
            task_seconds(first[side], middle[side], images) for side in ("ours", "reference")
        )
        rows.append(
            (
                label,
                f"{ours['all']:.1f}",
                f"{plain['all']:.1f}",
                f"{plain['all'] / ours['all']:.1f}",
                f"{plain['twins'] / ours['twins']:.1f}",
                f"{ours['proxy'] / ours['all']:.1%}",
                f"{plain['proxy'] / plain['all']:.1%}",
            )
        )
    headers = (
        "a task of ten rounds",
        "ours, s",
        "reference, s",
        "ratio",
        "ratio without proxy",
        "proxy's share, ours",
        "reference's",
    )
    note = (
        "\nA task is the first round and nine like the middle one. The proxy's share counts "
        "scoring and all of the aggregation, the mean of the models included; the twins' part of "
        "the prototypes (perturbing, encoding) is not the proxy's. With worker processes ours "
        "counts it as training."
    )
    return table(headers, rows) + "\n" + note


def task_seconds(first: Stages, middle: Stages, images: float = 1.0) -> dict[str, float]:
    """Return the seconds of a task: the first round and nine like the middle one.

    Args:
        first: Stages of the first round.
        middle: Stages of a later one.
        images: Factor on the time that grows with the number of images.
    """
    total = {
        stage: first[stage] + (ROUNDS_PER_TASK - 1) * middle[stage] for stage in (*STAGES, "all")
    }
    rest = total["all"] - sum(total[stage] for stage in STAGES)
    twins = (total["observe"] + total["train"]) * images
    proxy = total["score"] + total["aggregate"]
    return {"twins": twins, "proxy": proxy, "all": twins + total["prototypes"] + proxy + rest}
