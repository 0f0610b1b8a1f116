"""Privacy accounting: what a setting can guarantee, what a round costs, and what is left."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from incremental.network import NetworkConfig
from twin.config import TwinSetting
from twin.local_training import TrainingConfig
from twin.privacy.differential_privacy import (
    PrivacyError,
    PrivacySpent,
    UpdateNoise,
    epsilon_of,
    spend,
)
from twin.privacy.private_training import PrivateTraining
from twin.privacy.upload_policy import Declares

EPSILON = "epsilon"  # what a twin has spent, among the metrics of its update


def check_fits(
    network: NetworkConfig, training: TrainingConfig, noise: UpdateNoise | None, method: object
) -> None:
    """Check that nothing leaves past the mechanism and that the mechanism is what it claims to be.

    Args:
        network: What is trained.
        training: How, perhaps with DP-SGD.
        noise: On the update; none: there is none.
        method: Asked whether its loss is a mean over images, and what it uploads.

    Raises:
        PrivacyError: With every objection.
    """
    private = training.private
    if private is None and noise is None:
        return
    name, objections = type(method).__name__, []
    if private is not None and noise is not None:
        objections.append(
            "training.private and outgoing.noise are both set; they protect different things, so "
            "choose one"
        )
    if network.norm != "group":
        objections.append(
            f"network.norm is {network.norm}: statistics of batch normalisation mix the images of "
            "a batch and leave without noise; set "
            "it to group"
        )
    if private is not None and not getattr(method, "per_sample_loss", False):
        objections.append(
            f"training.private clips the gradient of each image by itself, and the loss of {name} "
            "with these settings is no mean over "
            "images of what the network says of each: it compares images of a batch with each "
            "other, or looks at weights; choose another "
            "method, or settings that switch that off, or outgoing.noise, which needs no such loss"
        )
    if isinstance(method, Declares) and method.upload_kinds.of:
        way_out = (
            f"set method.{method.upload_kinds.unless}"
            if method.upload_kinds.unless
            else "choose another method"
        )
        objections.append(
            f"{name} uploads {', '.join(method.upload_kinds.of)}, which would leave without noise; "
            f"{way_out}"
        )
    if objections:
        raise PrivacyError(". Also: ".join(objections))


def check_upload_is_covered(setting: TwinSetting, upload: Mapping[str, Tensor]) -> None:
    """Check that nothing leaves beside the weights.

    Where these are protected, whatever the method declares.

    Raises:
        PrivacyError: If something would.
    """
    if upload and mechanism_of(setting) is not None:
        raise PrivacyError(
            f"the method uploads {', '.join(sorted(upload)[:3])} beside its weights, which would "
            "leave without noise and which it does not "
            "declare; declare it in the method's upload_kinds, and choose another method"
        )


def check_noise_is_secret(training: TrainingConfig, noise: UpdateNoise | None) -> None:
    """Check that noise comes from where nobody can draw it again.

    For it must where hospitals are real.

    Raises:
        PrivacyError: If it is seeded: the server sends the seed.
    """
    for key, mechanism in (("training.private", training.private), ("outgoing.noise", noise)):
        if mechanism is not None and mechanism.noise_source != "system":
            raise PrivacyError(
                f"{key}.noise_source is '{mechanism.noise_source}': the server sends the seed, and "
                "whoever knows it can take the noise out "
                "again; set it to system"
            )


def mechanism_of(setting: TwinSetting) -> UpdateNoise | PrivateTraining | None:
    """Return what protects the images of a federation's twins; none where nothing does.

    There is never more than one.
    """
    return setting.training.private or setting.outgoing.noise


def after_round(
    setting: TwinSetting, privacy: Sequence[PrivacySpent], num_images: int
) -> tuple[PrivacySpent, ...]:
    """Return the account of a twin that trained in one more round.

    Args:
        setting: Of the federation.
        privacy: The account before.
        num_images: That the round trains on.
    """
    training = setting.training
    if training.private is not None:
        return spend(
            privacy, training.private.cost(num_images, training.batch_size, training.epochs)
        )
    noise = setting.outgoing.noise
    return tuple(privacy) if noise is None else spend(privacy, noise.cost())


def affords(setting: TwinSetting, privacy: Sequence[PrivacySpent], num_images: int) -> bool:
    """Return whether a round on so many images fits into what is left of the budget.

    It does where there is none.
    """
    mechanism = mechanism_of(setting)
    if mechanism is None or mechanism.epsilon_budget is None or not num_images:
        return True
    return (
        epsilon_of(after_round(setting, privacy, num_images), mechanism.delta)
        <= mechanism.epsilon_budget
    )


def pay(
    setting: TwinSetting, privacy: Sequence[PrivacySpent], num_images: int
) -> tuple[PrivacySpent, ...]:
    """Return the account of a twin that is about to train.

    Args:
        setting: Of the federation.
        privacy: The account before.
        num_images: That the round trains on.

    Raises:
        PrivacyError: If the budget does not allow it, whoever asks.
    """
    if not affords(setting, privacy, num_images):
        raise PrivacyError(
            f"a round on {num_images} images is more than is left: {statement(setting, privacy)}; "
            "the twin had said that it has nothing to "
            "train on, so it should not have been asked"
        )
    return after_round(setting, privacy, num_images)


def released_metrics(
    setting: TwinSetting, privacy: Sequence[PrivacySpent], metrics: dict[str, float]
) -> dict[str, float]:
    """Return what may be told beside an update.

    Where images are protected no means of losses, but what has been spent.

    Args:
        setting: Of the federation.
        privacy: The account after the round.
        metrics: What the training measured.
    """
    mechanism = mechanism_of(setting)
    return metrics if mechanism is None else {EPSILON: epsilon_of(privacy, mechanism.delta)}


def statement(setting: TwinSetting, privacy: Sequence[PrivacySpent]) -> str:
    """Return how the budget stands, in words."""
    mechanism = mechanism_of(setting)
    assert mechanism is not None
    assert mechanism.epsilon_budget is not None
    spent = epsilon_of(privacy, mechanism.delta)
    return (
        f"privacy budget of epsilon {mechanism.epsilon_budget:g} at delta {mechanism.delta:g}: "
        f"{spent:.3g} is spent"
    )
