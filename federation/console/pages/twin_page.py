"""The page of a hospital's twin: reported and desired model, images, entropy and events."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Path, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from federation.console.pages.charts import Chart, days_chart, rounds_chart
from federation.console.rendering import render
from federation.console.security.guard import page_router
from federation.console.services import Services, ServicesDep, VisitorDep
from federation.console.twin_view import TwinView, twin_view
from physical.mirror import DayCount

router = page_router()
_MOST_LOOKS = 200


@dataclass(frozen=True)
class ClassRow:
    """One class: number of images, and whether reported and desired model can predict it."""

    name: str
    num_images: int
    share: float
    reported: bool
    desired: bool


@router.get("/twin")
def own_twin(request: Request, services: ServicesDep, visitor: VisitorDep) -> Response:
    """Show the twin of the visitor's hospital."""
    return _show(request, services, str(visitor.hospital))


@router.get("/twins/{hospital}")
def any_twin(
    request: Request, services: ServicesDep, hospital: Annotated[str, Path(max_length=60)]
) -> Response:
    """Show the twin of any hospital to an operator, without images."""
    if hospital not in services.settings.hospitals:
        raise HTTPException(404)
    return _show(request, services, hospital)


def inventory(view: TwinView) -> tuple[ClassRow, ...]:
    """Return the classes in the mirror or known to either model, most images first."""
    names = {*view.class_counts, *view.reported_classes, *view.desired_classes}
    largest = max(view.class_counts.values(), default=0) or 1
    rows = [
        ClassRow(
            name,
            view.class_counts.get(name, 0),
            view.class_counts.get(name, 0) / largest,
            name in view.reported_classes,
            name in view.desired_classes,
        )
        for name in names
    ]
    return tuple(sorted(rows, key=lambda row: (-row.num_images, row.name.casefold())))


def entropy_over_time(
    entropy: Sequence[tuple[str, float]], threshold: float | None
) -> Chart | None:
    """Return the curve of mean entropies over triages, with the threshold beside it."""
    values = [value for _, value in entropy[-_MOST_LOOKS:]]
    series: list[tuple[str, str, Sequence[float | None]]] = [
        ("mean entropy of what arrived", "line-blue", values)
    ]
    if threshold is not None and 0 <= threshold <= 1 and values:
        series.append(
            (f"threshold {threshold:.2f}", "line-vermilion dash", [threshold] * len(values))
        )
    return rounds_chart(
        series, "0 sure, 1 a blind guess", len(values), percent=False, x_label="look"
    )


def images_by_day(counts: Sequence[DayCount]) -> Chart | None:
    """Return the images of each day, all classes together."""
    days = Counter[str]()
    for each in counts:
        days[each.day] += each.num_images
    return days_chart(tuple(days.items()))


def _show(request: Request, services: Services, hospital: str) -> Response:
    view = twin_view(services, hospital)
    cases: Mapping[str, int] = {state: number for state, number in view.cases.items() if number}
    return render(
        request,
        "twin.html",
        twin=view,
        classes=inventory(view),
        cases=cases,
        entropy=entropy_over_time(view.entropy, view.threshold),
        days=images_by_day(view.counts_by_day),
    )
