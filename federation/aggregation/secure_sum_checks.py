"""Checks of hospitals' answers in secure aggregation, each with its objection in words."""

from math import isfinite
from typing import Any

import torch

from twin.messages import Broadcast
from twin.secure_sum.mask_keys import KEY_BYTES, MaskingError, new_round_key, pair_key
from twin.secure_sum.mask_messages import Masked, OpenReply, Sealed


def objection(answer: Any, twin_id: str, round_number: int) -> str | None:
    """Say why this is no answer of this twin in this round."""
    if answer is None:
        return "did not answer in time"
    if isinstance(answer, Exception):
        return f"{type(answer).__name__}: {answer}"
    if not isinstance(answer, Sealed | Masked | OpenReply):
        return f"answered with {type(answer).__name__}"
    if (answer.twin_id, answer.round) != (twin_id, round_number):
        return (
            f"answered as {answer.twin_id} for round {answer.round}; this is round {round_number}"
        )
    return None


def objection_to_seal(answer: Any, broadcast: Broadcast, max_images: int) -> str | None:
    """Say why nobody could be summed with who sealed so."""
    if not isinstance(answer, Sealed):
        return f"answered with {type(answer).__name__}"
    if answer.class_names != broadcast.class_names:
        return "trained for other classes than those broadcast"
    if not 1 <= answer.num_images <= max_images:
        return f"claims to be trained on {answer.num_images} images; allowed: 1 to {max_images}"
    if not all(isfinite(value) for value in answer.metrics.values()):
        return "reports metrics that are not finite"
    try:  # a key that gives no secret would make every other hospital refuse the roster
        pair_key(new_round_key()[0], answer.public_key, answer.round, "", (answer.twin_id, ""))
    except MaskingError as error:
        return str(error)
    return None


def objection_to_vector(answer: Any, digest: str, length: int) -> str | None:
    """Say why this vector does not belong into the sum of a roster."""
    if not isinstance(answer, Masked) or answer.roster_digest != digest:
        return (
            "answered for another roster"
            if isinstance(answer, Masked)
            else f"answered with {type(answer).__name__}"
        )
    if answer.vector.dtype != torch.int64 or answer.vector.shape != (length,):
        got = f"{answer.vector.dtype} {tuple(answer.vector.shape)}"
        return f"sent {got}; allowed: torch.int64 ({length},)"
    return None


def objection_to_seed(answer: Any, digest: str) -> str | None:
    """Say why this seed takes no mask off a roster's vector."""
    if not isinstance(answer, OpenReply) or answer.roster_digest != digest:
        return (
            "opened another roster"
            if isinstance(answer, OpenReply)
            else f"answered with {type(answer).__name__}"
        )
    return (
        None
        if len(answer.seed) == KEY_BYTES
        else f"opened with {len(answer.seed)} bytes; allowed: {KEY_BYTES}"
    )


def size_of(answer: Any) -> int:
    """Return what an answer holds, without framing [bytes]."""
    if isinstance(answer, Sealed):
        return len(answer.public_key) + len(answer.signature)
    if isinstance(answer, Masked):
        return answer.vector.numel() * answer.vector.element_size()
    return len(answer.seed) if isinstance(answer, OpenReply) else 0
