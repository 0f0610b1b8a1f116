"""Worker process that holds one model, so that web processes never load torch.

So whoever serves pages never loads torch and a crash costs one answer.

The child starts at the first ``load``, answers one question at a time over a pipe between the two
processes (nothing from outside is unpickled), and ends when its parent is gone. A child that
crashed, was killed or took too long is one clear error for whoever waited; the next question starts
another child with the same model. Knows no hospital and no case.
"""

import multiprocessing
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twin.review.novelty_scores import Looks, ModelFacts, joined

_IMAGES_AT_ONCE = (
    512  # of one question: bounds a message, and how long an overlay waits behind a long look
)
_PATIENCE_SECONDS = 5.0  # for a child that was told to end


class WorkerError(OSError):
    """A question that the model process did not answer: what happened, what to do."""


class ModelWorker:
    """The parent's end. May be used by many threads; their questions are answered in turn.

    Args:
        threads: Threads of the child's arithmetic.
        timeout_seconds: Longest time for one answer, the child's start included; then it is killed.
    """

    def __init__(self, threads: int = 1, timeout_seconds: float = 180.0) -> None:
        self._threads = threads
        self._timeout = timeout_seconds
        self._turn = threading.Lock()
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None
        self._facts: ModelFacts | None = None
        self._has_model = False
        self._closed = False

    @property
    def facts(self) -> ModelFacts | None:
        """The model that was loaded last; none before the first."""
        return self._facts

    @property
    def pid(self) -> int | None:
        """Process id of the child; none while there is none."""
        process = self._process
        with suppress(ValueError):  # another thread has just ended it
            return process.pid if process is not None and process.is_alive() else None
        return None

    def load(self, model_folder: Path) -> ModelFacts:
        """Load a model in place of the one before; if it cannot be loaded, the one before stays.

        Raises:
            WorkerError: If the folder holds no whole model, or the process fails.
        """
        with self._my_turn():
            facts: ModelFacts = self._ask("load", str(Path(model_folder).absolute()))
            self._facts, self._has_model = facts, True
            return facts

    def look(self, images: NDArray[np.uint8]) -> Looks:
        """Return features and logits of images.

        Args:
            images: 8-bit pixels, shape [N, S, S].

        Raises:
            WorkerError: If no model is loaded, these are no such images, or the process fails.
            NoveltyError: If another thread loaded another model meanwhile.
        """
        parts = []
        for start in range(0, max(len(images), 1), _IMAGES_AT_ONCE):
            with self._my_turn():
                parts.append(self._ask_model("look", images[start : start + _IMAGES_AT_ONCE]))
        return joined(parts)

    def overlay(
        self, images: NDArray[np.uint8], class_names: Sequence[str]
    ) -> list[NDArray[np.float32] | None]:
        """Return where the evidence for a class lies on each image, in [0, 1], or none.

        Where nothing speaks for it.

        Args:
            images: 8-bit pixels, shape [N, S, S].
            class_names: The class asked of each image.

        Raises:
            WorkerError: If no model is loaded, it does not know a class, or the process fails.
        """
        with self._my_turn():
            heats: list[NDArray[np.float32] | None] = self._ask_model(
                "overlay", images, tuple(class_names)
            )
            return heats

    def close(self) -> None:
        """End the child; a worker that was closed answers nothing any more."""
        self._closed = True
        with self._turn:
            if self._pipe is not None:
                with suppress(OSError):
                    self._pipe.send(None)
                if self._process is not None:
                    self._process.join(_PATIENCE_SECONDS)
            self._stop()

    def __enter__(self) -> "ModelWorker":
        """Return the worker."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the child."""
        self.close()

    @contextmanager
    def _my_turn(self) -> Iterator[None]:
        if not self._turn.acquire(timeout=self._timeout):
            raise WorkerError(
                f"the model process was busy for {self._timeout:g} s; try again, or ask for fewer "
                "images at once"
            )
        try:
            if self._closed:
                raise WorkerError("the model process was closed; make another ModelWorker")
            yield
        finally:
            self._turn.release()

    def _ask_model(self, *question: Any) -> Any:
        if self._facts is None:
            raise WorkerError(
                "the model process has no model; allowed: after load(); load a model first"
            )
        if not self._has_model or self._process is None or not self._process.is_alive():
            self._facts = self._ask("load", self._facts.folder)  # the last child ended
            self._has_model = True
        return self._ask(*question)

    def _ask(self, *question: Any) -> Any:
        """Send a question and wait for the answer.

        Whatever goes wrong with the process ends it, and the next question starts anew.
        """
        late = threading.Event()

        def give_up() -> None:
            late.set()
            with suppress(ValueError, AttributeError):  # it has just ended by itself
                # Frees the parent, whether it sends or waits for the answer.
                self._process.kill()  # type: ignore[union-attr]  # there is one

        if self._process is None or not self._process.is_alive():
            self._start()
        watch = threading.Timer(self._timeout, give_up)
        watch.start()
        try:
            assert self._pipe is not None
            self._pipe.send(question)
            is_answer, answer = self._pipe.recv()
        except (OSError, EOFError) as error:
            code = self._stop()
            why = (
                f"took longer than {self._timeout:g} s"
                if late.is_set()
                else f"ended with {_words(code)}"
            )
            raise WorkerError(
                f"the model process {why} while it was asked to {question[0]}; the next question "
                "starts it again"
            ) from error
        except BaseException:  # interrupted half way: the next answer would be this one's
            self._stop()
            raise
        finally:
            watch.cancel()
            watch.join()
        if not is_answer:
            raise WorkerError(str(answer))
        return answer

    def _start(self) -> None:
        self._stop()
        context = multiprocessing.get_context(
            "spawn"
        )  # fork would copy the web server's threads and locks
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, self._threads), name="model worker", daemon=True
        )
        try:
            self._process.start()
        except OSError as error:
            self._pipe.close()
            self._process = self._pipe = None
            raise WorkerError(
                f"the model process could not be started: {error}; free memory or processes and "
                "try again"
            ) from error
        finally:
            theirs.close()  # so that a child's end is seen as the end of the pipe

    def _stop(self) -> int | None:
        code = None
        if self._process is not None:
            self._process.kill()
            self._process.join()
            code = self._process.exitcode
            with suppress(
                ValueError
            ):  # somebody else waited for it: all that can be known is that the pipe is broken
                self._process.close()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None
        self._has_model = False
        return code


def _words(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        with suppress(ValueError):
            return f"signal {signal.Signals(-exit_code).name}"
    return f"code {exit_code}"


def _serve(pipe: Connection, threads: int) -> None:
    """Run the child: answer until told to end or the parent is gone."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole group; the parent says when to end
    import torch  # noqa: PLC0415  (here and nowhere in the parent)

    from twin.review.image_model import ImageModel  # noqa: PLC0415

    torch.set_num_threads(threads)
    looker: ImageModel | None = None
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while (question := pipe.recv()) is not None:
            verb, *rest = question
            try:
                if verb == "load":
                    looker = ImageModel(Path(rest[0]))
                    answer: Any = looker.facts
                else:
                    answer = getattr(looker, verb)(*rest)
            except (
                Exception
            ) as error:  # told to the parent: a bad question must not end the process
                pipe.send((False, str(error) or type(error).__name__))
            else:
                pipe.send((True, answer))
