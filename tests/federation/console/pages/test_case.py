import pytest

from tests.federation.console.pages.example_desk import Desk
from twin.review.database import MOST_PER_PAGE
from twin.review.workflow import Actor, Role


def test_boxes_select_images_without_a_script(desk: Desk) -> None:
    case = desk.new_case(30)
    page = desk.get("mara", f"/cases/{case}")
    shown = [str(each["value"]) for each in page.all("input", name="shown")]
    assert len(shown) == 24
    desk.send(
        "mara",
        f"/cases/{case}/select",
        shown=shown,
        selected=shown[3:],
        back=f"/cases/{case}?page=1",
    )
    assert len(desk.services.store.selected_ids(case)) == 27
    page = desk.send("mara", f"/cases/{case}/select", whole="none")
    assert desk.services.store.selected_ids(case) == [] and "0 images are selected" in page.text
    desk.send("mara", f"/cases/{case}/select", whole="all")
    assert len(desk.services.store.selected_ids(case)) == 30


def test_a_form_without_a_change_uses_up_no_revision(desk: Desk) -> None:
    case = desk.new_case(10)
    before = desk.services.store.case("anna", case).revision
    shown = [
        str(each["value"]) for each in desk.get("mara", f"/cases/{case}").all("input", name="shown")
    ]
    desk.send("mara", f"/cases/{case}/select", shown=shown, selected=shown)
    assert desk.services.store.case("anna", case).revision == before


def test_the_way_back_from_a_selection_stays_in_the_case(desk: Desk) -> None:
    case = desk.new_case(3)
    token = desk.get("mara", "/account").value("csrf_token")
    for back in ("https://evil.test/", "//evil.test", "/cases/999", "/cases/1/../../audit"):
        answer = desk.client("mara").post(
            f"/cases/{case}/select",
            data={"csrf_token": token, "back": back},
            follow_redirects=False,
        )
        assert answer.headers["location"] == f"/cases/{case}"


def test_a_clinician_opens_names_and_an_approver_approves(desk: Desk) -> None:
    case = desk.new_case()
    page = desk.get("mara", f"/cases/{case}")
    assert {f"/cases/{case}/open", f"/cases/{case}/reject"} <= page.actions
    page = desk.send("mara", f"/cases/{case}/open", revision=page.value("revision"))
    assert f"/cases/{case}/name" in page.actions
    page = desk.send(
        "mara",
        f"/cases/{case}/name",
        revision=page.value("revision"),
        class_name="bladder",
        code_system="SNOMED CT",
        code="89837001",
    )
    assert (
        "waits for an approver of anna" in page.text
        and f"/cases/{case}/approve" not in page.actions
    )
    page = desk.get("jonas", f"/cases/{case}")
    page = desk.send("jonas", f"/cases/{case}/approve", revision=page.value("revision"))
    assert "Training of bladder" in page.text
    assert desk.entry("bladder").state == "approved"


def test_the_two_person_rule_is_explained_where_the_button_is_missing(desk: Desk) -> None:
    case = desk.named_case(by=Actor("jonas", Role.CLINICIAN))
    page = desk.get("jonas", f"/cases/{case}")
    assert f"/cases/{case}/approve" not in page.actions
    assert "another person must approve it" in page.text


def test_a_case_that_changed_meanwhile_is_shown_again_with_what_was_typed(desk: Desk) -> None:
    case = desk.new_case()
    page = desk.send("mara", f"/cases/{case}/open")
    seen = page.value("revision")
    desk.services.store.select(case, ["i0000"], False, Actor("mara", Role.CLINICIAN))
    page = desk.send("mara", f"/cases/{case}/name", status=409, revision=seen, class_name="bladder")
    assert "Somebody changed this case" in page.text
    assert page.value("class_name") == "bladder" and page.value("revision") != seen


def test_a_case_that_grew_is_opened_all_the_same(desk: Desk) -> None:
    case = desk.new_case()
    seen = desk.get("mara", f"/cases/{case}").value("revision")
    desk.services.store.select(case, ["i0000"], False, Actor("mara", Role.CLINICIAN))
    desk.send("mara", f"/cases/{case}/open", revision=seen)
    assert desk.services.store.case("anna", case).state == "in_review"


def test_links_of_a_page_that_answers_a_form_can_be_opened(desk: Desk) -> None:
    case = desk.new_case(30)
    page = desk.send("mara", f"/cases/{case}/reject", status=409, kind="other")
    addresses = [str(each["href"]) for each in page.all("a")]
    links = [each for each in addresses if "page=" in each or "order=" in each]
    assert links and all(each.startswith(f"/cases/{case}?") for each in links)


def test_a_similar_name_is_offered_and_must_be_confirmed(desk: Desk) -> None:
    case = desk.new_case()
    page = desk.send("mara", f"/cases/{case}/open")
    page = desk.send(
        "mara",
        f"/cases/{case}/name",
        status=409,
        class_name="livers",
        synonyms="iecur\nhepar",
        text="what it is",
    )
    assert "Is it one of these?" in page.text and "Merge into “liver”" in page.text
    assert page.all("input", name="confirmed") and page.value("synonyms") == "iecur\nhepar"
    assert desk.services.store.case("anna", case).class_name is None
    page = desk.send(
        "mara", f"/cases/{case}/name", class_name="livers", synonyms="iecur\nhepar", confirmed="1"
    )
    assert desk.services.store.case("anna", case).class_name == "livers"
    assert set(desk.entry("livers").synonyms) == {"iecur", "hepar"}


def test_a_rejection_says_why(desk: Desk) -> None:
    case = desk.new_case()
    page = desk.send("mara", f"/cases/{case}/reject", status=409, kind="other")
    assert "Not done." in page.text
    page = desk.send("mara", f"/cases/{case}/reject", kind="artefact", reason="a hip implant")
    assert desk.services.store.case("anna", case).reason == "artefact: a hip implant"
    assert "a hip implant" in page.text


@pytest.mark.parametrize(
    "query", ["size=25", "size=0", "page=99", "page=99&size=48&order=entropy&view=image"]
)
def test_unusual_sizes_and_page_numbers_still_show_the_case(desk: Desk, query: str) -> None:
    assert "30" in desk.get("mara", f"/cases/{desk.new_case(30)}?{query}").text


@pytest.mark.parametrize(
    ("address", "number"),
    [("", 24), ("/images", 48), ("/images?size=24", 24), ("/images?size=25", 24), ("?size=48", 48)],
)
def test_a_page_shows_the_usual_or_the_requested_number_of_images(
    desk: Desk, address: str, number: int
) -> None:
    page = desk.get("mara", f"/cases/{desk.new_case(50)}{address}")
    assert len(page.all("input", name="shown")) == number


@pytest.mark.parametrize("query", ["page=0", "order=size", "size=many", "view=none"])
def test_an_invalid_query_is_refused(desk: Desk, query: str) -> None:
    case = desk.new_case(3)
    assert desk.client("mara").get(f"/cases/{case}?{query}").status_code == 422


def test_a_case_larger_than_one_database_page_is_shown_and_selected(desk: Desk) -> None:
    case = desk.new_case(MOST_PER_PAGE + 1)
    page = desk.get("mara", f"/cases/{case}?size=48&page=3")
    desk.send("mara", f"/cases/{case}/select", whole="none")
    assert desk.services.store.selected_ids(case) == []
    desk.send("mara", f"/cases/{case}/select", whole="all")
    assert len(desk.services.store.selected_ids(case)) == MOST_PER_PAGE + 1
    assert len(page.all("input", name="shown")) == 48
    assert all(image.get("loading") == "lazy" for image in page.all("img"))
    assert len(page.source) < 200_000
