"""A case of 2,000 images opens in a second of processor time (fifth acceptance test)."""

from time import process_time

import numpy as np

from tests.federation.console.example_console import World
from twin.review.cases import CaseImage, CaseSummary

NUM_IMAGES = 2000
SECONDS = 1.0


def test_a_case_of_two_thousand_images_opens_in_a_second(world: World) -> None:
    rng = np.random.default_rng(1)
    top = (("liver", 0.5), ("spleen", 0.3))
    images = [
        CaseImage(
            f"many{number}",
            float(rng.random()),
            top,
            float(rng.random()),
            f"2026-02-{number % 27 + 1:02d}T08:00:00+00:00",
        )
        for number in range(NUM_IMAGES)
    ]
    ids, histogram = [each.image_id for each in images], (100,) * 20
    nearest = (("liver", 0.6),)
    summary = CaseSummary(
        NUM_IMAGES,
        0.5,
        nearest,
        {"liver": tuple(ids[:3])},
        histogram,
        histogram,
        "entropy",
        0.5,
        "1",
        tuple(ids[:4]),
    )
    case_id = world.services.store.open_case("north", images, summary)
    ada = world.client("ada")
    ada.get("/cases")  # templates are read once
    for path in (
        f"/cases/{case_id}",
        f"/api/v1/cases/{case_id}",
        f"/api/v1/cases/{case_id}/images",
        "/cases",
    ):
        started = process_time()
        answer = ada.get(path)
        spent = process_time() - started
        assert answer.status_code == 200, path
        assert spent <= SECONDS, path
        assert len(answer.content) < 500_000, path  # a page of it, not all of it
