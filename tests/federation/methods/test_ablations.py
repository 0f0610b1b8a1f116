from dataclasses import fields, replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from federation.methods.ablations import ABLATIONS
from federation.methods.fedka import FedKA


def terms_of(scene: Any, name: str) -> dict[str, Tensor]:
    return scene.terms(replace(FedKA(), **cast(Any, ABLATIONS[name])))


def test_there_are_the_five_rows_of_table_11() -> None:
    assert set(ABLATIONS) == {"full", "wo_cbl", "wo_sdl", "wo_adl", "wo_wadl"}


@pytest.mark.parametrize("name", ["full", "wo_cbl", "wo_sdl", "wo_adl", "wo_wadl"])
def test_a_change_names_fields_of_fedka_and_really_changes_them(name: str) -> None:
    defaults = {each.name: getattr(FedKA(), each.name) for each in fields(FedKA)}
    assert all(defaults[field] != value for field, value in ABLATIONS[name].items())


def test_full_is_fedka() -> None:
    assert replace(FedKA(), **cast(Any, ABLATIONS["full"])) == FedKA()


@pytest.mark.parametrize(
    ("name", "gone", "changed"),
    [
        ("wo_cbl", set(), {"classification"}),
        ("wo_sdl", {"semantic"}, set()),
        ("wo_adl", {"attention"}, set()),
        ("wo_wadl", set(), {"attention"}),
    ],
)
def test_each_ablation_touches_exactly_its_term_and_the_others_stay_bit_for_bit(
    scene: Any, name: str, gone: set[Any], changed: set[Any]
) -> None:
    full, ablated = terms_of(scene, "full"), terms_of(scene, name)
    assert full.keys() - ablated.keys() == gone
    assert {
        term for term, value in ablated.items() if not torch.equal(value, full[term])
    } == changed


def test_without_cbl_classification_is_alpha_times_plain_cross_entropy(scene: Any) -> None:
    expected = functional.binary_cross_entropy_with_logits(
        scene.logits(), functional.one_hot(scene.batch.rows, 5).float()
    )
    torch.testing.assert_close(terms_of(scene, "wo_cbl")["classification"].detach(), 2 * expected)


def test_without_wadl_attention_is_that_of_equal_images(scene: Any) -> None:
    unweighted = scene.terms(FedKA(weighting="none"))["attention"]
    torch.testing.assert_close(terms_of(scene, "wo_wadl")["attention"], unweighted)
