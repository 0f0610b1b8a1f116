"""Loss terms of all methods as pure functions, each with its equation.

Letters: B batch, C classes of the head, C_old classes of the teacher (the first rows of the head).
Equations without a source are those of FedKA (section 2.2.2), as read in the notes on methods,
sections 2.8 and 3. Means are over the batch. Losses are float32. Teachers get no gradient.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

HeadLoss = Literal["bce", "ce"]
Weighting = Literal["paper_per_task", "lga_cumulative_clamped", "none"]

_TINY = 1e-8  # keeps a quotient finite where a map or a gradient is all zero


def gradient_magnitude(
    logits: Float[Tensor, "B C"], rows: Int[Tensor, " B"], head_loss: HeadLoss
) -> Float[Tensor, " B"]:
    """Return ``abs(P_y - 1)``, the size of the loss's gradient at the true class's logit.

    P is the sigmoid (bce) or the softmax (ce) of the logits. The values, in [0, 1], have no
    gradient themselves.
    """
    logits = logits.detach().float()
    probabilities = torch.sigmoid(logits) if head_loss == "bce" else torch.softmax(logits, 1)
    return 1 - probabilities.gather(1, rows[:, None]).squeeze(1)


def adaptive_weights(
    magnitude: Float[Tensor, " B"],
    task_of_image: Int[Tensor, " B"],
    num_finished_tasks: int,
    exponent: float,
    weighting: Weighting,
) -> Float[Tensor, " B"]:
    """Return the weight of each image: its gradient over the mean gradient of its task.

    ``paper_per_task``: ``w_i = abs(Delta_i)^p / nu_k(i)``, ``nu_k`` the mean of ``abs(Delta)^p``
    over the images of task k in the batch; the mean weight of each task is 1.
    ``lga_cumulative_clamped``: what LGA's public code computes: an image of finished task k gets
    one term for each of the groups "tasks 0..i", i >= k, that hold it, and weights are clamped to
    [0.5, 5].

    Args:
        magnitude: ``abs(P_y - 1)``.
        task_of_image: Index of the task of each image's class among the twin's tasks; the current
            one is ``num_finished_tasks``.
        num_finished_tasks: Tasks that the twin has finished; with 0 all weights are 1.
        exponent: p = C_o / (C_o + C_t), classes finished and current.
        weighting: One of these two; ``none``: all weights are 1.
    """
    if weighting == "none" or num_finished_tasks == 0:
        return torch.ones_like(magnitude)
    powered = magnitude**exponent
    if weighting == "paper_per_task":
        return powered / _mean_by_group(powered, task_of_image, num_finished_tasks + 1)[
            task_of_image
        ].clamp_min(_TINY)
    weights = torch.zeros_like(powered)
    for last in range(num_finished_tasks):
        members = (task_of_image <= last).to(powered.dtype)
        weights = weights + members * powered / _masked_mean(powered, members)
    current = (task_of_image == num_finished_tasks).to(powered.dtype)
    return (weights + current * powered / _masked_mean(powered, current)).clamp(0.5, 5)


def _mean_by_group(
    values: Float[Tensor, " B"], group: Int[Tensor, " B"], num_groups: int
) -> Float[Tensor, " G"]:
    membership = functional.one_hot(group, num_groups).to(values.dtype)  # [B, G]
    return (values @ membership) / membership.sum(0).clamp_min(1)


def _masked_mean(values: Float[Tensor, " B"], members: Float[Tensor, " B"]) -> Float[Tensor, ""]:
    return ((values * members).sum() / members.sum().clamp_min(1)).clamp_min(_TINY)


def classification(
    logits: Float[Tensor, "B C"],
    rows: Int[Tensor, " B"],
    weights: Float[Tensor, " B"],
    head_loss: HeadLoss,
) -> Float[Tensor, ""]:
    """Return the adaptive classification loss, L_CB: mean over images of ``w_i D(P_i, y_i)``.

    D is softmax cross-entropy (ce), or binary cross-entropy averaged over the C classes (bce: the
    form that a learning rate of 2 needs). With unit weights it is plain cross-entropy.
    """
    logits = logits.float()
    if head_loss == "ce":
        each = functional.cross_entropy(logits, rows, reduction="none")
    else:
        each = _binary(logits, functional.one_hot(rows, logits.shape[1]).to(logits.dtype))
    return (weights * each).mean()


def plain_classification(
    logits: Float[Tensor, "B C"], rows: Int[Tensor, " B"], head_loss: HeadLoss
) -> Float[Tensor, ""]:
    """Return ``classification`` with unit weights: plain cross-entropy."""
    return classification(logits, rows, logits.new_ones(len(logits)).float(), head_loss)


def semantic_distillation(
    logits: Float[Tensor, "B C"],
    old_logits: Float[Tensor, "B C_old"],
    rows: Int[Tensor, " B"],
    weights: Float[Tensor, " B"],
    head_loss: HeadLoss,
) -> Float[Tensor, ""]:
    """Return the adaptive semantic distillation, L_SD.

    Mean of ``w_i sum_k KL(teacher slice k, student slice k)``. For classes that the teacher does
    not know the target is the one-hot class. bce: mean over C of binary cross-entropy to
    [sigmoid(teacher), one-hot]. ce: softmax over all classes, ``p log(p / q)`` summed over the
    slices without renormalising, temperature 1.
    """
    logits, old_logits = logits.float(), old_logits.detach().float()
    one_hot = functional.one_hot(rows, logits.shape[1]).to(logits.dtype)
    new_target = one_hot[:, old_logits.shape[1] :]
    if head_loss == "bce":
        return (
            weights * _binary(logits, torch.cat([torch.sigmoid(old_logits), new_target], 1))
        ).mean()
    target = torch.cat([torch.softmax(old_logits, 1), new_target], 1)
    each = functional.kl_div(torch.log_softmax(logits, 1), target, reduction="none").sum(1)
    return (weights * each).mean()


def attention_distillation(
    maps: Float[Tensor, "B h w"],
    old_maps: Float[Tensor, "B h w"],
    weights: Float[Tensor, " B"],
    reduction: Literal["sum", "mean"] = "sum",
) -> Float[Tensor, ""]:
    """Return the adaptive attention distillation, L_AD: mean over images of ``w_i L_Q``.

    ``L_Q = sum_j abs(Q_old,j / norm(Q_old) - Q_j / norm(Q))`` over the positions j, norm Euclidean
    (LwM: Dhar et al., CVPR 2019, eq. 4). It is 0 for equal maps. An all-zero map stays all zero.

    Args:
        maps: The student's Grad-CAM.
        old_maps: The teacher's, for the same class.
        weights: Weight of each image.
        reduction: Over positions; ``mean`` suits learning rates at which the sum diverges.
    """
    distance = (_unit(old_maps.detach()) - _unit(maps)).abs()
    each = distance.sum(1) if reduction == "sum" else distance.mean(1)
    return (weights * each).mean()


def old_class_distillation(
    logits: Float[Tensor, "B C"],
    old_logits: Float[Tensor, "B C_old"],
    temperature: float,
    head_loss: HeadLoss,
) -> Float[Tensor, ""]:
    """Return the distillation over the teacher's classes alone.

    ce: ``KL(softmax(teacher / T), softmax(student over the old classes / T))``; it differs from the
    soft cross-entropy of LwM (Dhar et al., CVPR 2019, eq. 2) and BiC (Wu et al., CVPR 2019, eq. 2)
    by a constant, and is 0 for equal models. bce: iCaRL's second term (Rebuffi et al., CVPR 2017,
    algorithm 3), ``1 / C sum over old c of BCE(o_c, sigmoid(teacher_c))``, without temperature.
    """
    known = old_logits.shape[1]
    student, teacher = logits[:, :known].float(), old_logits.detach().float()
    if head_loss == "bce":
        each = (
            functional.binary_cross_entropy_with_logits(
                student, torch.sigmoid(teacher), reduction="none"
            ).sum(1)
            / logits.shape[1]
        )
    else:
        log_teacher = torch.log_softmax(teacher / temperature, 1)
        log_student = torch.log_softmax(student / temperature, 1)
        each = functional.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(1)
    return each.mean()


def new_class_classification(
    logits: Float[Tensor, "B C"], rows: Int[Tensor, " B"], num_old: int
) -> Float[Tensor, ""]:
    """Return iCaRL's first term, ``1 / C sum over new c of BCE(o_c, [c = y])``.

    Rebuffi et al., CVPR 2017, algorithm 3; the second term is ``old_class_distillation`` (bce).
    Without old classes it is plain binary cross-entropy.
    """
    logits = logits.float()
    target = functional.one_hot(rows, logits.shape[1]).to(logits.dtype)
    each = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (each[:, num_old:].sum(1) / logits.shape[1]).mean()


def spatial_distillation(
    maps: Float[Tensor, "B D h w"], old_maps: Float[Tensor, "B D h w"]
) -> Float[Tensor, ""]:
    """Return POD-spatial of one stage (Douillard et al., PODNet, ECCV 2020, eq. 4).

    It is the mean over images of the distance of unit profiles. A profile is the squared maps
    summed over the height, followed by those summed over the width.
    """
    difference: Tensor = _profile(maps) - _profile(old_maps.detach())
    return torch.linalg.vector_norm(difference, dim=1).mean()  # type: ignore[no-any-return]  # torch


def _profile(maps: Float[Tensor, "B D h w"]) -> Float[Tensor, "B q"]:
    energy = maps.float().square()
    return functional.normalize(
        torch.cat([energy.sum(2).flatten(1), energy.sum(3).flatten(1)], 1), dim=1
    )


def feature_distillation(
    features: Float[Tensor, "B D"], old_features: Float[Tensor, "B D"]
) -> Float[Tensor, ""]:
    """Return POD-flat: mean over images of ``1 - cos(features, old features)`` (PODNet, eq. 6)."""
    return (
        1 - functional.cosine_similarity(features.float(), old_features.detach().float(), dim=1)
    ).mean()


def not_true_distillation(
    logits: Float[Tensor, "B C"],
    global_logits: Float[Tensor, "B C"],
    rows: Int[Tensor, " B"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Return the distillation over the classes that an image is not of.

    Lee et al., FedNTD, NeurIPS 2022, eq. 3 and 4: mean over images of
    ``T^2 sum over c != y of q_c log(q_c / p_c)``, with q and p the softmax of the global and of the
    local logits over T, without class y. It is 0 for equal models, and with one or two classes.
    """
    first = torch.arange(logits.shape[1] - 1, device=logits.device)
    others = first + (first >= rows[:, None])  # [B, C - 1]: all columns but the image's class
    log_local = torch.log_softmax(logits.float().gather(1, others) / temperature, 1)
    log_global = torch.log_softmax(
        global_logits.detach().float().gather(1, others) / temperature, 1
    )
    return (
        temperature**2
        * functional.kl_div(log_local, log_global, reduction="none", log_target=True).sum(1).mean()
    )


def inner_product(values: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    """Return the inner product of two sets of parameters."""
    return torch.stack([(value * others[name]).sum() for name, value in values.items()]).sum()


def curvature_distance(
    values: Mapping[str, Tensor], centres: Mapping[str, Tensor], curvatures: Mapping[str, Tensor]
) -> Float[Tensor, ""]:
    """Return ``sum of u_p (theta_p - m_p)^2``, a distance weighted by the curvatures u."""
    return torch.stack(
        [
            (curvatures[name] * (value - centres[name]).square()).sum()
            for name, value in values.items()
        ]
    ).sum()


def squared_distance(values: dict[str, Tensor], others: dict[str, Tensor]) -> Float[Tensor, ""]:
    """Return the squared Euclidean distance of two sets of parameters."""
    return torch.stack(
        [(value - others[name]).square().sum() for name, value in values.items()]
    ).sum()


def _binary(logits: Float[Tensor, "B C"], target: Float[Tensor, "B C"]) -> Float[Tensor, " B"]:
    return functional.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1)


def _unit(maps: Float[Tensor, "B h w"]) -> Float[Tensor, "B q"]:
    flat = maps.float().flatten(1)
    # The small number under the root keeps the gradient of an all-zero map finite.
    return flat / (flat.square().sum(1, keepdim=True) + _TINY**2).sqrt().clamp_min(_TINY)
