"""Load of processor, memory and disk, sampled into a file of JSON lines in the run folder."""

import importlib.util
import json
import time
from pathlib import Path


class SystemLoadLog:
    """Appends samples of the load to a file. Does nothing where psutil is not installed.

    Args:
        path: File of JSON lines.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._enabled = importlib.util.find_spec("psutil") is not None
        if self._enabled:
            import psutil

            psutil.cpu_percent()  # measured since the previous call; this is the first

    def sample(self) -> None:
        """Append one line."""
        if not self._enabled:
            return
        import psutil

        memory = psutil.virtual_memory()
        line = {
            "time_ms": int(time.time() * 1000),
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / 1e6,
            "system_memory_usage_percentage": memory.percent,
            "process_memory_megabytes": psutil.Process().memory_info().rss / 1e6,
            "disk_usage_percentage": psutil.disk_usage(str(self.path.parent)).percent,
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
