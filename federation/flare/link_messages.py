"""Messages about the link itself: greetings, lacking weights and faults."""

from dataclasses import dataclass
from os import strerror
from traceback import walk_tb

from twin.config import TwinSetting

OURS = ("federation", "twin", "physical", "incremental")
_LONGEST_CHAIN = 4


@dataclass(frozen=True)
class Assignment:
    """Down, at the beginning of a session: the run that the hospital takes part in.

    Args:
        run_id: Of the run; its twin's state is kept under this name.
        setting: What all twins share.
        threads: Of one training: sums in another order differ in the last bit.
    """

    run_id: str
    setting: TwinSetting
    threads: int


@dataclass(frozen=True)
class Hello:
    """Up, when a hospital comes, and whenever the server asks.

    Args:
        hospital_id: Who.
        record_version: Of the records that it reads and writes.
        code_version: Of fedka.
        torch_version: Of torch: another one may add in another order.
        last_round: Last round that its twin finished; -1 before the first.
        class_names: Of the model that its twin received last.
        groups: Digests of the weights that it holds.
    """

    hospital_id: str
    record_version: int
    code_version: str
    torch_version: str
    last_round: int = -1
    class_names: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lacking:
    """Up, instead of an answer: weights that the record left out are not held here.

    Send it again with them.

    Args:
        hospital_id: Where.
        digests: Of the weights.
    """

    hospital_id: str
    digests: tuple[str, ...]


@dataclass(frozen=True)
class Fault:
    """Up, instead of an answer: something was raised inside a hospital.

    Args:
        hospital_id: Where.
        stage: Of the round, such as ``observe`` or ``train``.
        round: When; -1 where it is not known.
        text: What, as ``describe`` says it: nothing of a patient.
    """

    hospital_id: str
    stage: str
    round: int
    text: str


@dataclass(frozen=True)
class StateLost:
    """Up, instead of an observation: what the twin wrote in a round is damaged.

    When that round is repeated, nothing is lost.

    Args:
        hospital_id: Where.
        round: The first one that must be repeated.
    """

    hospital_id: str
    round: int


def describe(error: BaseException) -> str:
    """Return what was raised and where, without the error's own words.

    Those may hold a file's name, and so a patient's.

    What an operating system's number means is said, as it names no file: a full disk is worth
    knowing.
    """
    said: list[str] = []
    link: BaseException | None = error
    while link is not None and len(said) < _LONGEST_CHAIN:
        said.append(_describe_one(link))
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return ", after ".join(said)


def _describe_one(error: BaseException) -> str:
    kind = type(error).__name__[:60]
    meaning = (
        f" ({strerror(error.errno)})"
        if isinstance(error, OSError) and isinstance(error.errno, int)
        else ""
    )
    frames = [
        (frame.f_globals.get("__name__", ""), line) for frame, line in walk_tb(error.__traceback__)
    ]
    ours = [f"{name}:{line}" for name, line in frames if name.partition(".")[0] in OURS]
    return f"{kind}{meaning}{f' at {ours[-1]}' if ours else ''}"
