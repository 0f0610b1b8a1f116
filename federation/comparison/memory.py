"""Peak memory of a run, sampled from outside."""

import importlib.util
import threading
from types import TracebackType

_SECONDS_BETWEEN = 0.2
_BYTES_PER_MEGABYTE = 1e6


class PeakMemory:
    """Watches this program and its worker processes while the context is open.

    Resident memory of all processes together; a page that several share counts once for each, so it
    is an upper bound. Nothing is measured where psutil is not installed.
    """

    def __init__(self) -> None:
        self.megabytes: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        """Begin."""
        if importlib.util.find_spec("psutil"):
            self._look()
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(_SECONDS_BETWEEN):
            self._look()

    def _look(self) -> None:
        import psutil

        own = psutil.Process()
        total = 0
        for process in (own, *own.children(recursive=True)):
            try:
                total += process.memory_info().rss
            except psutil.Error:  # it ended between the list and the look
                continue
        self.megabytes = max(self.megabytes or 0.0, total / _BYTES_PER_MEGABYTE)
