"""Privacy accounting: whether settings give a guarantee, what a round costs, what is left."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from incremental.network import NetworkConfig
from twin.config import TwinSetting
from twin.local_training import TrainingConfig
from twin.privacy.differential_privacy import (
    PrivacyError,
    PrivacySpent,
    UpdateNoise,
    add_cost,
    epsilon_of,
)
from twin.privacy.private_training import PrivateTraining
from twin.privacy.upload_policy import DeclaresUploads

EPSILON = "epsilon"  # metric of an update: what its twin has spent


def check_guarantee(
    network: NetworkConfig, training: TrainingConfig, noise: UpdateNoise | None, method: object
) -> None:
    """Check that differential privacy, if configured, covers all that leaves a twin.

    Args:
        network: Architecture of the model.
        training: Local training, perhaps with DP-SGD.
        noise: Noise on updates; none: no noise.
        method: Declares ``per_sample_loss`` and ``upload_kinds``.

    Raises:
        PrivacyError: If not; names every reason.
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
            "a batch and leave without noise; set it to group"
        )
    if private is not None and not getattr(method, "per_sample_loss", False):
        objections.append(
            f"training.private clips the gradient of each image by itself, and the loss of {name} "
            "with these settings is no mean over images of a term of each one's outputs: it "
            "compares images of a batch with each other, or uses weights; choose another method, "
            "or settings that switch that off, or outgoing.noise, which needs no such loss"
        )
    if isinstance(method, DeclaresUploads) and method.upload_kinds.by_tensor:
        way_out = (
            f"set method.{method.upload_kinds.avoided_by}"
            if method.upload_kinds.avoided_by
            else "choose another method"
        )
        objections.append(
            f"{name} uploads {', '.join(method.upload_kinds.by_tensor)}, which would leave without "
            f"noise; {way_out}"
        )
    if objections:
        raise PrivacyError(". Also: ".join(objections))


def check_upload_is_protected(setting: TwinSetting, upload: Mapping[str, Tensor]) -> None:
    """Check that a twin whose weights are protected uploads nothing besides.

    Raises:
        PrivacyError: If it does, whatever the method declared.
    """
    if upload and mechanism_of(setting) is not None:
        raise PrivacyError(
            f"the method uploads {', '.join(sorted(upload)[:3])} beside its weights, which would "
            "leave without noise and which it does not declare; declare it in the "
            "method's upload_kinds, and choose another method"
        )


def check_noise_is_secret(training: TrainingConfig, noise: UpdateNoise | None) -> None:
    """Check that nobody can repeat the noise, as real hospitals require.

    Raises:
        PrivacyError: If it is seeded, as the server knows the seed.
    """
    for key, mechanism in (("training.private", training.private), ("outgoing.noise", noise)):
        if mechanism is not None and mechanism.noise_source != "system":
            raise PrivacyError(
                f"{key}.noise_source is '{mechanism.noise_source}': the server sends the seed, and "
                "whoever knows it can take the noise out again; set it to system"
            )


def mechanism_of(setting: TwinSetting) -> UpdateNoise | PrivateTraining | None:
    """Return the one mechanism that protects images; none without differential privacy."""
    return setting.training.private or setting.outgoing.noise


def account_after_round(
    setting: TwinSetting, privacy: Sequence[PrivacySpent], num_images: int
) -> tuple[PrivacySpent, ...]:
    """Return the account of a twin after one more round on so many images."""
    training = setting.training
    if training.private is not None:
        return add_cost(
            privacy, training.private.cost(num_images, training.batch_size, training.epochs)
        )
    noise = setting.outgoing.noise
    return tuple(privacy) if noise is None else add_cost(privacy, noise.cost())


def can_afford(setting: TwinSetting, privacy: Sequence[PrivacySpent], num_images: int) -> bool:
    """Return whether the budget, if there is one, allows a round on so many images."""
    mechanism = mechanism_of(setting)
    if mechanism is None or mechanism.epsilon_budget is None or not num_images:
        return True
    account = account_after_round(setting, privacy, num_images)
    return epsilon_of(account, mechanism.delta) <= mechanism.epsilon_budget


def charge_round(
    setting: TwinSetting, privacy: Sequence[PrivacySpent], num_images: int
) -> tuple[PrivacySpent, ...]:
    """Return the account of a twin that is about to train on so many images.

    Args:
        setting: Settings of the federation.
        privacy: The account before the round.
        num_images: Training images of the round.

    Raises:
        PrivacyError: If the budget does not allow the round.
    """
    if not can_afford(setting, privacy, num_images):
        raise PrivacyError(
            f"a round on {num_images} images is more than is left: "
            f"{budget_statement(setting, privacy)}; the twin had reported nothing to train on, so "
            "it should not have been asked"
        )
    return account_after_round(setting, privacy, num_images)


def released_metrics(
    setting: TwinSetting, privacy: Sequence[PrivacySpent], metrics: dict[str, float]
) -> dict[str, float]:
    """Return the metrics that may leave: with differential privacy nothing but spent epsilon.

    Args:
        setting: Settings of the federation.
        privacy: The account after the round.
        metrics: Measurements of the training.
    """
    mechanism = mechanism_of(setting)
    return metrics if mechanism is None else {EPSILON: epsilon_of(privacy, mechanism.delta)}


def budget_statement(setting: TwinSetting, privacy: Sequence[PrivacySpent]) -> str:
    """Return the budget and what is spent of it, in words."""
    mechanism = mechanism_of(setting)
    assert mechanism is not None
    assert mechanism.epsilon_budget is not None
    spent = epsilon_of(privacy, mechanism.delta)
    return (
        f"privacy budget of epsilon {mechanism.epsilon_budget:g} at delta {mechanism.delta:g}: "
        f"{spent:.3g} is spent"
    )
