"""Three hospitals' updates, their maskers and rosters."""

from collections.abc import Callable
from typing import Any

import torch

from twin.messages import TwinUpdate
from twin.secure_sum.mask_messages import Member, Roster, Sealed
from twin.secure_sum.masking import Masker

CLASSES = ("liver", "heart")
NAMES = ("north", "east", "south", "west")
GLOBAL = {
    "head.weight": torch.linspace(-1, 1, 600).reshape(2, 300),
    "head.bias": torch.ones(2),
    "batches": torch.tensor(3),
}


def update_of(name: str, number: int = 0, round_number: int = 5) -> TwinUpdate:
    generator = torch.Generator().manual_seed(number)
    weights = {
        key: value + 0.1 * torch.randn(value.shape, generator=generator)
        if value.is_floating_point()
        else value + number
        for key, value in GLOBAL.items()
    }
    return TwinUpdate(
        name,
        round_number,
        weights,
        10 + number,
        metrics={"total": float(number)},
        class_names=CLASSES,
    )


def sealed_hospitals(
    names: tuple[str, ...] = NAMES,
    round_number: int = 5,
    make: Callable[..., Any] | type[Any] = Masker,
) -> tuple[Any, ...]:
    maskers = {name: make(name) for name in names}
    sealed = {
        name: masker.seal(update_of(name, number, round_number), GLOBAL)
        for number, (name, masker) in enumerate(maskers.items())
    }
    return maskers, sealed


def roster_of(
    sealed: dict[str, Sealed], names: tuple[str, ...] | None = None, mean: Any = "by_images"
) -> Roster:
    chosen = {name: sealed[name] for name in names or sealed}
    members = {
        name: Member(each.public_key, each.num_images, each.signature)
        for name, each in chosen.items()
    }
    first = next(iter(sealed.values()))
    return Roster(first.round, first.class_names, members, mean)
