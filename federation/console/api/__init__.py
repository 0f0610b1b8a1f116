"""The JSON API under ``/api/v1``: every action of the pages, for programs such as a PACS viewer. Rules are in ``actions`` and ``views``."""

from fastapi import APIRouter

from federation.console.api import (
    cases,
    classes,
    federation,
    images,
    models,
    sessions,
    trainings,
    users,
)


def api_routers() -> tuple[APIRouter, ...]:
    """Return all routers of the API; single images for pages are among them."""
    rooms = (sessions, cases, images, classes, trainings, federation, users)
    return (*(room.router for room in rooms), images.page_images)


__all__ = ["api_routers", "models"]
