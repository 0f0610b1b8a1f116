import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from federation.catalogue.class_names import CatalogueError
from federation.console.case_actions import ActionResult, act_on_case, decide_release
from federation.console.class_name_actions import NameSuggested, Proposal, propose_class
from federation.console.errors import ActionRefused, NotForRole
from federation.console.job_queue import JobError
from federation.console.services import Visitor
from federation.console.training_jobs import TrainingJobs
from federation.console.views.cases import case_view
from federation.console.views.overview import home_view
from federation.console.views.trainings import comparison_view, training_view
from twin.review.store import CaseNotFound, Conflict
from twin.review.workflow import CaseState, NotAllowed, WorkflowError


def visitor(world: Any, user: str) -> Visitor:
    account = world.services.accounts.get(user)
    return Visitor(account.user, account.role, account.hospital, "")


def act(
    world: Any, user: str, action: str, case: str = "north", **more: Any
) -> ActionResult | None:
    return act_on_case(world.services, visitor(world, user), world.cases[case], action, **more)


def name_case(
    world: Any, name: str = "kidney", case: str = "north", user: str = "ada", **more: Any
) -> ActionResult:
    act(world, user, "open", case)
    return act(world, user, "name", case, class_name=name, **more)


def test_a_case_goes_from_detected_to_training(world: Any) -> None:
    assert (
        name_case(
            world, proposal=Proposal("SNOMED CT", "64033007", ("ren",), "an organ")
        ).case.state
        == "named"
    )
    entry = world.services.catalogue.find("ren")
    assert (entry.name, entry.state, entry.proposed_by, entry.hospital, entry.code) == (
        "kidney",
        "proposed",
        "ada",
        "north",
        "64033007",
    )
    assert act(world, "ben", "approve").case.state == "approved"
    assert world.services.catalogue.find("kidney").approved_by == "ben"
    done = act(world, "olu", "start_training")
    assert (done.case.state, done.case.training_id) == ("training", done.job.job_id)


def test_approval_starts_a_training_where_it_shall(world_with: Callable[..., Any]) -> None:
    world = world_with(train_on_approval=True)
    name_case(world)
    first = act(world, "ben", "approve")
    name_case(world, case="south", user="cyd")
    second = act(world, "dee", "approve", "south", proposal=Proposal(confirmed=True))
    assert (
        first.job.job_id == second.job.job_id
    )  # it waits, and takes in what is approved meanwhile
    assert {case.hospital for case in world.services.store.of_training(first.job.job_id)} == {
        "north",
        "south",
    }


def test_who_named_may_not_approve(world: Any) -> None:
    name_case(world)
    with pytest.raises(NotForRole):
        act(world, "ada", "approve")


def test_a_name_that_looks_like_a_known_one_is_offered_that_one_first(world: Any) -> None:
    act(world, "ada", "open")
    with pytest.raises(NameSuggested) as offered:
        act(world, "ada", "name", class_name="spleens")
    assert [each.entry.name for each in offered.value.suggestions] == ["spleen"]
    assert world.services.catalogue.find("spleens") is None
    assert (
        act(
            world, "ada", "name", class_name="spleens", proposal=Proposal(confirmed=True)
        ).case.class_name
        == "spleens"
    )


def test_two_hospitals_names_for_one_thing_are_offered_a_merge_before_the_head_grows(
    world: Any,
) -> None:
    name_case(world, "gall bladder")
    act(world, "cyd", "open", "south")
    act(world, "cyd", "name", "south", class_name="gallbladder", proposal=Proposal(confirmed=True))
    with pytest.raises(NameSuggested, match="gall bladder"):
        act(world, "dee", "approve", "south")
    assert (
        act(world, "dee", "approve", "south", proposal=Proposal(confirmed=True)).case.state
        == "approved"
    )


def test_naming_a_case_as_a_class_that_the_model_knows_is_a_merge(world: Any) -> None:
    act(world, "ada", "open")
    assert act(world, "ada", "name", class_name="Liver").case.state is CaseState.MERGED


def test_merging_into_a_class_that_the_model_does_not_know_is_refused(world: Any) -> None:
    act(world, "ada", "open")
    with pytest.raises(ActionRefused, match="knows: liver, spleen"):
        act(world, "ada", "merge", class_name="kidney")


@pytest.mark.parametrize(
    "name", ["", " ", "<script>alert(1)</script>", "x" * 500, "a\0b", "\ud800", "a\nb"]
)
def test_a_name_that_is_none_is_refused_and_nothing_is_changed(world: Any, name: str) -> None:
    act(world, "ada", "open")
    with pytest.raises((CatalogueError, WorkflowError)):
        act(world, "ada", "name", class_name=name)
    assert world.services.store.case(None, world.cases["north"]).state == "in_review"
    assert len(world.services.catalogue.entries(merged=True)) == 3


def test_a_step_that_came_too_late_leaves_no_proposal_behind(world: Any) -> None:
    act(world, "ada", "open")
    with pytest.raises(Conflict):
        act(world, "ada", "name", class_name="kidney", revision=1)
    assert world.services.catalogue.find("kidney") is None


@pytest.mark.parametrize(
    "action", ["finish_training", "fail_training", "release", "roll_back", "nonsense"]
)
def test_what_is_the_systems_or_the_comparisons_is_no_action_of_a_case(
    world: Any, action: str
) -> None:
    with pytest.raises(ActionRefused, match="has no action"):
        act(world, "olu", action, "evaluated")


def test_another_hospitals_case_is_not_there(world: Any) -> None:
    with pytest.raises(CaseNotFound):
        act(world, "cyd", "open")


def test_a_proposal_that_is_known_is_found(world: Any) -> None:
    ada = visitor(world, "ada")
    assert (
        propose_class(world.services, ada, "Pancreas", Proposal()).entry_id
        == world.services.catalogue.find("pancreas").entry_id
    )


def test_a_release_is_queued_once_and_only_by_a_second_person(world: Any) -> None:
    approver, services = visitor(world, "ben"), world.services
    assert comparison_view(services, approver, world.training_id).actions == ("release",)
    with pytest.raises(NotForRole, match="cannot do this"):
        decide_release(services, visitor(world, "ada"), world.training_id, "release")
    with pytest.raises(NotForRole, match="No case of your hospital"):
        decide_release(services, visitor(world, "dee"), world.training_id, "release")
    job = decide_release(services, approver, world.training_id, "release", "looks right").job
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


def test_a_release_against_a_red_light_needs_a_reason(world: Any) -> None:
    path = world.settings.jobs_folder / world.training_id / "comparison.json"
    plain = json.loads(path.read_text())
    path.write_text(json.dumps({**plain, "verdict": {"overall": "red", "lights": []}}))
    with pytest.raises(ActionRefused, match="needs a reason"):
        decide_release(world.services, visitor(world, "olu"), world.training_id, "release", "  ")
    assert decide_release(
        world.services, visitor(world, "olu"), world.training_id, "release", "agreed by phone"
    ).job


def test_a_candidate_with_a_case_that_was_decided_anew_cannot_be_released(world: Any) -> None:
    act(world, "ada", "reopen", "evaluated", reason="wrong organ")
    assert comparison_view(world.services, visitor(world, "olu"), world.training_id).actions == ()
    with pytest.raises(ActionRefused, match="in review"):
        decide_release(world.services, visitor(world, "olu"), world.training_id, "release")


def test_only_what_was_released_and_serves_can_be_rolled_back(world: Any) -> None:
    with pytest.raises(ActionRefused, match="needed: released"):
        decide_release(
            world.services, visitor(world, "olu"), world.training_id, "roll_back", "wrong"
        )
    with pytest.raises(JobError):
        decide_release(world.services, visitor(world, "olu"), "nothing", "roll_back", "wrong")


def trainings(world: Any) -> TrainingJobs:
    each = world.services
    return TrainingJobs(world.settings, each.store, each.catalogue, each.mirrors, each.registry)


def test_the_file_of_a_training_is_one_that_its_process_takes(world: Any) -> None:
    from pydantic import TypeAdapter

    from federation.class_addition.job import AdditionJob

    name_case(world)
    act(world, "ben", "approve")
    world.services.mirrors["north"].name(["dnorth0"], "splenic tissue")
    world.services.catalogue.propose("splenic tissue", "ada", "north")
    entry, spleen = (
        world.services.catalogue.find("splenic tissue"),
        world.services.catalogue.find("spleen"),
    )
    world.services.catalogue.merge(entry.entry_id, spleen.entry_id, "ben", "the same")
    job = act(world, "olu", "start_training").job
    plain = json.loads(json.dumps(trainings(world).prepare(job)))
    taken = TypeAdapter(AdditionJob).validate_python(plain)
    assert (
        taken.hospitals[0].new_images == {"kidney": ["dnorth0", "dnorth1", "dnorth2"]}
        and taken.hospitals[1].new_images == {}
    )
    assert taken.synonyms == {"splenic tissue": "spleen"}


def test_the_files_of_registry_jobs_are_ones_that_their_process_takes(world: Any) -> None:
    from pydantic import TypeAdapter

    from federation.release.job import ReleaseJob

    jobs = world.services.jobs
    for job in (
        jobs.add("versions", "system", "system"),
        jobs.add("register", "ben", "approver", world.training_id),
        jobs.add("release", "ben", "approver", world.training_id, "why"),
        jobs.add("roll_back", "ben", "approver", world.training_id, "why", "2"),
    ):
        assert (
            TypeAdapter(ReleaseJob).validate_python(dict(trainings(world).prepare(job))).verb
            == job.kind
        )


def test_a_training_without_a_model_or_without_cases_cannot_start(world: Any) -> None:
    job = world.services.jobs.add("training", "ben", "approver")
    with pytest.raises(JobError, match="none of its cases"):
        trainings(world).prepare(job)
    (world.settings.models_folder / "current.json").unlink()
    with pytest.raises(JobError, match="no model serves"):
        trainings(world).prepare(job)


def test_a_failed_training_gives_its_cases_back(world: Any) -> None:
    from dataclasses import replace

    name_case(world)
    act(world, "ben", "approve")
    job = act(world, "olu", "start_training").job
    for _ in range(2):  # after a crash it is settled again
        trainings(world).settle(
            replace(job, state="failed", error="too few images"), {}, world.services.jobs
        )
    case = world.services.store.case(None, world.cases["north"])
    assert (case.state, case.reason) == ("approved", "too few images")


def test_a_release_moves_its_cases_and_names_their_images(world: Any) -> None:
    from dataclasses import replace

    services = world.services
    job = replace(
        services.jobs.add("release", "ben", "approver", world.training_id, "fine"), state="done"
    )
    for _ in range(2):
        trainings(world).settle(job, {"versions": []}, services.jobs)
    case = services.store.case(None, world.cases["evaluated"])
    decision = services.store.decisions(case.case_id)[-1]
    assert (case.state, decision.user, decision.reason) == ("released", "ben", "fine")
    assert services.mirrors["north"].class_counts() == {"pancreas": 3}
    assert services.catalogue.find("pancreas").learned
    back = replace(
        services.jobs.add("roll_back", "olu", "operator", world.training_id, "harm", "2"),
        state="done",
    )
    trainings(world).settle(back, {}, services.jobs)
    assert services.store.case(None, case.case_id).state == "rolled_back"


def test_views_show_what_is_theirs(world: Any) -> None:
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


def test_a_case_of_two_thousand_images_is_viewed_in_a_second(world: Any) -> None:
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


def test_not_allowed_and_refused_are_told_apart(world: Any) -> None:
    with pytest.raises(WorkflowError) as raised:
        act(world, "ben", "approve")
    assert not isinstance(raised.value, NotAllowed)
