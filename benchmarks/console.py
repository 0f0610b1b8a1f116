"""Time to open, and to group, a console case of 2,000 images; the limits are 1 s and 5 s.

Measures the server alone: pages and API answers requested within this process, without a network.
Processor time is printed beside clock time, which also grows with other load on the machine.

    python -m benchmarks.console [--images 2000] [--repeats 5]
"""

import logging
import resource
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter, process_time

import numpy as np

from benchmarks.measuring import duration, parser, print_progress, table

PASSWORD = "a long enough password"
SIDE, FEATURES, USER = 64, 128, "ada"


def main() -> None:
    """Measure and print a table."""
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=2000)
    options.add_argument("--repeats", type=int, default=5)
    settings = options.parse_args()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # Starlette's test client also works with httpx
    warnings.filterwarnings("ignore", message="Using `httpx`")
    rows = [grouping(settings.images, settings.repeats)]
    with tempfile.TemporaryDirectory() as folder:
        rows += opening(Path(folder), settings.images, settings.repeats)
    print(
        table(
            [
                "what",
                "clock, median",
                "clock, worst",
                "processor, median",
                "peak memory of the process",
            ],
            rows,
        )
    )


def grouping(num_images: int, repeats: int) -> list[str]:
    """Group this many feature vectors, half of them around five centres."""
    from twin.review.grouping import group

    rng = np.random.default_rng(1)
    around = rng.standard_normal((5, FEATURES))[rng.integers(5, size=num_images // 2)]
    alike = around + 0.3 * rng.standard_normal(around.shape)
    features = np.concatenate([alike, rng.standard_normal((num_images - len(alike), FEATURES))])
    return _measured(f"grouping {num_images} images", lambda: group(features, 0.5, 8, 40), repeats)


def opening(folder: Path, num_images: int, repeats: int) -> list[list[str]]:
    """Open a case of this many images as a page and through the API."""
    from starlette.testclient import TestClient

    from federation.console.app import make_app, make_services
    from federation.console.settings import ConsoleSettings, make_folder
    from physical.mirror import MirrorImage
    from twin.review.cases import CaseImage, CaseSummary
    from twin.review.workflow import Role

    plain = {"hospitals": ["north"], "image_size": SIDE, "secure_cookies": False}
    settings = ConsoleSettings(
        folder=folder, hospitals=("north",), image_size=SIDE, secure_cookies=False
    )
    make_folder(settings, plain)
    services = make_services(settings)
    services.accounts.add(USER, PASSWORD, Role.CLINICIAN, "north")
    rng = np.random.default_rng(1)
    ids = [f"{number:064x}" for number in range(num_images)]
    arrived = [f"2026-02-{number % 27 + 1:02d}T08:00:00.000+00:00" for number in range(num_images)]
    pixels = rng.integers(0, 255, (num_images, SIDE, SIDE), dtype=np.uint8)
    services.mirrors["north"].add(
        [
            MirrorImage(each, at, "p", "s", None, image, "png")
            for each, at, image in zip(ids, arrived, pixels, strict=True)
        ]
    )
    top = (("liver", 0.5), ("spleen", 0.3), ("heart", 0.1))
    images = [
        CaseImage(each, float(rng.random()), top, float(rng.random()), at)
        for each, at in zip(ids, arrived, strict=True)
    ]
    histogram = tuple(int(each) for each in rng.integers(0, 200, 20))
    nearest = {"liver": tuple(ids[:5]), "spleen": tuple(ids[5:10])}
    summary = CaseSummary(
        num_images,
        0.5,
        (("liver", 0.8), ("spleen", 0.6)),
        nearest,
        histogram,
        histogram,
        "entropy",
        0.4,
        "1",
        tuple(ids[:4]),
    )
    case_id = services.store.open_case("north", images, summary)
    client = TestClient(make_app(settings, services), base_url="http://localhost")
    client.cookies.set("fedka-session", services.accounts.open_session(USER))
    paths = (
        f"/cases/{case_id}",
        f"/api/v1/cases/{case_id}",
        f"/api/v1/cases/{case_id}/images?per_page=200",
        "/cases",
    )

    def ask(path: str) -> None:
        answer = client.get(path)
        if answer.status_code != 200:
            raise RuntimeError(f"{path} answered {answer.status_code}: {answer.text[:300]}")

    rows = [_measured(f"GET {path}", partial(ask, path), repeats) for path in paths]
    client.close()
    for mirror in services.mirrors.values():
        mirror.close()
    return rows


def _measured(name: str, work: Callable[[], object], repeats: int) -> list[str]:
    work()
    clock, processor = [], []
    for _ in range(repeats):
        at, spent = perf_counter(), process_time()
        work()
        clock.append(perf_counter() - at)
        processor.append(process_time() - spent)
    print_progress(f"  {name}: {max(clock):.3f} s at worst")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [
        name,
        duration(float(np.median(clock))),
        duration(max(clock)),
        duration(float(np.median(processor))),
        f"{peak:.0f} MiB",
    ]


if __name__ == "__main__":
    main()
