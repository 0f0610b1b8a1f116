"""Published results of the FedKA paper, as plain data in percent.

Source: FedKA, hybrid knowledge distillation for heterogeneous federated class-incremental learning
in digital twins, tables 2 to 11. One seed (2021) each; no spread is given. The averages are kept as
printed: a test makes them again from the rows by our own metric code.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Metric = Literal["accuracy", "macro_f1"]


@dataclass(frozen=True)
class PublishedRow:
    """One method in one table.

    Args:
        average: Mean over the tasks as printed [percent].
        by_task: After each task, on all classes seen so far [percent]; empty where only a figure
            shows it.
        improvement: Printed difference of FedKA to this row [percentage points]; none in FedKA's
            own row.
    """

    average: float
    by_task: tuple[float, ...] = ()
    improvement: float | None = None


@dataclass(frozen=True)
class PublishedTable:
    """One table.

    Args:
        title: In English.
        metric: What its numbers are.
        blocks: Rows by method, by block; a table without blocks has one, called ``""``.
    """

    title: str
    metric: Metric
    blocks: Mapping[str, Mapping[str, PublishedRow]]


def _averages(**rows: tuple[float, float | None]) -> dict[str, dict[str, PublishedRow]]:
    return {
        "": {
            _LABELS.get(name, name): PublishedRow(average, (), improvement)
            for name, (average, improvement) in rows.items()
        }
    }


def _tasks(**rows: tuple[float, ...]) -> dict[str, dict[str, PublishedRow]]:
    """Return rows of three tasks, the average and, but for FedKA, the improvement."""
    return {
        "": {
            _LABELS.get(name, name): PublishedRow(
                values[3], values[:3], values[4] if len(values) > 4 else None
            )
            for name, values in rows.items()
        }
    }


def _pair(
    improvement: float, lga: tuple[float, ...], fedka: tuple[float, ...]
) -> dict[str, PublishedRow]:
    """Return LGA and FedKA after each of ten tasks, the average last."""
    return {
        "LGA": PublishedRow(lga[-1], lga[:-1], improvement),
        "FedKA": PublishedRow(fedka[-1], fedka[:-1]),
    }


_LABELS = {
    "icarl": "icarl+FL",
    "lwm": "lwm+FL",
    "wo_cbl": "FedKA(w/oCBL)",
    "wo_sdl": "FedKA(w/oSDL)",
    "wo_adl": "FedKA(w/oADL)",
    "wo_wadl": "FedKA(w/oWADL)",
}

PUBLISHED: dict[str, PublishedTable] = {
    "table2": PublishedTable(
        "Average accuracy on CIFAR-100, 10 new classes per task",
        "accuracy",
        _averages(
            icarl=(50.57, 20.38),
            lwm=(39.29, 31.66),
            GLFC=(63.24, 7.71),
            LGA=(69.10, 1.85),
            FedKA=(70.95, None),
        ),
    ),
    "table3": PublishedTable(
        "Average accuracy on CIFAR-100, 5 new classes per task",
        "accuracy",
        _averages(
            icarl=(53.12, 15.80),
            lwm=(21.94, 46.99),
            GLFC=(56.38, 12.55),
            LGA=(66.36, 2.56),
            FedKA=(68.93, None),
        ),
    ),
    "table4": PublishedTable(
        "Accuracy on OrganAMNIST",
        "accuracy",
        _tasks(
            icarl=(82.31, 87.12, 86.90, 85.44, 11.14),
            lwm=(75.45, 53.02, 50.34, 59.60, 36.98),
            GLFC=(86.01, 96.89, 96.40, 93.10, 3.48),
            LGA=(92.68, 82.58, 94.04, 89.77, 6.82),
            FedKA=(98.84, 93.77, 97.14, 96.58),
        ),
    ),
    "table5": PublishedTable(
        "Accuracy on OrganCMNIST",
        "accuracy",
        _tasks(
            icarl=(63.82, 73.44, 90.04, 75.77, 12.98),
            lwm=(64.85, 41.22, 44.44, 50.17, 38.58),
            GLFC=(76.09, 94.32, 96.71, 89.04, -0.29),
            LGA=(72.75, 94.09, 96.46, 87.77, 0.98),
            FedKA=(73.26, 95.68, 97.31, 88.75),
        ),
    ),
    "table6": PublishedTable(
        "Accuracy on OrganSMNIST",
        "accuracy",
        _tasks(
            icarl=(64.38, 75.55, 79.75, 73.23, 6.42),
            lwm=(62.33, 45.67, 34.32, 47.44, 32.21),
            GLFC=(72.61, 69.85, 59.21, 67.22, 12.43),
            LGA=(73.39, 71.57, 83.26, 76.07, 3.58),
            FedKA=(72.87, 79.40, 86.68, 79.65),
        ),
    ),
    "table7": PublishedTable(
        "F1 on OrganAMNIST",
        "macro_f1",
        _tasks(
            icarl=(58.13, 74.54, 86.55, 73.07, 23.49),
            lwm=(56.01, 37.60, 29.48, 41.03, 55.53),
            GLFC=(83.59, 97.03, 96.37, 92.33, 4.23),
            LGA=(92.50, 82.53, 91.41, 88.81, 7.75),
            FedKA=(97.14, 95.37, 97.18, 96.56),
        ),
    ),
    "table8": PublishedTable(
        "F1 on OrganCMNIST",
        "macro_f1",
        _tasks(
            icarl=(32.89, 51.60, 70.74, 51.74, 30.84),
            lwm=(35.72, 31.54, 18.41, 28.56, 54.03),
            GLFC=(64.20, 93.95, 95.68, 84.61, -2.02),
            LGA=(54.25, 93.65, 95.67, 81.19, 1.40),
            FedKA=(55.26, 95.51, 96.99, 82.59),
        ),
    ),
    "table9": PublishedTable(
        "F1 on OrganSMNIST",
        "macro_f1",
        _tasks(
            icarl=(31.89, 52.71, 59.60, 48.07, 20.20),
            lwm=(32.53, 31.22, 14.07, 25.94, 42.33),
            GLFC=(54.36, 59.20, 43.66, 52.41, 15.86),
            LGA=(65.13, 58.84, 70.49, 64.82, 3.45),
            FedKA=(54.59, 72.52, 77.70, 68.27),
        ),
    ),
    "table10": PublishedTable(
        "Accuracy on CIFAR-100 by degree of heterogeneity (share of a task's classes that each "
        "hospital sees)",
        "accuracy",
        {
            "0.4": _pair(
                3.01,
                (54.50, 60.85, 61.30, 60.83, 61.48, 49.73, 50.60, 43.79, 45.76, 40.27, 52.91),
                (54.80, 62.15, 61.57, 62.72, 63.08, 54.70, 53.99, 49.95, 48.96, 47.31, 55.92),
            ),
            "0.5": _pair(
                2.26,
                (64.10, 66.55, 69.80, 66.43, 63.24, 67.20, 63.31, 61.30, 60.23, 57.12, 63.93),
                (64.20, 70.50, 72.33, 71.22, 66.02, 68.23, 64.50, 63.24, 62.98, 58.66, 66.19),
            ),
            "0.6": _pair(
                1.85,
                (77.70, 72.60, 73.13, 72.62, 72.86, 67.80, 68.83, 63.85, 61.26, 60.31, 69.10),
                (78.90, 76.35, 75.63, 75.70, 73.58, 69.62, 69.89, 65.31, 63.33, 61.15, 70.95),
            ),
            "0.7": _pair(
                0.78,
                (86.90, 80.20, 78.77, 74.12, 73.02, 70.32, 66.90, 63.9, 64.03, 61.17, 71.93),
                (87.40, 82.80, 79.73, 74.72, 72.96, 70.90, 68.09, 64.18, 64.74, 61.56, 72.71),
            ),
        },
    ),
    "table11": PublishedTable(
        "Ablations on CIFAR-100, 10 new classes per task",
        "accuracy",
        _averages(
            wo_cbl=(66.43, 4.52),
            wo_sdl=(66.15, 4.80),
            wo_adl=(68.11, 2.84),
            wo_wadl=(70.50, 0.45),
            FedKA=(70.95, None),
        ),
    ),
}
