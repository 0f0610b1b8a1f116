"""MLflow tracking: copies a run's parameters, metrics, artifacts and models to an MLflow store.

The run folder is the original and MLflow its copy. Everything is read from the folder, so a running
experiment and a later ``sync`` use the same code. ``mlflow.json`` says what is uploaded. Every step
may be repeated: a crash loses and doubles nothing. A store that does not answer never stops a run.

Reading order: ``config``, ``mirror`` (when to upload), ``upload`` (what to upload), ``metrics``
(records as numbers), ``upload_state``, ``system_load``.
"""

from federation.tracking.config import TrackingConfig, TrackingError
from federation.tracking.mirror import RunMirror, sync
from federation.tracking.upload_state import UploadState

__all__ = ["RunMirror", "TrackingConfig", "TrackingError", "UploadState", "sync"]
