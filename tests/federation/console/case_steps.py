"""Steps of users with the cases of the example console."""

from typing import Any

from federation.catalogue.entries import Entry
from federation.console.background_job import Job
from federation.console.case_actions import ActionResult, act_on_case
from federation.console.services import Visitor
from tests.federation.console.example_console import World
from twin.review.cases import Case


def visitor(world: World, user: str) -> Visitor:
    """Return a user as the guard of a route would."""
    account = world.services.accounts.get(user)
    return Visitor(account.user, account.role, account.hospital, "")


def act(world: World, user: str, action: str, case: str = "north", **more: Any) -> ActionResult:
    """Do one step with a case."""
    return act_on_case(world.services, visitor(world, user), world.cases[case], action, **more)


def name_case(
    world: World, name: str = "kidney", case: str = "north", user: str = "ada", **more: Any
) -> ActionResult:
    """Open a case and name it."""
    act(world, user, "open", case)
    return act(world, user, "name", case, class_name=name, **more)


def entry(world: World, name: str) -> Entry:
    """Return the catalogue entry of a class name."""
    found = world.services.catalogue.find(name)
    assert found is not None
    return found


def case_of(result: ActionResult) -> Case:
    """Return the case of a step."""
    assert result.case is not None
    return result.case


def job_of(result: ActionResult) -> Job:
    """Return the job that a step started."""
    assert result.job is not None
    return result.job
