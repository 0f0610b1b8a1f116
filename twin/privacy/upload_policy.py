"""Upload policy: which kinds of uploads a hospital forbids, checked on its own side.

The policy stands in the hospital's own file, so a server cannot change it. It is checked twice:
before training, by what the method declares, so that a method which the hospital refuses fails at
once with a reason; and before an update leaves, by the names of its tensors, where an undeclared
tensor does not pass a hospital that forbids anything.

A method that needs a forbidden upload is refused, since its server half would otherwise work with
less than it expects. Means of losses alone are left out, as no server half reads them; the twin's
events say so.

Weights, number of images and class names cannot be forbidden: without them nothing is learned
together. Weights also reveal something of the images: see differential privacy and secure
aggregation.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Literal, Protocol, runtime_checkable

import pydantic.dataclasses
from pydantic import ConfigDict
from torch import Tensor

from twin.messages import TwinUpdate

UploadKind = Literal[
    "prototype_gradients",  # an image can be reconstructed from them: FedKA, GLFC, LGA
    "feature_statistics",  # means, sums and Gram matrices of features: iCaRL, analytic head
    "class_counts",  # how many images of each class: iCaRL, analytic head
    "fisher_information",  # squared gradients of each weight: FedCurv
    "control_variates",  # corrections of a twin's drift: SCAFFOLD
    "bias_correction",  # fitted to held-out images: BiC
    "metrics",  # mean of each loss term and gradient norm: every method
    "models_to_other_hospitals",  # one twin's model sent to another twin: no method so far
]
_NEVER_FORBIDDEN = ("epsilon",)  # a metric that says nothing of the images


class UploadForbidden(ValueError):  # noqa: N818  # named after the policy's key ``forbid``
    """Raised for an upload that the hospital forbids."""


@dataclass(frozen=True)
class UploadKinds:
    """Kinds of a method's uploads.

    Args:
        by_tensor: Kinds of each uploaded tensor, by its name up to the first "/".
        relayed: Kinds of what the server does with weights besides averaging them:
            ``models_to_other_hospitals``.
        avoided_by: The method's setting, as in YAML, with which it uploads none of this; empty if
            there is none.
    """

    by_tensor: Mapping[str, tuple[UploadKind, ...]] = field(default_factory=dict)
    relayed: tuple[UploadKind, ...] = ()
    avoided_by: str = ""

    def all(self) -> tuple[UploadKind, ...]:
        """Return each kind once."""
        return tuple(dict.fromkeys((*chain(*self.by_tensor.values()), *self.relayed)))


@runtime_checkable
class DeclaresUploads(Protocol):
    """A method that declares the kinds of its uploads."""

    @property
    def upload_kinds(self) -> UploadKinds:
        """Kinds of its uploads besides weights, number of images and metrics."""
        ...


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class UploadPolicy:
    """Upload policy of one hospital.

    Args:
        forbid: Kinds of uploads that do not leave the hospital.
    """

    forbid: tuple[UploadKind, ...] = ()


def check_method(method: object, policy: UploadPolicy) -> None:
    """Check the uploads that a method declares.

    Raises:
        UploadForbidden: If one is forbidden; names the setting that avoids it, if there is one.
    """
    _refuse_forbidden(method, policy, _declared(method).all())


def check_upload(method: object, policy: UploadPolicy, upload: Mapping[str, Tensor]) -> None:
    """Check the tensors of an upload that is about to leave.

    Raises:
        UploadForbidden: If one is of a forbidden kind, or undeclared while anything is forbidden.
    """
    if not policy.forbid:
        return
    kinds = _declared(method).by_tensor
    undeclared = sorted(name for name in upload if name.partition("/")[0] not in kinds)
    if undeclared:
        raise UploadForbidden(
            f"{type(method).__name__} uploads {', '.join(undeclared[:3])}, whose kind it does not "
            f"declare, and this hospital forbids {', '.join(policy.forbid)}; declare it in the "
            "method's upload_kinds"
        )
    sent = dict.fromkeys(kind for name in upload for kind in kinds[name.partition("/")[0]])
    _refuse_forbidden(method, policy, tuple(sent))


def without_metrics(update: TwinUpdate) -> TwinUpdate:
    """Return the update without the means of its loss terms."""
    return replace(
        update,
        metrics={name: value for name, value in update.metrics.items() if name in _NEVER_FORBIDDEN},
    )


def _declared(method: object) -> UploadKinds:
    return method.upload_kinds if isinstance(method, DeclaresUploads) else UploadKinds()


def _refuse_forbidden(method: object, policy: UploadPolicy, kinds: tuple[UploadKind, ...]) -> None:
    forbidden = ", ".join(kind for kind in kinds if kind in policy.forbid)
    if not forbidden:
        return
    setting = _declared(method).avoided_by
    way_out = (
        f"set method.{setting}, with which the method leaves it out"
        if setting
        else "choose another method: this one needs it"
    )
    raise UploadForbidden(
        f"{type(method).__name__} uploads {forbidden}, and this hospital forbids "
        f"{', '.join(policy.forbid)}; it does not train. The federation: {way_out}. The hospital: "
        f"take {forbidden} out of the policy's forbid, if it may leave after all"
    )
