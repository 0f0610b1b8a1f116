"""``/api/v1``: images, overlays, predictions and uploads, each only inside its own hospital."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, File, Query, Response, UploadFile
from numpy.typing import NDArray
from pydantic import Field

from federation.console.api.models import Body, Number, Word, api_router
from federation.console.errors import NotFound
from federation.console.model_answers import NO_EVIDENCE, Prediction, draw_heat, draw_image
from federation.console.security.guard import GuardedRoute
from federation.console.security.uploads import UploadResult, store_uploads
from federation.console.services import Services, ServicesDep, Visitor, VisitorDep
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
    """Images of the user's hospital."""

    image_ids: Annotated[list[Word], Field(min_length=1, max_length=200)]


@dataclass(frozen=True)
class PredictOut:
    """Predictions of the serving model.

    Args:
        version: Version of the model.
        predictions: One per image, in the order of the request.
    """

    version: str
    predictions: list[Prediction]


@dataclass(frozen=True)
class IntakeOut:
    """Results of an upload.

    Args:
        files: One per file, in the order of the request.
    """

    files: list[UploadResult]


@page_images.get("/images/{hospital}/{image_id}.png")
@router.get("/images/{hospital}/{image_id}.png", responses=_PNG, response_class=Response)
def image(services: ServicesDep, visitor: VisitorDep, hospital: str, image_id: str) -> Response:
    """Return an image in the size that the twin keeps."""
    _check_hospital(visitor, hospital)
    return _png(draw_image(services.mirrors[hospital].pixels([image_id])[0]))


@page_images.get("/overlays/{hospital}/{image_id}.png")
@router.get("/overlays/{hospital}/{image_id}.png", responses=_PNG, response_class=Response)
def overlay(
    services: ServicesDep, visitor: VisitorDep, hospital: str, image_id: str, class_name: ClassName
) -> Response:
    """Return the serving model's evidence for a class, to be laid over the image."""
    _check_hospital(visitor, hospital)
    if class_name not in services.registry.champion_classes():
        services.mirrors[hospital].facts([image_id])  # an unknown image is the first error
        raise NotFound(
            f"the serving model knows no class {class_name[:80]!r}; ask for one that it can predict"
        )
    return _png(services.model_answers.overlay(hospital, image_id, class_name))


@page_images.get("/comparisons/{training_id}/examples/{number}/{kind}.png")
def example(
    services: ServicesDep,
    visitor: VisitorDep,
    training_id: str,
    number: int,
    kind: Literal["image", "before", "after"],
) -> Response:
    """Return an image whose two predictions differ, or the attention of one of the models."""
    changed = read_comparison(services, training_id).get("changed", ())
    own = (each for each in changed if each["hospital"] == visitor.hospital)
    found = next((each for each in own if each["number"] == number), None)
    if found is None:
        raise NotFound(
            f"the comparison has no example {number} of your hospital; "
            "its page shows all that exist"
        )
    if kind == "image":
        return _png(draw_image(services.mirrors[found["hospital"]].pixels([found["image_id"]])[0]))
    heat = _attention(services, training_id, kind, number)
    return _png(NO_EVIDENCE.read_bytes() if heat is None else draw_heat(heat))


@router.post("/predictions")
def predict(services: ServicesDep, visitor: VisitorDep, body: PredictIn) -> PredictOut:
    """Return the serving model's predictions for images of the user's hospital."""
    if visitor.hospital is None:
        raise NotFound("you belong to no hospital")
    return PredictOut(*services.model_answers.predict(visitor.hospital, body.image_ids))


@router.post("/intake")
def intake(
    services: ServicesDep,
    visitor: VisitorDep,
    files: Annotated[list[UploadFile], File(description="DICOM, PNG or JPEG files.")],
) -> IntakeOut:
    """Upload image files into the inbox of the user's hospital.

    The intake process takes them from there, or quarantines them with a reason.
    """
    return IntakeOut(store_uploads(services, visitor, files))


def _check_hospital(visitor: Visitor, hospital: str) -> None:
    if hospital != visitor.hospital:
        raise NotFound("there is no such image in your hospital")


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
