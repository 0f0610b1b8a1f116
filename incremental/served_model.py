"""The model as MLflow serves it: images in, class names out.

It travels to wherever the model is loaded, together with the package ``incremental`` and nothing
else. MLflow runs it, so it may import MLflow at the top, as no other file does. No pickle is
involved: this file is the code, safetensors are the weights.
"""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd

from incremental.model_file import load_model
from incremental.prediction import predict


class ServedModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # the base is untyped
    """A saved model behind MLflow's ``predict``."""

    def load_context(self, context: Any) -> None:
        """Read the model folder that was logged as artifact ``model``."""
        self.network, manifest = load_model(Path(context.artifacts["model"]))
        self.class_names = np.array(manifest["class_names"], dtype=object)

    def predict(
        self,
        context: Any,
        # A hint that MLflow leaves alone; the signature checks type and axes.
        model_input: np.ndarray,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Name the class of each image.

        Args:
            context: MLflow's; not used.
            model_input: 8-bit pixels, shape [N, H, W, C] (through MLflow) or [N, H, W] (called
                directly: the signature wants four axes).
            params: ``all_probabilities``: true adds a column ``probability_of_<class>`` for each
                class.

        Returns:
            One line per image: ``class_name``, ``probability`` (softmax), ``entropy_fraction`` (of
            ln C, 0: sure, 1: no idea).
        """
        seen = predict(self.network, model_input)
        columns: dict[str, Any] = {
            "class_name": self.class_names[seen.rows],
            "probability": seen.probabilities[np.arange(len(seen.rows)), seen.rows],
            "entropy_fraction": seen.entropy_fractions,
        }
        if params and params.get("all_probabilities"):
            columns |= {
                f"probability_of_{name}": seen.probabilities[:, row]
                for row, name in enumerate(self.class_names)
            }
        return pd.DataFrame(columns)


mlflow.models.set_model(ServedModel())
