"""A fixture with an example console and its users."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from argon2 import PasswordHasher

from federation.console.app import make_app, make_services
from federation.console.settings import ConsoleSettings, make_folder
from physical.mirror import MirrorImage
from tests.federation.console.pages.example_comparison import KNOWN
from tests.federation.console.pages.example_desk import NOW, PASSWORD, PEOPLE, Desk


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    settings = ConsoleSettings(
        tmp_path / "console",
        ("anna", "bert"),
        "Test federation",
        secure_cookies=False,
        trusted_hosts=("testserver",),
    )
    make_folder(settings, {"hospitals": ["anna", "bert"]})
    services = make_services(
        settings,
        clock=lambda: NOW,
        hasher=PasswordHasher(time_cost=1, memory_cost=8, parallelism=1),
    )
    pixels = np.zeros((64, 64), np.uint8)
    services.mirrors["anna"].add(
        [
            MirrorImage(
                f"i{k:04d}",
                "2026-11-20T08:00:00+00:00",
                "p",
                "s",
                "liver" if k % 2 else None,
                pixels,
                "png",
            )
            for k in range(4)
        ]
    )
    services.registry.save_versions(
        [
            {
                "version": 1,
                "aliases": ["champion"],
                "class_names": list(KNOWN),
                "created": "2026-11-20T08:00:00+00:00",
                "accuracy": 0.85,
            }
        ]
    )
    services.catalogue.add_model_classes(KNOWN, "system")
    for user, (role, hospital) in PEOPLE.items():
        services.accounts.add(user, PASSWORD, role, hospital)
    yield Desk(services, make_app(settings, services))
    services.model_answers.close()
