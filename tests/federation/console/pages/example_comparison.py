"""The content of an example ``comparison.json``, with markup in a class name."""

from typing import Any

KNOWN = ("heart", "liver", "spleen")
EVIL = '<b onclick="x">liver</b>'


def comparison(overall: str) -> dict[str, Any]:
    numbers = {
        "digest": "d",
        "class_names": [*KNOWN],
        "accuracy": 0.9,
        "macro_f1": 0.88,
        "calibration_error": 0.04,
        "num_images": 300,
    }
    classes = [
        {
            "class_name": "bladder",
            "num_images": 50,
            "is_new": True,
            "candidate_accuracy": 0.8,
            "champion_accuracy": None,
            "loss_points": None,
        }
    ]
    classes += [
        {
            "class_name": name,
            "num_images": 80,
            "is_new": False,
            "candidate_accuracy": 0.9 - loss / 100,
            "champion_accuracy": 0.9,
            "loss_points": loss,
        }
        for name, loss in zip(KNOWN, (3.0, -1.0, 0.0), strict=True)
    ]
    rule = {
        "rule": "max_loss_per_old_class_points",
        "subject": "heart",
        "light": overall,
        "measured": 3.0,
        "allowed": 2.0,
        "unit": "points",
    }
    other = {
        "rule": "min_accuracy",
        "subject": "",
        "light": "green",
        "measured": 0.9,
        "allowed": 0.5,
        "unit": "share",
    }
    changed = {
        "hospital": "anna",
        "image_id": "i0001",
        "truth": "heart",
        "before": "heart",
        "after": EVIL,
        "number": 0,
    }
    return {
        "candidate": numbers,
        "champion": {**numbers, "accuracy": 0.85},
        "classes": classes,
        "hospitals": [
            {
                "hospital": "anna",
                "num_images": 300,
                "candidate_accuracy": 0.9,
                "champion_accuracy": 0.85,
                "loss_points": -5.0,
            }
        ],
        "num_changed": 1,
        "num_mended": 0,
        "num_broken": 1,
        "changed": [{**changed, "before_probability": 0.6, "after_probability": 0.7}],
        "verdict": {
            "overall": overall,
            "lights": [{**each, "num_images": 80, "text": "as measured"} for each in (rule, other)],
        },
    }
