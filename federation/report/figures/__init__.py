"""Figures of a report: pure functions of a run folder and a width in pixels.

Each gives an SVG, or nothing where there is no data for it.
"""

from federation.report.figures.accuracy import accuracy_figure, classes_figure, forgetting_figure
from federation.report.figures.detection import entropy_figure
from federation.report.figures.matrices import confusion_figure, matrix_figure
from federation.report.figures.rounds import losses_figure, participation_figure, traffic_figure

__all__ = [
    "accuracy_figure",
    "classes_figure",
    "confusion_figure",
    "entropy_figure",
    "forgetting_figure",
    "losses_figure",
    "matrix_figure",
    "participation_figure",
    "traffic_figure",
]
