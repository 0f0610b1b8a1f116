"""The page of one case, and the forms on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import Depends, Form, Path, Request
from fastapi.responses import Response

from federation.catalogue.class_names import CatalogueError
from federation.catalogue.entries import Entry
from federation.console.case_actions import act_on_case, select_images
from federation.console.class_name_actions import NameSuggested, Proposal
from federation.console.errors import ActionRefused, NotForRole
from federation.console.pages.charts import days_chart, entropy_chart
from federation.console.pages.decision_panel import Draft, Name, Offer, make_panel
from federation.console.rendering import PageNumber, page_links, redirect, render
from federation.console.security.guard import page_router
from federation.console.services import Asked, Asking, Services, Visitor
from federation.console.views.cases import case_view
from twin.review.store import CaseNotFound, Conflict, StoreError
from twin.review.workflow import SELECTABLE, NotAllowed, Role, WorkflowError

router = page_router()
_LARGEST = 2**62  # what a database still takes for a number
Number = Annotated[int, Path(ge=1, le=_LARGEST)]
SIZES = (24, 48)
Order = Literal["distance", "entropy", "arrived"]
View = Literal["both", "image", "overlay"]
Text = Annotated[str, Form(max_length=4000)]
_CHANGED = "Somebody changed this case while you were looking at it. This is how it stands now: look again, then decide."


@dataclass(frozen=True)
class Gallery:
    """Which of a case's images are shown, and how: the query of an address.

    Args:
        page: Number of the page.
        order: In which they come.
        size: Images on a page, one of ``SIZES``; none: as many as suit the page.
        view: The image, its overlay, or both.
    """

    page: PageNumber = 1
    order: Order = "distance"
    size: int | None = None
    view: View = "both"

    def num_shown(self, usual: int) -> int:
        """Return how many images a page has: the smallest of ``SIZES`` where what was asked is none of them."""
        size = usual if self.size is None else self.size
        return size if size in SIZES else SIZES[0]


@dataclass(frozen=True)
class NotTaken:
    """A step that was not taken, and what was typed for it.

    Args:
        action: The step.
        draft: What was typed.
        problem: For people.
        offers: Classes that may be meant.
    """

    action: str
    draft: Draft
    problem: str = ""
    offers: tuple[Offer, ...] = ()


Shown = Annotated[Gallery, Depends()]


@router.get("/cases/{case_id}")
def show_case(
    request: Request, services: Asked, visitor: Asking, case_id: Number, gallery: Shown
) -> Response:
    """Show a case with one page of its images."""
    return _show(request, services, visitor, case_id, gallery)


@router.get("/cases/{case_id}/images")
def show_images(
    request: Request, services: Asked, visitor: Asking, case_id: Number, gallery: Shown
) -> Response:
    """Show nothing but the images, over the whole width."""
    return _show(request, services, visitor, case_id, gallery, only_images=True)


@router.post("/cases/{case_id}/select")
def select(
    request: Request,
    services: Asked,
    visitor: Asking,
    case_id: Number,
    shown: Annotated[list[str] | None, Form()] = None,
    selected: Annotated[list[str] | None, Form()] = None,
    whole: Annotated[str, Form(max_length=10)] = "",
    back: Annotated[str, Form(max_length=300)] = "",
) -> Response:
    """Take images in or out: those of one page by their boxes, or all of the case at once."""
    home = f"/cases/{case_id}"
    back = back if back.split("?")[0] in (home, f"{home}/images") else home
    before = set(services.store.selected_ids(case_id, hospital=visitor.hospital))
    if whole in ("all", "none"):
        ids = services.store.ids(case_id, hospital=visitor.hospital)
        wanted = set(ids) if whole == "all" else set()
    else:
        ids, wanted = list(dict.fromkeys(shown or [])), set(selected or [])
    # Only what changes is sent, so that a form without a change uses up no revision.
    into = [each for each in ids if each in wanted and each not in before]
    out = [each for each in ids if each not in wanted and each in before]
    try:
        for changed, to in ((into, True), (out, False)):
            if changed:
                select_images(services, visitor, case_id, changed, to)
    except (CaseNotFound, NotAllowed):
        raise
    except (WorkflowError, StoreError) as error:
        return redirect(request, back, flash=str(error), kind="problem")
    now = len(before) + len(into) - len(out)
    return redirect(
        request, back, flash=f"{now} {'image is' if now == 1 else 'images are'} selected."
    )


@router.post("/cases/{case_id}/{action}")
def act(
    request: Request,
    services: Asked,
    visitor: Asking,
    case_id: Number,
    action: str,
    revision: Annotated[int | None, Form(ge=0, le=_LARGEST)] = None,
    class_name: Text = "",
    kind: Annotated[str, Form(max_length=20)] = "",
    reason: Text = "",
    code_system: Text = "",
    code: Text = "",
    synonyms: Text = "",
    text: Text = "",
    confirmed: Annotated[bool, Form()] = False,
) -> Response:
    """Decide about a case; what is not possible is said on the case's page, with what was typed still there."""
    draft = Draft(class_name, code_system, code, synonyms, text)
    words = tuple(line.strip() for line in synonyms.splitlines() if line.strip())
    proposal = Proposal(code_system.strip(), code.strip(), words, text.strip(), confirmed)
    if action == "reject":
        reason = f"{kind}: {reason.strip()}" if reason.strip() else kind
    try:
        done = act_on_case(
            services,
            visitor,
            case_id,
            action,
            reason=reason,
            class_name=class_name,
            proposal=proposal,
            revision=revision,
        )
    except NameSuggested as found:
        known = services.registry.champion_classes()
        offers = tuple(_offer(each.entry, each.why, known) for each in found.suggestions)
        draft = draft if class_name else Draft(class_name=found.name)
        return _show(
            request, services, visitor, case_id, not_taken=NotTaken(action, draft, offers=offers)
        )
    except (CaseNotFound, NotForRole, NotAllowed):
        raise
    except Conflict:
        return _show(
            request, services, visitor, case_id, not_taken=NotTaken(action, draft, _CHANGED)
        )
    except (WorkflowError, ActionRefused, CatalogueError, StoreError) as error:
        return _show(
            request, services, visitor, case_id, not_taken=NotTaken(action, draft, str(error))
        )
    to = (
        f"/trainings/{done.job.job_id}"
        if done.job is not None and done.job.kind == "training"
        else f"/cases/{case_id}"
    )
    return redirect(request, to, flash=done.message)


def _show(
    request: Request,
    services: Services,
    visitor: Visitor,
    case_id: int,
    gallery: Gallery = Gallery(),
    only_images: bool = False,
    not_taken: NotTaken | None = None,
) -> Response:
    size, asked = (
        gallery.num_shown(SIZES[1] if only_images else SIZES[0]),
        not_taken.action if not_taken else "",
    )
    view = case_view(services, visitor, case_id)
    case, summary = view.case, view.case.summary
    images = (
        services.store.images(case_id, gallery.page, size, gallery.order, hospital=visitor.hospital)
        if visitor.sees_images
        else None
    )
    number = images.page if images else 1
    folder = f"/cases/{case_id}/images" if only_images else f"/cases/{case_id}"
    context: dict[str, Any] = {
        "view": view,
        "images": images,
        "path": folder,
        "links": page_links(images, request, folder) if images else None,
        "first_number": (number - 1) * size + 1,
        "order": gallery.order,
        "size": size,
        "sizes": SIZES,
        "shown_as": gallery.view,
        "back": f"{folder}?page={number}&order={gallery.order}&size={size}&view={gallery.view}",
        "selectable": visitor.role is Role.CLINICIAN and case.state in SELECTABLE,
        "entropy": _entropy(
            view.case.summary.entropy_histogram,
            summary.usual_histogram,
            summary.score_name,
            summary.threshold,
        ),
        "days": days_chart(view.counts_by_day),
        "panel": make_panel(
            case,
            view.actions,
            visitor.user,
            visitor.role,
            view.known_classes,
            _names(view.catalogue),
            asked,
        ),
        "problem": not_taken.problem if not_taken else "",
        "offers": not_taken.offers if not_taken else (),
        "draft": not_taken.draft if not_taken else Draft(),
        "asked": asked,
        "now": services.clock(),
    }
    return render(
        request,
        "images.html" if only_images else "case.html",
        status=409 if not_taken else 200,
        **context,
    )


def _entropy(case: Sequence[int], usual: Sequence[int], score_name: str, threshold: float) -> Any:
    if not any(case) and not any(usual):
        return None
    return entropy_chart(case, usual, threshold if score_name == "entropy" else None)


def _names(entries: Sequence[Entry]) -> list[Name]:
    return [
        Name(entry.name, ", ".join(filter(None, [_code(entry), *entry.synonyms])))
        for entry in entries
        if entry.state != "merged"
    ]


def _offer(entry: Entry, why: str, known: Sequence[str]) -> Offer:
    return Offer(entry.name, _code(entry), why, "merge" if entry.name in known else "name")


def _code(entry: Entry) -> str:
    return f"{entry.code_system} {entry.code}".strip()
