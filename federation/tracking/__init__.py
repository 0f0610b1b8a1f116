"""A run, mirrored in MLflow: parameters, metrics, artifacts, model versions.

The run folder is the truth and MLflow its copy. All that is uploaded is read from the folder, so the mirror of a running experiment
and a later ``sync`` are the same code. How far the copy has come stands in ``mlflow.json``; every step may be repeated, so a crash at
any point loses and doubles nothing. A store that does not answer never stops a run. Knows nothing of what makes the folder.

Reading order: ``config``, ``mirror`` (when), ``upload`` (what, in which order), ``numbers`` (records as numbers), ``receipt``, ``system``.
"""

from federation.tracking.config import TrackingConfig, TrackingError
from federation.tracking.mirror import RunMirror, sync
from federation.tracking.receipt import Receipt

__all__ = ["Receipt", "RunMirror", "TrackingConfig", "TrackingError", "sync"]
