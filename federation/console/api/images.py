"""Pixels, which stay inside their hospital: images, overlays, examples of a comparison, predictions, and images that come in by the web."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, File, Query, Response, UploadFile
from numpy.typing import NDArray
from pydantic import Field

from federation.console.api.models import Body, Number, Word, api_router
from federation.console.errors import NotHere
from federation.console.model_answers import NO_EVIDENCE, Prediction, draw_heat, draw_image
from federation.console.security.guard import GuardedRoute
from federation.console.security.uploads import UploadResult, take_uploads
from federation.console.services import Asked, Asking, Services, Visitor
from federation.console.views.trainings import read_comparison

router = api_router("images")
page_images = APIRouter(route_class=GuardedRoute, include_in_schema=False)

_PNG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {}}, "description": "A PNG."}
}
ClassName = Annotated[
    str, Query(alias="class", max_length=200, description="Class whose evidence is drawn.")
]


class PredictIn(Body):
    """Images of one's own hospital."""

    image_ids: Annotated[list[Word], Field(min_length=1, max_length=200)]


@dataclass(frozen=True)
class PredictOut:
    """What the model that serves says.

    Args:
        version: Of the model.
        predictions: One per image, in the order asked.
    """

    version: str
    predictions: list[Prediction]


@dataclass(frozen=True)
class IntakeOut:
    """What became of uploaded files.

    Args:
        files: One per file, in the order sent.
    """

    files: list[UploadResult]


@page_images.get("/images/{hospital}/{image_id}.png")
@router.get("/images/{hospital}/{image_id}.png", responses=_PNG, response_class=Response)
def image(services: Asked, visitor: Asking, hospital: str, image_id: str) -> Response:
    """Return an image as the twin mirrors it."""
    _check_hospital(visitor, hospital)
    return _png(draw_image(services.mirrors[hospital].pixels([image_id])[0]))


@page_images.get("/overlays/{hospital}/{image_id}.png")
@router.get("/overlays/{hospital}/{image_id}.png", responses=_PNG, response_class=Response)
def overlay(
    services: Asked, visitor: Asking, hospital: str, image_id: str, class_name: ClassName
) -> Response:
    """Return where the model that serves sees evidence for a class, to be laid over the image."""
    _check_hospital(visitor, hospital)
    if class_name not in services.registry.champion_classes():
        services.mirrors[hospital].facts([image_id])  # an unknown image is said to be unknown first
        raise NotHere(
            f"the model that serves knows no class {class_name[:80]!r}; ask for one that it names"
        )
    return _png(services.looks.overlay(hospital, image_id, class_name))


@page_images.get("/comparisons/{training_id}/examples/{number}/{kind}.png")
def example(
    services: Asked,
    visitor: Asking,
    training_id: str,
    number: int,
    kind: Literal["image", "before", "after"],
) -> Response:
    """Return an image about which candidate and champion differ, or where either of them looked."""
    changed = read_comparison(services, training_id).get("changed", ())
    found = next(
        (
            each
            for each in changed
            if each["number"] == number and each["hospital"] == visitor.hospital
        ),
        None,
    )
    if found is None:
        raise NotHere(
            f"the comparison has no example {number} of your hospital; its page lists those that there are"
        )
    if kind == "image":
        return _png(draw_image(services.mirrors[found["hospital"]].pixels([found["image_id"]])[0]))
    heat = _attention(services, training_id, kind, number)
    return _png(NO_EVIDENCE.read_bytes() if heat is None else draw_heat(heat))


@router.post("/predictions")
def predict(services: Asked, visitor: Asking, body: PredictIn) -> PredictOut:
    """Ask the model that serves what it sees in images of one's own hospital."""
    return PredictOut(*services.looks.predict(_own_hospital(visitor), body.image_ids))


@router.post("/intake")
def intake(
    services: Asked,
    visitor: Asking,
    files: Annotated[list[UploadFile], File(description="DICOM, PNG or JPEG files.")],
) -> IntakeOut:
    """Put image files into the inbox of one's own hospital; the intake takes them from there or quarantines them with a reason."""
    return IntakeOut(take_uploads(services, visitor, files))


def _check_hospital(visitor: Visitor, hospital: str) -> None:
    if hospital != visitor.hospital:
        raise NotHere("there is no such image in your hospital")


def _own_hospital(visitor: Visitor) -> str:
    if visitor.hospital is None:
        raise NotHere("you belong to no hospital")
    return visitor.hospital


def _attention(
    services: Services, training_id: str, kind: str, number: Number
) -> NDArray[np.float64] | None:
    path = services.settings.jobs_folder / training_id / "attention.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            rows = arrays[kind]
            return rows[number] / 255.0 if number < len(rows) and rows[number].any() else None
    except (OSError, KeyError, ValueError):
        return None


def _png(content: bytes) -> Response:
    return Response(content, media_type="image/png")
