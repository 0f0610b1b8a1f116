"""Gradient weights of the images of a batch, by the twin's own tasks."""

from jaxtyping import Float, Int
from torch import Tensor

from twin import losses
from twin.objective import LocalContext


def gradient_weights(
    logits: Float[Tensor, "B C"],
    rows: Int[Tensor, " B"],
    context: LocalContext,
    head_loss: losses.HeadLoss,
    weighting: losses.Weighting,
) -> Float[Tensor, " B"]:
    """Return the gradient weight of each image, with the exponent ``p = C_o / (C_o + C_t)``.

    All weights are 1 on a twin without finished classes (notes on methods, section 3, row 2).
    """
    known = context.num_finished + context.num_current
    return losses.adaptive_weights(
        losses.gradient_magnitude(logits, rows, head_loss),
        context.group_of_rows()[rows],
        len(context.groups) - 1 if context.num_finished else 0,
        context.num_finished / known if known else 0.0,
        weighting,
    )
