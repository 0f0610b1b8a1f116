from typing import Any

import pydantic
import pytest

from federation.tracking import TrackingConfig


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "http://host"},
        {"uri": "mlruns"},
        {"uri": "http://me:secret@host"},
        {"minimum_accuracy": 1.5},
        {"timeout_seconds": 0},
        {"experiment": ""},
        {"registered_model": "a/b"},
    ],
)
def test_invalid_configuration_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        TrackingConfig(**settings)
