"""The load of this machine, written beside the records so that it is uploaded like everything else. Knows no MLflow."""

import importlib.util
import json
import time
from pathlib import Path


class SystemLog:
    """Appends the load to a file.

    Args:
        path: A file of JSON lines.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if importlib.util.find_spec("psutil"):
            import psutil

            psutil.cpu_percent()  # it is measured since the last look: this is the first

    def sample(self) -> None:
        """Append one line; nothing where psutil is not installed."""
        if importlib.util.find_spec("psutil"):
            with self.path.open("a", encoding="utf-8") as file:
                file.write(
                    json.dumps({"time_ms": int(time.time() * 1000), **self._measure()}) + "\n"
                )

    def _measure(self) -> dict[str, float]:
        import psutil

        memory = psutil.virtual_memory()
        return {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": memory.percent,
            "process_memory_megabytes": psutil.Process().memory_info().rss / 1e6,
            "disk_usage_percentage": psutil.disk_usage(str(self.path.parent)).percent,
        }
