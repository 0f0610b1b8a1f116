"""Markdown tables of membership inference: mean and standard deviation over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.attacks.scores import Success
from benchmarks.measuring import table


@dataclass(frozen=True)
class Outcome:
    """Results of the attacks on one run.

    Args:
        loss: Attack by a loss threshold, by question.
        lira: Attack calibrated by shadow models (LiRA), by question.
        control: AUROC of the loss threshold on models that have seen none of the images; above 0.5
            the members are only easier images.
        local: Calibrated attack on each hospital's last update and images; mean over hospitals.
        attribution: Share of the last task's images whose hospital the largest confidence names.
        accuracy: Accuracy on test images of all classes.
        epsilon: Largest epsilon of a hospital; None without differential privacy.
    """

    loss: Mapping[str, Success]
    lira: Mapping[str, Success]
    control: Mapping[str, float]
    local: Success
    attribution: float
    accuracy: float
    epsilon: float | None


def spread(values: Sequence[float], percent: bool = False) -> str:
    """Return mean and standard deviation over seeds."""
    scale, digits = (100, 1) if percent else (1, 3)
    mean = scale * float(np.mean(values))
    deviation = scale * float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}" + (" %" if percent else "")


def _three(found: Sequence[Success]) -> tuple[str, str, str]:
    one, low = [each.at_1_percent for each in found], [each.at_0_1_percent for each in found]
    return (
        spread([each.auroc for each in found]),
        spread(one, percent=True),
        spread(low, percent=True),
    )


def questions_table(outcomes: Sequence[Outcome]) -> str:
    """Return the results without a defence, by question."""
    rates = ("found at 1 %", "at 0.1 %")
    rows = [
        (
            name,
            spread([each.control[name] for each in outcomes]),
            *_three([each.loss[name] for each in outcomes]),
            *_three([each.lira[name] for each in outcomes]),
        )
        for name in outcomes[0].lira
    ]
    rows.append(
        (
            "a hospital's own last update, its images",
            "-",
            "-",
            "-",
            "-",
            *_three([each.local for each in outcomes]),
        )
    )
    lead = (
        "which images",
        "AUROC of models that saw none",
        "loss: AUROC",
        *rates,
        "LiRA: AUROC",
        *rates,
    )
    return table(lead, rows)


def defences_table(found: Mapping[str, Sequence[Outcome]]) -> str:
    """Return the results and the cost of each defence."""
    heads = (
        "defence",
        "loss: AUROC",
        "LiRA: AUROC",
        "found at 1 %",
        "at 0.1 %",
        "AUROC, to the end",
        "AUROC, exemplars",
    )
    costs = ("AUROC, own update", "hospital named rightly", "test accuracy", "epsilon")
    rows = []
    for name, outcomes in found.items():
        kinds = ("trained on to the end", "exemplars of the first task")
        sides = [
            spread([each.lira[kind].auroc for each in outcomes])
            if kind in outcomes[0].lira
            else "-"
            for kind in kinds
        ]
        spent = [each.epsilon for each in outcomes if each.epsilon is not None]
        row = (
            name,
            spread([each.loss["all members"].auroc for each in outcomes]),
            *_three([each.lira["all members"] for each in outcomes]),
            *sides,
            spread([each.local.auroc for each in outcomes]),
            spread([each.attribution for each in outcomes], percent=True),
            spread([each.accuracy for each in outcomes]),
            f"{max(spent):.3g}" if spent else "-",
        )
        rows.append(row)
    return table((*heads, *costs), rows)
