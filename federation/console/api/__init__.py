"""The JSON API under ``/api/v1``: every action of the pages, for programs such as a PACS viewer."""

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
    """Return all routers of the API, and the one of single images for pages."""
    modules = (sessions, cases, images, classes, trainings, federation, users)
    return (*(module.router for module in modules), images.page_images)


__all__ = ["api_routers", "models"]
