"""Checks of every page in every state and for every role: valid HTML, labels, no outside files."""

import itertools
import re

import pytest

from federation.console.pages import FILTERS
from federation.console.pages.menu import menu
from federation.console.rendering import TEMPLATES
from federation.console.roles import ROUTES
from federation.console.services import Visitor
from tests.federation.console.pages.example_desk import Desk
from tests.federation.console.pages.html_page import Page
from twin.review.workflow import CaseState, Role

EVIL = '<b onclick="x">liver</b>'
SEEN_BY = {
    "/": ("mara", "jonas", "olga", "rita"),
    "/account": ("mara", "olga"),
    "/cases": ("mara", "jonas", "olga"),
    "/cases?state=named": ("mara",),
    "/trainings": ("mara", "rita"),
    "/twin": ("mara", "jonas"),
    "/twins/anna": ("olga",),
    "/operator": ("olga", "rita"),
    "/catalogue": ("mara", "jonas", "olga", "rita"),
    "/catalogue?q=nothing-has-this-name": ("mara",),
    "/audit": ("olga", "rita"),
    "/audit?verify=1&hospital=anna": ("rita",),
    "/users": ("olga",),
    "/intake": ("mara",),
    "/login": ("nobody",),
}


def check(page: Page) -> None:
    assert page.left_open == []
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("main")) == 1 and len(page.all("h1")) == 1 and page.text.split(" – ")[0]
    assert page.all("meta", name="viewport")
    no_outside(page)
    every_input_has_a_name(page)
    every_picture_has_words(page)
    headings_do_not_skip(page)
    ids = [found["id"] for _, found in page.tags if found.get("id")]
    assert len(ids) == len(set(ids)), [each for each in ids if ids.count(each) > 1]
    for _, found in page.tags:
        for name in ("aria-labelledby", "aria-describedby", "for", "list"):
            assert not found.get(name) or found[name] in ids, (name, found)
    for form in page.all("form", method="post"):
        assert str(form["action"]).startswith("/")
    assert len(page.all("input", name="csrf_token")) == len(page.all("form", method="post"))


def no_outside(page: Page) -> None:
    assert not page.all("style")
    for tag, found in page.tags:
        assert "style" not in found and not [name for name in found if name.startswith("on")], (
            tag,
            found,
        )
        for name in ("src", "href", "action", "data-poll"):
            address = str(found.get(name) or "/")
            assert re.match(r"(/(?!/)|#|\?)", address), (tag, name, address)
        if tag == "script":
            assert str(found["src"]).startswith("/static/")
    assert "<script>" not in page.source


def every_input_has_a_name(page: Page) -> None:
    targets = {found.get("for") for found in page.all("label")}
    for index, (tag, found) in enumerate(page.tags):
        if tag in ("select", "textarea") or (tag == "input" and found.get("type") != "hidden"):
            assert (
                index in page.labelled or found.get("id") in targets or found.get("aria-label")
            ), found


def every_picture_has_words(page: Page) -> None:
    assert all("alt" in found for found in page.all("img"))
    for found in page.all("svg"):
        assert found.get("aria-hidden") == "true" or (
            found.get("role") == "img" and found.get("aria-label")
        ), found


def headings_do_not_skip(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels)), levels


@pytest.fixture
def busy(desk: Desk) -> Desk:
    desk.named_case()
    desk.training("running")
    desk.training("failed", error="no hospital has enough images")
    desk.services.catalogue.propose("urinary bladder", "mara", "anna", synonyms=("vesica",))
    return desk


def test_every_page_is_whole_labelled_and_loads_nothing_from_outside(busy: Desk) -> None:
    for address, users in SEEN_BY.items():
        for user in users:
            check(busy.get(user, address))


def test_empty_pages_are_whole_too(desk: Desk) -> None:
    for address in ("/", "/cases", "/trainings", "/twin", "/catalogue"):
        check(desk.get("mara", address))
    for address in ("/", "/operator", "/cases", "/users"):
        check(desk.get("olga", address))


@pytest.mark.slow
def test_a_case_renders_in_each_state_for_each_reader(desk: Desk) -> None:
    for state in CaseState:
        case = desk.case_in(state)
        for user in ("mara", "jonas", "olga"):
            page = desk.get(user, f"/cases/{case}")
            check(page)
            assert FILTERS["state_word"](state) in page.text
        assert not page.all("img")  # the operator's
        check(desk.get("jonas", f"/cases/{case}/images"))


def test_a_training_renders_in_each_state(desk: Desk) -> None:
    for state in ("waiting", "running", "done", "failed"):
        training = desk.training(
            state, error="no hospital has enough images" if state == "failed" else ""
        )
        for user in ("mara", "rita"):
            page = desk.get(user, f"/trainings/{training}")
            check(page)
        assert ("no hospital has enough images" in page.text) == (state == "failed")
        assert bool(page.all("meta", **{"http-equiv": "refresh"})) == (
            state in ("waiting", "running")
        )


def test_a_comparison_renders_with_words_beside_its_colours(desk: Desk) -> None:
    for overall in ("green", "amber", "red"):
        training = desk.training("done", overall=overall)
        for user in ("mara", "olga"):
            page = desk.get(user, f"/comparisons/{training}")
            check(page)
            assert FILTERS["light"](overall).word in page.text
            assert ("Image of heart" in page.source) == (user == "mara")


def test_markup_in_names_is_text(desk: Desk) -> None:
    case = desk.new_case(nearest=EVIL)
    training = desk.training("done", overall="red")
    for address in (f"/cases/{case}", "/cases", f"/comparisons/{training}", "/"):
        page = desk.get("mara", address)
        check(page)
        assert "<b onclick" not in page.source
    assert EVIL in desk.get("mara", f"/cases/{case}").text


def test_errors_are_pages_too(desk: Desk) -> None:
    for user, address, status in (
        ("mara", "/cases/999", 404),
        ("mara", "/operator", 403),
        ("mara", "/nothing", 404),
        ("olga", "/twins/x", 404),
    ):
        check(desk.get(user, address, status))


def test_each_menu_links_only_to_pages_that_the_role_may_open() -> None:
    for role in Role:
        for entry in menu(Visitor("x", role, None, "t"), "/cases/7"):
            assert role in (ROUTES["GET", entry.href] or ())
            assert entry.here == (entry.href == "/cases")


def test_no_template_switches_escaping_off() -> None:
    for template in TEMPLATES.glob("*.html"):
        text = template.read_text(encoding="utf-8")
        assert "autoescape" not in text
        assert re.findall(r"\|\s*safe", text) == (
            ["| safe"] if template.name == "parts.html" else []
        ), template
