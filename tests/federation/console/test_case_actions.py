import json
from collections.abc import Callable

import numpy as np
import pytest

from federation.catalogue.class_names import CatalogueError
from federation.console.case_actions import decide_release
from federation.console.class_name_actions import NameSuggested, Proposal, propose_class
from federation.console.errors import ActionRefused, NotForRole
from federation.console.job_queue import JobError
from federation.console.views.cases import case_view
from federation.console.views.overview import home_view
from federation.console.views.trainings import comparison_view, training_view
from tests.federation.console.case_steps import (
    act,
    case_of,
    entry,
    job_of,
    name_case,
    visitor,
)
from tests.federation.console.example_console import World
from twin.review.store import CaseNotFound, Conflict
from twin.review.workflow import CaseState, NotAllowed, WorkflowError


def test_a_case_goes_from_detected_to_training(world: World) -> None:
    proposal = Proposal("SNOMED CT", "64033007", ("ren",), "an organ")
    assert case_of(name_case(world, proposal=proposal)).state == "named"
    kidney = entry(world, "ren")
    assert (kidney.name, kidney.state, kidney.proposed_by, kidney.hospital, kidney.code) == (
        "kidney",
        "proposed",
        "ada",
        "north",
        "64033007",
    )
    assert case_of(act(world, "ben", "approve")).state == "approved"
    assert entry(world, "kidney").approved_by == "ben"
    done = act(world, "olu", "start_training")
    assert (case_of(done).state, case_of(done).training_id) == ("training", job_of(done).job_id)


def test_approval_starts_a_training_if_the_settings_say_so(
    world_with: Callable[..., World],
) -> None:
    world = world_with(train_on_approval=True)
    name_case(world)
    first = act(world, "ben", "approve")
    name_case(world, case="south", user="cyd")
    second = act(world, "dee", "approve", "south", proposal=Proposal(confirmed=True))
    assert (
        job_of(first).job_id == job_of(second).job_id
    )  # it waits, and takes in what is approved meanwhile
    assert {case.hospital for case in world.services.store.of_training(job_of(first).job_id)} == {
        "north",
        "south",
    }


def test_the_person_who_named_a_case_may_not_approve_it(world: World) -> None:
    name_case(world)
    with pytest.raises(NotForRole):
        act(world, "ada", "approve")


def test_a_name_similar_to_a_known_one_is_refused_with_a_suggestion(world: World) -> None:
    act(world, "ada", "open")
    with pytest.raises(NameSuggested) as offered:
        act(world, "ada", "name", class_name="spleens")
    assert [each.entry.name for each in offered.value.suggestions] == ["spleen"]
    assert world.services.catalogue.find("spleens") is None
    confirmed = Proposal(confirmed=True)
    named = case_of(act(world, "ada", "name", class_name="spleens", proposal=confirmed))
    assert named.class_name == "spleens"


def test_an_approver_sees_a_similar_name_of_another_hospital_first(
    world: World,
) -> None:
    name_case(world, "gall bladder")
    act(world, "cyd", "open", "south")
    act(world, "cyd", "name", "south", class_name="gallbladder", proposal=Proposal(confirmed=True))
    with pytest.raises(NameSuggested, match="gall bladder"):
        act(world, "dee", "approve", "south")
    assert (
        case_of(act(world, "dee", "approve", "south", proposal=Proposal(confirmed=True))).state
        == "approved"
    )


def test_naming_a_case_as_a_class_that_the_model_knows_is_a_merge(world: World) -> None:
    act(world, "ada", "open")
    assert case_of(act(world, "ada", "name", class_name="Liver")).state is CaseState.MERGED


def test_merging_into_a_class_that_the_model_does_not_know_is_refused(world: World) -> None:
    act(world, "ada", "open")
    with pytest.raises(ActionRefused, match="knows: liver, spleen"):
        act(world, "ada", "merge", class_name="kidney")


@pytest.mark.parametrize(
    "name", ["", " ", "<script>alert(1)</script>", "x" * 500, "a\0b", "\ud800", "a\nb"]
)
def test_an_invalid_name_is_refused_and_changes_nothing(world: World, name: str) -> None:
    act(world, "ada", "open")
    with pytest.raises((CatalogueError, WorkflowError)):
        act(world, "ada", "name", class_name=name)
    assert world.services.store.case(None, world.cases["north"]).state == "in_review"
    assert len(world.services.catalogue.entries(merged=True)) == 3


def test_a_conflicting_step_leaves_no_proposal_behind(world: World) -> None:
    act(world, "ada", "open")
    with pytest.raises(Conflict):
        act(world, "ada", "name", class_name="kidney", revision=1)
    assert world.services.catalogue.find("kidney") is None


@pytest.mark.parametrize(
    "action", ["finish_training", "fail_training", "release", "roll_back", "nonsense"]
)
def test_actions_of_the_system_or_the_comparison_are_no_case_actions(
    world: World, action: str
) -> None:
    with pytest.raises(ActionRefused, match="has no action"):
        act(world, "olu", action, "evaluated")


def test_a_case_of_another_hospital_is_not_found(world: World) -> None:
    with pytest.raises(CaseNotFound):
        act(world, "cyd", "open")


def test_a_proposal_that_is_known_is_found(world: World) -> None:
    ada = visitor(world, "ada")
    assert (
        propose_class(world.services, ada, "Pancreas", Proposal()).entry_id
        == entry(world, "pancreas").entry_id
    )


def test_a_release_is_queued_once_and_only_by_a_second_person(world: World) -> None:
    approver, services = visitor(world, "ben"), world.services
    assert comparison_view(services, approver, world.training_id).actions == ("release",)
    with pytest.raises(NotForRole, match="cannot do this"):
        decide_release(services, visitor(world, "ada"), world.training_id, "release")
    with pytest.raises(NotForRole, match="No case of your hospital"):
        decide_release(services, visitor(world, "dee"), world.training_id, "release")
    job = job_of(decide_release(services, approver, world.training_id, "release", "looks right"))
    assert (job.kind, job.subject, job.user, job.reason) == (
        "release",
        world.training_id,
        "ben",
        "looks right",
    )
    with pytest.raises(ActionRefused, match="under way"):
        decide_release(services, visitor(world, "olu"), world.training_id, "release")
    assert comparison_view(services, approver, world.training_id).pending == job
    with pytest.raises(ActionRefused, match="under way"):
        act(world, "ada", "reopen", "evaluated", reason="second thoughts")


def test_a_release_against_a_red_light_needs_a_reason(world: World) -> None:
    path = world.settings.jobs_folder / world.training_id / "comparison.json"
    plain = json.loads(path.read_text())
    path.write_text(json.dumps({**plain, "verdict": {"overall": "red", "lights": []}}))
    with pytest.raises(ActionRefused, match="needs a reason"):
        decide_release(world.services, visitor(world, "olu"), world.training_id, "release", "  ")
    assert decide_release(
        world.services, visitor(world, "olu"), world.training_id, "release", "agreed by phone"
    ).job


def test_a_candidate_whose_case_was_reopened_cannot_be_released(world: World) -> None:
    act(world, "ada", "reopen", "evaluated", reason="wrong organ")
    assert comparison_view(world.services, visitor(world, "olu"), world.training_id).actions == ()
    with pytest.raises(ActionRefused, match="in review"):
        decide_release(world.services, visitor(world, "olu"), world.training_id, "release")


def test_only_the_released_serving_model_can_be_rolled_back(world: World) -> None:
    with pytest.raises(ActionRefused, match="needed: released"):
        decide_release(
            world.services, visitor(world, "olu"), world.training_id, "roll_back", "wrong"
        )
    with pytest.raises(JobError):
        decide_release(world.services, visitor(world, "olu"), "nothing", "roll_back", "wrong")


def test_views_contain_only_what_the_visitor_may_see(world: World) -> None:
    services = world.services
    assert case_view(services, visitor(world, "ada"), world.cases["north"]).actions == (
        "open",
        "reject",
    )
    assert case_view(services, visitor(world, "olu"), world.cases["north"]).actions == ()
    assert [row.case_id for row in home_view(services, visitor(world, "cyd")).todo] == [
        world.cases["south"]
    ]
    assert [
        case.case_id
        for case in training_view(services, visitor(world, "ada"), world.training_id).cases
    ] == [world.cases["evaluated"]]
    theirs = training_view(services, visitor(world, "cyd"), world.training_id)
    assert (theirs.cases, theirs.num_other_cases, theirs.fraction) == ((), 1, 1.0)
    assert "candidate" not in theirs.result


def test_a_case_of_two_thousand_images_is_viewed_in_a_second(world: World) -> None:
    import time

    from twin.review.cases import CaseImage

    services = world.services
    old = services.store.case(None, world.cases["north"])
    rng = np.random.default_rng(3)
    images = [
        CaseImage(
            f"big{each}", float(rng.random()), (("liver", 0.4),), 0.1, "2026-02-03T00:00:00+00:00"
        )
        for each in range(2000)
    ]
    case_id = services.store.open_case("north", images, old.summary)
    began = time.perf_counter()
    view = case_view(services, visitor(world, "ada"), case_id)
    assert view.counts_by_day == (("2026-02-03", 2000),)
    assert time.perf_counter() - began < 1


def test_an_impossible_step_is_not_reported_as_forbidden(world: World) -> None:
    with pytest.raises(WorkflowError) as raised:
        act(world, "ben", "approve")
    assert not isinstance(raised.value, NotAllowed)
