"""What methods share whose server half is the plain mean of FedAvg: fields and hooks. No method.

Source: McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data,
AISTATS 2017, algorithm 1.
"""

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from federation.aggregation.means import Mean
from federation.method import Method
from twin import losses


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class AveragingMethod(Method):
    """A method that classifies with one head, may replay exemplars, and averages models.

    Args:
        head_loss: ``ce``: softmax cross-entropy; ``bce``: binary cross-entropy over the classes.
        memory: Train on exemplars of finished tasks as well (FedAvg with it: the common stronger
            form "with replay").
        mean: ``by_images`` (FedAvg) or ``equal`` (every twin counts the same).
    """

    head_loss: losses.HeadLoss = "ce"
    memory: bool = False
    mean: Mean = "by_images"

    @property
    def replays(self) -> bool:
        """Whether exemplars are trained on."""
        return self.memory
