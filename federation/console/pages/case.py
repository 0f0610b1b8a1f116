"""The page of one case, and its forms."""

from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Depends, Form, Request
from fastapi.responses import Response

from federation.catalogue.class_names import CatalogueError
from federation.console.case_actions import act_on_case, select_images
from federation.console.class_name_actions import NameSuggested
from federation.console.errors import ActionRefused, NotForRole
from federation.console.pages.charts import days_chart, entropy_chart
from federation.console.pages.decision_panel import NameOption, make_decision_panel
from federation.console.pages.forms import (
    LARGEST,
    ClassNameForm,
    Number,
    SuggestedName,
    Text,
    full_code,
    suggested_names,
)
from federation.console.rendering import PageNumber, page_links, redirect, render
from federation.console.security.guard import page_router
from federation.console.services import Services, ServicesDep, Visitor, VisitorDep
from federation.console.views.cases import case_view
from twin.review.store import CaseNotFound, Conflict, StoreError
from twin.review.workflow import SELECTABLE, NotAllowed, Role, WorkflowError

router = page_router()
SIZES = (24, 48)
Order = Literal["distance", "entropy", "arrived"]
View = Literal["both", "image", "overlay"]
_CHANGED = (
    "Somebody changed this case while you were looking at it. "
    "This is how it stands now: look again, then decide."
)


@dataclass(frozen=True)
class GalleryQuery:
    """The query of a case's address: which of its images are shown, and how.

    Args:
        page: Number of the page.
        order: Order of the images.
        size: Images per page, one of ``SIZES``; None: as many as suit the page.
        view: Show the image, its overlay, or both.
    """

    page: PageNumber = 1
    order: Order = "distance"
    size: int | None = None
    view: View = "both"

    def num_shown(self, usual: int) -> int:
        """Return the images per page; for a size that is not in ``SIZES`` the smallest."""
        size = usual if self.size is None else self.size
        return size if size in SIZES else SIZES[0]


@dataclass(frozen=True)
class RefusedAction:
    """A refused action, and what was typed for it.

    Args:
        action: The action.
        form: What was typed.
        problem: Why it was refused, as a sentence for users.
        offers: Known names that may be meant.
    """

    action: str
    form: ClassNameForm
    problem: str = ""
    offers: tuple[SuggestedName, ...] = ()


GalleryDep = Annotated[GalleryQuery, Depends()]


@router.get("/cases/{case_id}")
def show_case(
    request: Request, services: ServicesDep, visitor: VisitorDep, case_id: Number, query: GalleryDep
) -> Response:
    """Show a case with one page of its images."""
    return _show(request, services, visitor, case_id, query)


@router.get("/cases/{case_id}/images")
def show_images(
    request: Request, services: ServicesDep, visitor: VisitorDep, case_id: Number, query: GalleryDep
) -> Response:
    """Show only the images, over the whole width."""
    return _show(request, services, visitor, case_id, query, only_images=True)


@router.post("/cases/{case_id}/select")
def select(
    request: Request,
    services: ServicesDep,
    visitor: VisitorDep,
    case_id: Number,
    shown: Annotated[list[str] | None, Form()] = None,
    selected: Annotated[list[str] | None, Form()] = None,
    whole: Annotated[str, Form(max_length=10)] = "",
    back: Annotated[str, Form(max_length=300)] = "",
) -> Response:
    """Include or exclude images: those of one page by their boxes, or all of the case at once."""
    home = f"/cases/{case_id}"
    back = back if back.split("?")[0] in (home, f"{home}/images") else home
    before = set(services.store.selected_ids(case_id, hospital=visitor.hospital))
    if whole in ("all", "none"):
        ids = services.store.ids(case_id, hospital=visitor.hospital)
        wanted = set(ids) if whole == "all" else set()
    else:
        ids, wanted = list(dict.fromkeys(shown or [])), set(selected or [])
    # Only changes are stored, so that a form without a change uses up no revision.
    included = [each for each in ids if each in wanted and each not in before]
    excluded = [each for each in ids if each not in wanted and each in before]
    try:
        for changed, to in ((included, True), (excluded, False)):
            if changed:
                select_images(services, visitor, case_id, changed, to)
    except (CaseNotFound, NotAllowed):
        raise
    except (WorkflowError, StoreError) as error:
        return redirect(request, back, flash=str(error), kind="problem")
    now = len(before) + len(included) - len(excluded)
    return redirect(
        request, back, flash=f"{now} {'image is' if now == 1 else 'images are'} selected."
    )


@router.post("/cases/{case_id}/{action}")
def act(
    request: Request,
    services: ServicesDep,
    visitor: VisitorDep,
    case_id: Number,
    action: str,
    form: Annotated[ClassNameForm, Depends()],
    revision: Annotated[int | None, Form(ge=0, le=LARGEST)] = None,
    kind: Annotated[str, Form(max_length=20)] = "",
    reason: Text = "",
) -> Response:
    """Do one step with a case; a refused one is explained on the page, with what was typed."""

    def refuse(
        problem: str = "", form: ClassNameForm = form, offers: tuple[SuggestedName, ...] = ()
    ) -> Response:
        refused = RefusedAction(action, form, problem, offers)
        return _show(request, services, visitor, case_id, refused=refused)

    if action == "reject":
        reason = f"{kind}: {reason.strip()}" if reason.strip() else kind
    try:
        done = act_on_case(
            services,
            visitor,
            case_id,
            action,
            reason=reason,
            class_name=form.class_name,
            proposal=form.proposal,
            revision=revision,
        )
    except NameSuggested as found:
        offers = suggested_names(found.suggestions, services.registry.champion_classes())
        typed = form if form.class_name else ClassNameForm(class_name=found.name)
        return refuse(form=typed, offers=offers)
    except (CaseNotFound, NotForRole, NotAllowed):
        raise
    except Conflict:
        return refuse(_CHANGED)
    except (WorkflowError, ActionRefused, CatalogueError, StoreError) as error:
        return refuse(str(error))
    job = done.job
    to = f"/trainings/{job.job_id}" if job and job.kind == "training" else f"/cases/{case_id}"
    return redirect(request, to, flash=done.message)


def _show(
    request: Request,
    services: Services,
    visitor: Visitor,
    case_id: int,
    query: GalleryQuery = GalleryQuery(),
    only_images: bool = False,
    refused: RefusedAction | None = None,
) -> Response:
    size = query.num_shown(SIZES[1] if only_images else SIZES[0])
    view = case_view(services, visitor, case_id)
    case, summary = view.case, view.case.summary
    images = (
        services.store.images(case_id, query.page, size, query.order, hospital=visitor.hospital)
        if visitor.sees_images
        else None
    )
    number = images.page if images else 1
    path = f"/cases/{case_id}/images" if only_images else f"/cases/{case_id}"
    entropy = None
    if any(summary.entropy_histogram) or any(summary.usual_histogram):
        threshold = summary.threshold if summary.score_name == "entropy" else None
        entropy = entropy_chart(summary.entropy_histogram, summary.usual_histogram, threshold)
    names = [
        NameOption(entry.name, ", ".join(filter(None, [full_code(entry), *entry.synonyms])))
        for entry in view.catalogue
        if entry.state != "merged"
    ]
    refused_or_none = refused or RefusedAction("", ClassNameForm())
    return render(
        request,
        "images.html" if only_images else "case.html",
        status=409 if refused else 200,
        view=view,
        images=images,
        path=path,
        links=page_links(images, request, path) if images else None,
        first_number=(number - 1) * size + 1,
        order=query.order,
        size=size,
        sizes=SIZES,
        shown_as=query.view,
        back=f"{path}?page={number}&order={query.order}&size={size}&view={query.view}",
        selectable=visitor.role is Role.CLINICIAN and case.state in SELECTABLE,
        entropy=entropy,
        days=days_chart(view.counts_by_day),
        panel=make_decision_panel(
            case,
            view.actions,
            visitor.user,
            visitor.role,
            view.known_classes,
            names,
            refused_or_none.action,
        ),
        problem=refused_or_none.problem,
        offers=refused_or_none.offers,
        draft=refused_or_none.form,
        asked=refused_or_none.action,
    )
