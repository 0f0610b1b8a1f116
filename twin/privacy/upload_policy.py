"""Upload policy: which kinds of uploads a hospital forbids, checked on its own side.

The policy belongs to the hospital's own file, not to the federation's experiment: a server cannot
change it. It is asked twice. Before a twin trains, by what the method declares, so that a
federation which the hospital does not want fails at once and says why; and when the update is about
to leave, by the names of what is really in it: a tensor that no declaration covers does not pass a
hospital that forbids anything. Nothing is left out silently: a method that needs what is forbidden
is refused, because its server half would work on with less than it believes to have. Loss means
alone are left out, since no server half reads them; the twin's history says so.

Not to be forbidden, because without them nothing is learned together: the weights, the number of
images they were trained on, the names of classes (``twin.messages.Observation``). Weights say
something of the images as well: see noise and secure sums, which are no policy.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, runtime_checkable

import pydantic.dataclasses
from pydantic import ConfigDict
from torch import Tensor

from twin.messages import TwinUpdate

UploadKind = Literal[
    # From which a likeness of an image can be reconstructed: FedKA, GLFC, LGA.
    "prototype_gradients",
    "feature_statistics",  # means, sums and Gram matrices of features: iCaRL, analytic head
    "class_counts",  # how many images of each class: iCaRL, analytic head
    "fisher_information",  # squared gradients of each weight: FedCurv
    # What corrects a twin's drift, or the number from which the server knows it: SCAFFOLD.
    "control_variates",
    "bias_correction",  # fitted to held-out images: BiC
    "metrics",  # mean of each loss term and gradient norm: every method
    # One twin's model handed to another twin; no method here does that today.
    "models_to_other_hospitals",
]
_ACCOUNTS = (
    "epsilon",
)  # says how much privacy is spent and nothing of the images: stays where metrics are forbidden


class UploadForbidden(ValueError):  # noqa: N818  (says what happened, as the policy's word does)
    """A method uploads what this hospital keeps to itself: what, why, what to change."""


@dataclass(frozen=True)
class UploadKinds:
    """What a method declares of its uploads.

    Args:
        of: The kinds of each tensor, by its name up to the first "/".
        relayed: Kinds of what the server does with the weights besides averaging them:
            ``models_to_other_hospitals``.
        unless: The method's setting with which none of it leaves, as it stands in YAML; empty where
            there is none.
    """

    of: Mapping[str, tuple[UploadKind, ...]] = field(default_factory=dict)
    relayed: tuple[UploadKind, ...] = ()
    unless: str = ""

    def all(self) -> tuple[UploadKind, ...]:
        """Return each kind once."""
        return tuple(
            dict.fromkeys((*(kind for kinds in self.of.values() for kind in kinds), *self.relayed))
        )


@runtime_checkable
class Declares(Protocol):
    """A method that says of what kind its uploads are."""

    @property
    def upload_kinds(self) -> UploadKinds:
        """What it uploads besides weights, number of images and metrics."""
        ...


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class UploadPolicy:
    """What one hospital forbids.

    Args:
        forbid: Kinds that do not leave it.
    """

    forbid: tuple[UploadKind, ...] = ()


def check_method(method: object, policy: UploadPolicy) -> None:
    """Raise where a method declares an upload that a hospital forbids.

    Raises:
        UploadForbidden: With the setting that avoids it, where the method has one.
    """
    declared = method.upload_kinds if isinstance(method, Declares) else UploadKinds()
    _refuse(method, policy, [kind for kind in declared.all() if kind in policy.forbid])


def check_upload(method: object, policy: UploadPolicy, upload: Mapping[str, Tensor]) -> None:
    """Raise where what is about to leave is of a forbidden kind.

    Or of none while anything is forbidden.

    Raises:
        UploadForbidden: Likewise.
    """
    if not policy.forbid:
        return
    kinds = method.upload_kinds.of if isinstance(method, Declares) else {}
    undeclared = sorted(name for name in upload if name.partition("/")[0] not in kinds)
    if undeclared:
        raise UploadForbidden(
            f"{_name(method)} uploads {', '.join(undeclared[:3])}, whose kind it does not declare, "
            "and this hospital forbids "
            f"{', '.join(policy.forbid)}; declare it in the method's upload_kinds"
        )
    sent = dict.fromkeys(kind for name in upload for kind in kinds[name.partition("/")[0]])
    _refuse(method, policy, [kind for kind in sent if kind in policy.forbid])


def without_metrics(update: TwinUpdate) -> TwinUpdate:
    """Return the update without the means of its loss terms.

    For a hospital that keeps them to itself.
    """
    return replace(
        update, metrics={name: value for name, value in update.metrics.items() if name in _ACCOUNTS}
    )


def _refuse(method: object, policy: UploadPolicy, forbidden: list[UploadKind]) -> None:
    if not forbidden:
        return
    unless = method.upload_kinds.unless if isinstance(method, Declares) else ""
    way_out = (
        f"set method.{unless}, with which the method leaves it out"
        if unless
        else "choose another method: this one needs it"
    )
    raise UploadForbidden(
        f"{_name(method)} uploads {', '.join(forbidden)}, and this hospital forbids "
        f"{', '.join(policy.forbid)}; it does not train. "
        f"The federation: {way_out}. The hospital: take {', '.join(forbidden)} out of the policy's "
        "forbid, if it may leave after all"
    )


def _name(method: object) -> str:
    return type(method).__name__
