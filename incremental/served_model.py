"""MLflow's wrapper of a saved model: images in, class names out.

MLflow runs this file as a script ("models from code"), so that no pickle is needed; nothing here
imports it. It is stored with each model, together with the package ``incremental`` and nothing
else. As MLflow runs it, it alone may import MLflow at the top.
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
        # MLflow derives nothing from this hint; the signature checks type and axes.
        model_input: np.ndarray,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Name the class of each image.

        Args:
            context: Of MLflow; not used.
            model_input: 8-bit pixels, shape [N, H, W, C] or, in direct calls alone, [N, H, W].
            params: ``all_probabilities``: true adds a column ``probability_of_<class>`` for each
                class.

        Returns:
            One line per image: ``class_name``, ``probability`` (softmax), ``entropy_fraction``
            (entropy over ln C; 0: certain, 1: uniform).
        """
        predicted = predict(self.network, model_input)
        columns: dict[str, Any] = {
            "class_name": self.class_names[predicted.rows],
            "probability": predicted.probabilities[np.arange(len(predicted.rows)), predicted.rows],
            "entropy_fraction": predicted.entropy_fractions,
        }
        if params and params.get("all_probabilities"):
            columns |= {
                f"probability_of_{name}": predicted.probabilities[:, row]
                for row, name in enumerate(self.class_names)
            }
        return pd.DataFrame(columns)


mlflow.models.set_model(ServedModel())
