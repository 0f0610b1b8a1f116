"""A case from detection to roll-back in a browser (first acceptance test of the console)."""

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

playwright_api = pytest.importorskip("playwright.sync_api")
expect = playwright_api.expect
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]  # Playwright leaves its event loop's sockets
MINUTES = 60_000  # milliseconds
LONG = 15 * MINUTES
NEW_CLASS = "pancreas"
FEWEST_IMAGES = 12
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


class Person:
    """A user with a browser of their own.

    Args:
        browser: Browser of Playwright.
        demo: The running demo.
        user: Name of the account.
        pictures: Folder of screenshots.
    """

    def __init__(self, browser: Any, demo: Any, user: str, pictures: Path) -> None:
        self.demo, self.user, self.pictures = demo, user, pictures
        self.page = browser.new_context(
            viewport=WIDE, base_url=demo.address, reduced_motion="reduce"
        ).new_page()
        self.page.set_default_timeout(5 * MINUTES)
        self.faults: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", self._note)

    def _note(self, said: Any) -> None:
        """Keep errors of the browser; a name for a case that has grown meanwhile gets 409."""
        if said.type == "error" and "409 (Conflict)" not in said.text:
            where = said.location["url"]
            log = self.demo.log()[-3000:]
            self.faults.append(f"{said.text} at {where}; the console's log ends: {log}")

    def log_in(self) -> "Person":
        self.page.goto("/cases")
        self.page.get_by_label("User").fill(self.user)
        self.page.get_by_label("Password").fill(self.demo.passwords[self.user])
        self.page.get_by_role("button", name="Sign in").click()
        expect(self.page.get_by_role("heading", name="Cases", exact=True)).to_be_visible(
            timeout=MINUTES
        )
        return self

    def picture(self, name: str) -> None:
        """Take screenshots at both widths, light and dark, and check that the page fits."""
        for width, size in (("1280", WIDE), ("390", NARROW)):
            self.page.set_viewport_size(size)
            for scheme in ("light", "dark"):
                self.page.emulate_media(color_scheme=scheme)
                self.page.wait_for_load_state("networkidle")
                self.page.screenshot(
                    path=self.pictures / f"{name}-{width}-{scheme}.png", full_page=True
                )
            wide = self.page.evaluate("document.documentElement.scrollWidth")
            assert wide <= size["width"], f"{name} is {wide} px wide in a window of {size['width']}"
        self.page.set_viewport_size(WIDE)
        self.page.emulate_media(color_scheme="light")

    def until(self, path: str, is_there: Callable[[], bool]) -> None:
        """Open a page again and again until it shows something."""
        end = time.monotonic() + LONG / 1000
        while time.monotonic() < end:
            self.page.goto(path)
            if is_there():
                return
            self.page.wait_for_timeout(1000)
        pytest.fail(f"{path} did not show it in time: {self.page.inner_text('main')[:2000]}")

    def ask(self, path: str, body: dict[str, object] | None = None) -> Any:
        """Ask the API with this person's session."""
        if body is None:
            answer = self.page.request.get(path)
        else:
            token = self.page.locator("input[name=csrf_token]").first.input_value()
            answer = self.page.request.post(
                path, data=body, headers={"X-CSRF-Token": token, "Origin": self.demo.address}
            )
        assert answer.ok, answer.text()
        return answer.json()

    def predictions(self, image_ids: list[str]) -> list[str]:
        said = self.ask("/api/v1/predictions", {"image_ids": image_ids})
        return [each["class_name"] for each in said["predictions"]]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get("FEDKA_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    with playwright_api.sync_playwright() as playwright:
        one = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield one
        one.close()


def test_a_new_organ_is_found_named_approved_learned_released_and_rolled_back(
    demo: Any, browser: Any, pictures: Path
) -> None:
    clinician = Person(browser, demo, "clinician.north", pictures)
    clinician.page.goto("/login")
    clinician.picture("01-login")
    clinician.log_in()
    case_id = find_case(clinician)
    image_ids = look_and_name(clinician, case_id)
    assert NEW_CLASS not in clinician.predictions(image_ids)

    approver = Person(browser, demo, "approver.north", pictures).log_in()
    approve(approver, case_id)
    training_path = watch_training(approver)
    comparison_path = training_path.replace("/trainings/", "/comparisons/")
    refused_to_release(clinician, comparison_path)
    release(approver)
    share = clinician.predictions(image_ids).count(NEW_CLASS) / len(image_ids)
    assert share > 0.5, f"the model that serves names {share:.0%} of its own training images"
    clinician.page.goto(f"/cases/{case_id}")
    clinician.picture("12-case-released")

    roll_back(approver)
    assert NEW_CLASS not in clinician.predictions(image_ids)
    for person in (clinician, approver):
        assert person.faults == []


def find_case(clinician: Person) -> int:
    def largest() -> Any:
        cases = clinician.ask("/api/v1/cases")["items"]
        return max(cases, key=lambda case: case["num_images"], default={"num_images": 0})

    clinician.until("/cases", lambda: largest()["num_images"] >= FEWEST_IMAGES)
    clinician.picture("02-cases")
    case_id: int = largest()["case_id"]
    clinician.page.get_by_role("link", name=f"Case {case_id}", exact=True).click()
    clinician.page.wait_for_url(f"**/cases/{case_id}")
    return case_id


def look_and_name(clinician: Person, case_id: int) -> list[str]:
    """Open the case, check overlays, exclude one image, name the others; return their ids."""
    page = clinician.page
    overlays = page.locator(".gallery img.heat")
    overlays.first.scroll_into_view_if_needed()
    for number in range(min(4, overlays.count())):
        expect(overlays.nth(number)).to_have_js_property("complete", value=True, timeout=LONG)
        assert overlays.nth(number).evaluate("each => each.naturalWidth") > 0
    clinician.picture("03-case-detected")
    page.get_by_role("button", name="Open the review").click()
    name_field = page.get_by_label("Class name")
    expect(name_field).to_be_visible(timeout=MINUTES)
    tick = page.locator(".pick").nth(1)
    left_out = tick.input_value()
    with page.expect_response(re.compile(r"/api/v1/cases/\d+/select")) as saved:
        tick.focus()
        page.keyboard.press("Space")
    assert saved.value.ok and not tick.is_checked()
    expect(page.locator("#saved")).to_have_text("Saved")
    clinician.picture("04-case-one-image-out")
    for _ in range(5):  # new images may arrive at this moment; then look and name again
        name_field.fill(NEW_CLASS)
        page.get_by_role("button", name=re.compile("Name the selection")).click()
        page.wait_for_load_state()
        if page.locator(".badge", has_text="Named").count():
            break
        page.goto(f"/cases/{case_id}")
    expect(page.get_by_role("heading", level=1)).to_contain_text(NEW_CLASS)
    clinician.picture("05-case-named")
    assert (
        page.get_by_role("button", name="Approve").count() == 0
    )  # two people look at every new class
    images = clinician.ask(f"/api/v1/cases/{case_id}/images?per_page=200")["items"]
    selected = [each["image_id"] for each in images if each["selected"]]
    assert left_out not in selected and len(selected) >= 5
    return selected


def approve(approver: Person, case_id: int) -> None:
    approver.page.goto(f"/cases/{case_id}")
    approver.picture("06-case-to-approve")
    approver.page.get_by_role("button", name="Approve", exact=True).click()
    approver.page.wait_for_url(re.compile("/trainings/"))


def watch_training(approver: Person) -> str:
    page = approver.page
    expect(page.locator("[data-said]")).to_contain_text(
        re.compile("Round|Comparing|Finished"), timeout=LONG
    )
    approver.picture("07-training")
    path: str = "/trainings/" + page.url.rsplit("/", 1)[1]
    page.get_by_role("link", name="See the comparison").wait_for(
        timeout=LONG
    )  # the page follows by itself
    approver.picture("08-training-done")
    page.get_by_role("link", name="See the comparison").click()
    page.wait_for_url(re.compile("/comparisons/"))
    return path


def refused_to_release(clinician: Person, path: str) -> None:
    clinician.page.goto(path)
    assert clinician.page.get_by_role("button", name="Release the candidate").count() == 0


def release(approver: Person) -> None:
    page, path = approver.page, "/comparisons/" + approver.page.url.rsplit("/", 1)[1]
    button = page.get_by_role("button", name="Release the candidate")
    approver.until(path, lambda: button.count() > 0)  # the candidate is being registered
    page.wait_for_load_state("networkidle")
    approver.picture("09-comparison")
    page.get_by_label("Reason").fill("Looked at all changed images; the new class is right.")
    page.get_by_label("I have seen the rules").check()
    button.click()
    page.wait_for_load_state()
    approver.picture("10-release-under-way")
    page.get_by_role("button", name="Roll back").wait_for(
        timeout=LONG
    )  # the page follows by itself
    approver.picture("11-released")


def roll_back(approver: Person) -> None:
    page = approver.page
    page.get_by_label("Reason").fill("Taken back to show that it can be.")
    page.get_by_role("button", name="Roll back").click()
    page.get_by_text("rolled back this model").wait_for(timeout=LONG)
    approver.picture("13-rolled-back")


def test_operator_auditor_and_twin_pages_tell_the_story(
    demo: Any, browser: Any, pictures: Path
) -> None:
    operator = Person(browser, demo, "operator", pictures)
    operator.log_in()
    operator.page.goto("/operator")
    expect(operator.page.get_by_text("champion").first).to_be_visible()
    operator.picture("14-operator")
    assert operator.page.locator("img[src^='/images/']").count() == 0
    operator.page.goto("/catalogue")
    expect(operator.page.get_by_text(NEW_CLASS).first).to_be_visible()
    operator.picture("15-catalogue")
    operator.page.goto("/audit")
    operator.picture("16-audit")
    twin = Person(browser, demo, "clinician.south", pictures).log_in()
    twin.page.goto("/twin")
    twin.picture("17-twin")
    twin.page.goto("/")
    twin.picture("18-home")
    assert operator.faults == twin.faults == []


def test_ctrl_c_ends_the_demo_with_all_its_processes(demo: Any) -> None:
    family = [demo.process, *psutil.Process(demo.process.pid).children(recursive=True)]
    assert len(family) > 1
    demo.process.send_signal(2)
    said, _ = demo.process.communicate(timeout=300)
    assert demo.process.returncode == 0 and "go on with: fedka console demo --folder" in said
    assert psutil.wait_procs(family[1:], 5)[1] == []
    assert json.loads((demo.folder / "demo.json").read_text())["stream"] > 0
