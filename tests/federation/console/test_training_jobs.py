import json
from dataclasses import replace

import pytest
from pydantic import TypeAdapter

from federation.console.job_queue import JobError
from federation.console.training_jobs import TrainingJobs
from tests.federation.console.case_steps import act, entry, job_of, name_case
from tests.federation.console.example_console import World


def trainings(world: World) -> TrainingJobs:
    each = world.services
    return TrainingJobs(world.settings, each.store, each.catalogue, each.mirrors, each.registry)


def test_the_job_file_of_a_training_is_valid_for_its_process(world: World) -> None:
    from federation.class_addition.job import AdditionJob

    name_case(world)
    act(world, "ben", "approve")
    world.services.mirrors["north"].set_class_name(["dnorth0"], "splenic tissue")
    world.services.catalogue.propose("splenic tissue", "ada", "north")
    tissue, spleen = entry(world, "splenic tissue"), entry(world, "spleen")
    world.services.catalogue.merge(tissue.entry_id, spleen.entry_id, "ben", "the same")
    job = job_of(act(world, "olu", "start_training"))
    plain = json.loads(json.dumps(trainings(world).prepare(job)))
    taken = TypeAdapter(AdditionJob).validate_python(plain)
    assert (
        taken.hospitals[0].new_images == {"kidney": ["dnorth0", "dnorth1", "dnorth2"]}
        and taken.hospitals[1].new_images == {}
    )
    assert taken.synonyms == {"splenic tissue": "spleen"}


def test_the_job_files_of_releases_are_valid_for_their_process(world: World) -> None:
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


def test_a_training_without_a_model_or_without_cases_cannot_start(world: World) -> None:
    job = world.services.jobs.add("training", "ben", "approver")
    with pytest.raises(JobError, match="none of its cases"):
        trainings(world).prepare(job)
    (world.settings.models_folder / "current.json").unlink()
    with pytest.raises(JobError, match="no model serves"):
        trainings(world).prepare(job)


def test_a_failed_training_gives_its_cases_back(world: World) -> None:
    name_case(world)
    act(world, "ben", "approve")
    job = job_of(act(world, "olu", "start_training"))
    for _ in range(2):  # after a crash it is settled again
        trainings(world).settle(
            replace(job, state="failed", error="too few images"), {}, world.services.jobs
        )
    case = world.services.store.case(None, world.cases["north"])
    assert (case.state, case.reason) == ("approved", "too few images")


def test_a_release_moves_its_cases_and_names_their_images(world: World) -> None:
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
    assert entry(world, "pancreas").learned
    back = replace(
        services.jobs.add("roll_back", "olu", "operator", world.training_id, "harm", "2"),
        state="done",
    )
    trainings(world).settle(back, {}, services.jobs)
    assert services.store.case(None, case.case_id).state == "rolled_back"
