import re
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.review.workflow import (
    ACTIONS,
    CLOSED,
    LONGEST_CLASS_NAME,
    LONGEST_REASON,
    SYSTEM,
    UNNAMED,
    Actor,
    CaseState,
    NotAllowed,
    Role,
    WorkflowError,
    allowed_actions,
    apply,
    check_class_name,
    check_selection,
)

# action: where from -> where to: who (c clinician, a approver, o operator, u auditor, s system)
TABLE = """
open            detected                                  in_review    c
name            in_review named merged                    named        c
merge           in_review named merged                    merged       c
reject          detected in_review named merged           rejected     c a
send_back       named merged                              in_review    a
approve         named merged                              approved     a
reopen          rejected named merged approved evaluated  in_review    c a
start_training  approved                                  training     a o s
finish_training training                                  evaluated    s
fail_training   training                                  approved     s
release         evaluated                                 released     a o
roll_back       released                                  rolled_back  a o
"""
LETTERS = {
    "c": Role.CLINICIAN,
    "a": Role.APPROVER,
    "o": Role.OPERATOR,
    "u": Role.AUDITOR,
    "s": Role.SYSTEM,
}
ROWS = {
    name: (
        {CaseState(state) for state in sources.split()},
        CaseState(target),
        {LETTERS[letter] for letter in letters.split()},
    )
    for name, sources, target, letters in (
        re.split(r" {2,}|(?<=training) (?=training)", line) for line in TABLE.strip().splitlines()
    )
}
REASONED = {"reject", "send_back", "reopen", "roll_back"}
SECOND = {"approve", "release"}
GOOD = "noise: a table edge"


def test_the_table_names_every_action() -> None:
    assert set(ROWS) == set(ACTIONS)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("state", CaseState)
@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_in_every_state_by_every_role_is_as_in_the_table(
    action: str, state: CaseState, role: Role
) -> None:
    sources, target, roles = ROWS[action]
    actor = Actor("berta", role)
    allowed = state in sources and role in roles
    assert (action in allowed_actions(state, role, "berta", "anna")) == allowed
    if allowed:
        assert apply(action, state, actor, "anna", GOOD) == target
        return
    with pytest.raises(WorkflowError) as refused:
        apply(action, state, actor, "anna", GOOD)
    assert isinstance(refused.value, NotAllowed) == (state in sources)


@pytest.mark.parametrize("named_by", ["anna", "Anna", " ANNA ", None])
@pytest.mark.parametrize("action", ACTIONS)
def test_who_named_may_do_all_but_approve_and_release(action: str, named_by: str | None) -> None:
    sources, _, roles = ROWS[action]
    for state in sources:
        for role in roles:
            offered = allowed_actions(state, role, "anna", named_by)
            assert (action in offered) == (action not in SECOND)
            if action in SECOND:
                with pytest.raises(NotAllowed, match="second person"):
                    apply(action, state, Actor("anna", role), named_by)


@pytest.mark.parametrize("reason", ["", "  \n"])
@pytest.mark.parametrize("action", ACTIONS)
def test_four_actions_need_a_reason(action: str, reason: str) -> None:
    sources, target, roles = ROWS[action]
    for state in sources:
        for role in roles:
            if action in REASONED:
                with pytest.raises(WorkflowError, match="say in a few words why"):
                    apply(action, state, Actor("berta", role), "anna", reason)
            else:
                assert apply(action, state, Actor("berta", role), "anna", reason) == target


@pytest.mark.parametrize(
    "reason",
    ["noise", "artefact", "noise: grain", "artefact: clip: left", "other: a phantom", " noise :x"],
)
def test_a_rejection_says_which_kind(reason: str) -> None:
    assert (
        apply("reject", CaseState.DETECTED, Actor("anna", Role.CLINICIAN), None, reason)
        is CaseState.REJECTED
    )


@pytest.mark.parametrize("reason", ["other", "other: ", "noisy", "it is noise", "Noise", ": noise"])
def test_a_rejection_of_no_kind_is_refused(reason: str) -> None:
    with pytest.raises(WorkflowError, match="allowed: 'noise', 'artefact'"):
        apply("reject", CaseState.DETECTED, Actor("anna", Role.CLINICIAN), None, reason)


@pytest.mark.parametrize("reason", ["x" * (LONGEST_REASON + 1), "a\x00b", "\ud800", "\x1b[31m"])
def test_a_reason_that_cannot_be_kept_or_shown_is_refused(reason: str) -> None:
    with pytest.raises(WorkflowError, match="reason"):
        apply("open", CaseState.DETECTED, Actor("anna", Role.CLINICIAN), None, reason)


def test_a_reason_may_have_lines() -> None:
    assert (
        apply("reopen", CaseState.NAMED, Actor("anna", Role.CLINICIAN), None, "one\r\n\ttwo ✓")
        is CaseState.IN_REVIEW
    )


def test_an_error_says_what_is_allowed() -> None:
    with pytest.raises(
        WorkflowError, match="possible only where it is merged, named; allowed for them now: reject"
    ):
        apply("approve", CaseState.DETECTED, Actor("carl", Role.APPROVER), None)
    with pytest.raises(WorkflowError, match="this is for clinician; allowed for them now: nothing"):
        apply("open", CaseState.DETECTED, Actor("emil", Role.AUDITOR), None)
    with pytest.raises(WorkflowError, match="action is 'delete'; known: open, name"):
        apply("delete", CaseState.DETECTED, Actor("anna", Role.CLINICIAN), None)


@pytest.mark.parametrize("action", ACTIONS)
def test_a_class_name_comes_with_naming_and_merging_only(action: str) -> None:
    step = ACTIONS[action]
    if action in {"name", "merge"}:
        assert check_class_name(step, "  left   kidney ") == "left kidney"
        for wrong in (None, "", "  ", "a\nb", "a\x00", "\ud800", "x" * (LONGEST_CLASS_NAME + 1)):
            with pytest.raises(WorkflowError, match="class name"):
                check_class_name(step, wrong)
    else:
        assert check_class_name(step, None) is None
        assert check_class_name(step, "") is None
        with pytest.raises(WorkflowError, match="takes no class name"):
            check_class_name(step, "liver")


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("state", CaseState)
def test_images_are_selected_by_clinicians_before_a_name_is_given(
    state: CaseState, role: Role
) -> None:
    if role is Role.CLINICIAN and state in {CaseState.DETECTED, CaseState.IN_REVIEW}:
        check_selection(state, Actor("anna", role))
    else:
        with pytest.raises(WorkflowError, match="asks to select"):
            check_selection(state, Actor("anna", role))


def test_each_case_can_go_back_until_it_is_released() -> None:
    def next_states(state: CaseState) -> set[CaseState]:
        return {action.target for action in ACTIONS.values() if state in action.sources}

    for start in set(CaseState) - {CaseState.RELEASED, CaseState.ROLLED_BACK}:
        reached = {start}
        while more := set().union(*(next_states(state) for state in reached)) - reached:
            reached |= more
        assert CaseState.IN_REVIEW in reached
    assert next_states(CaseState.RELEASED) == {CaseState.ROLLED_BACK}
    assert not next_states(CaseState.ROLLED_BACK)


def test_closed_and_unnamed_states_are_where_a_case_can_stand_so() -> None:
    assert {CaseState.REJECTED, CaseState.RELEASED, CaseState.ROLLED_BACK} == CLOSED
    assert {CaseState.DETECTED, CaseState.IN_REVIEW, CaseState.REJECTED} == UNNAMED


USERS = st.builds(
    Actor, st.sampled_from(["anna", "berta", "Anna", "carl"]), st.sampled_from(Role)
) | st.just(SYSTEM)


@given(
    steps=st.lists(st.tuples(st.sampled_from(sorted(ACTIONS)), USERS), max_size=60),
    shortcut=st.booleans(),
)
def test_no_path_reaches_release_without_two_people(
    steps: list[tuple[str, Actor]], shortcut: bool
) -> None:
    path = (
        [("open", Actor("anna", Role.CLINICIAN)), ("name", Actor("anna", Role.CLINICIAN))]
        if shortcut
        else []
    )
    state, named_by, approved_by = CaseState.DETECTED, None, None
    for action, actor in [*path, *steps]:
        try:
            state = apply(action, state, actor, named_by, GOOD)
        except WorkflowError:
            continue
        if action in {"name", "merge"}:
            named_by, approved_by = actor.user, None
        if action == "approve":
            approved_by = actor.user
        if state in UNNAMED:
            named_by = approved_by = None
        if state in {
            CaseState.APPROVED,
            CaseState.TRAINING,
            CaseState.EVALUATED,
            CaseState.RELEASED,
        }:
            assert named_by is not None
            assert approved_by is not None
            assert named_by.casefold() != approved_by.casefold()
        if action == "release":
            assert named_by is not None
            assert actor.user.casefold() != named_by.casefold()


def test_one_person_with_every_role_never_reaches_approval() -> None:
    reached, seen = [(CaseState.DETECTED, None)], set()
    while reached:
        state, named_by = reached.pop()
        if (state, named_by) in seen:
            continue
        seen.add((state, named_by))
        for action in ACTIONS:
            for role in (Role.CLINICIAN, Role.APPROVER, Role.OPERATOR, Role.AUDITOR):
                try:
                    after = apply(action, state, Actor("anna", role), named_by, GOOD)
                except WorkflowError:
                    continue
                by = "anna" if action in {"name", "merge"} else named_by
                reached.append(cast(Any, (after, None if after in UNNAMED else by)))
    assert {state for state, _ in seen} == {
        CaseState.DETECTED,
        CaseState.IN_REVIEW,
        CaseState.NAMED,
        CaseState.MERGED,
        CaseState.REJECTED,
    }
