"""Records: messages as bytes that cross a network, and back, without pickle.

A record is: magic, version, length of the header (14 bytes, little-endian) · a JSON header with the
kind and the plain fields · one safetensors block. It is read as if somebody hostile had written it:
every bound is checked before memory is taken, and whatever is wrong is a ``RecordError``. A changed
format needs another ``RECORD_VERSION``: nobody guesses what an older program meant.

A method travels as its name and hyper-parameters; both sides have its code. A compressed update
travels without its weights, which the receiver unpacks with the weights that it broadcast.
"""

import json
import struct
from collections.abc import Callable, Collection, MutableMapping
from dataclasses import replace
from typing import Any, TypeVar

from federation.flare.link_messages import Assignment, Fault, Hello, Lacking, StateLost
from federation.flare.record_fields import Incoming, Outgoing, read, write
from federation.flare.record_limits import (
    DEFAULT_LIMITS,
    Limits,
    RecordError,
    check_keys,
    parse_json,
    refusal,
)
from federation.flare.tensor_block import pieces
from federation.flare.tensor_block import read as read_tensors
from federation.flare.weight_cache import MissingGroups, digest_of
from federation.method import Method
from federation.methods import METHODS
from incremental.head import Weights
from twin.messages import Broadcast, GlobalModel, Observation, TwinUpdate
from twin.secure_sum.mask_messages import Masked, OpenReply, OpenRequest, Roster, Sealed

__all__ = [
    "KINDS",
    "RECORD_VERSION",
    "Limits",
    "MissingGroups",
    "RecordError",
    "decode",
    "decode_method",
    "digests",
    "encode",
    "kind_of",
]

RECORD_VERSION = 2
MAGIC = b"FEDKA\r\n\0"  # a line end that a text mode would change
_START = struct.Struct("<8sHI")

KINDS: dict[str, type[Any]] = {
    "global_model": GlobalModel,
    "observation": Observation,
    "broadcast": Broadcast,
    "twin_update": TwinUpdate,
    "sealed": Sealed,
    "roster": Roster,
    "masked": Masked,
    "opening": OpenRequest,
    "opened": OpenReply,
    "assignment": Assignment,
    "hello": Hello,
    "lacking": Lacking,
    "fault": Fault,
    "state_lost": StateLost,
    **{f"method/{name}": kind for name, kind in METHODS.items()},
}
"""What crosses the network; one line for each message."""

_NAMES = {kind: name for name, kind in KINDS.items()}
M = TypeVar("M")


def encode(
    message: Any,
    omit: Collection[str] = (),
    digest: Callable[[Weights], str] = digest_of,
    limits: Limits = DEFAULT_LIMITS,
) -> bytes:
    """Return a message as a record.

    Args:
        message: Of one of the ``KINDS``.
        omit: Digests of models' weights that the receiver holds and that are left out.
        digest: Gives the digest of weights; ``KnownDigests`` spares the work where many are sent
            the same.
        limits: What the receiver allows.

    Raises:
        RecordError: If the message holds what no record may.
    """
    plain, out = _taken_apart(message, omit, digest, limits)
    header = json.dumps(
        {"kind": _NAMES[type(message)], "message": plain},
        ensure_ascii=False,
        allow_nan=False,
        separators=(",", ":"),
    )
    raw = header.encode()
    block = pieces(out.tensors)
    size = _START.size + len(raw) + sum(map(len, block))
    if (
        size > limits.record_bytes
        or max(len(raw), len(block[1])) > limits.header_bytes
        or len(out.tensors) > limits.tensors
    ):
        got = (
            f"{size} bytes with headers of {len(raw)} and {len(block[1])} bytes and "
            f"{len(out.tensors)} tensors"
        )
        raise refusal(
            f"the record of a {_NAMES[type(message)]}",
            got,
            _allowance(limits),
            "raise the limits on both sides",
        )
    return b"".join([_START.pack(MAGIC, RECORD_VERSION, len(raw)), raw, *block])


def decode(
    kind: type[M],
    content: bytes,
    groups: MutableMapping[str, Weights] | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> M:
    """Return the message of a record.

    Args:
        kind: What it must be.
        content: The record.
        groups: Models' weights that the receiver holds, by digest; those that come with the record
            are added. None: nothing is held and nothing may be left out.
        limits: What a record may hold at most.

    Raises:
        RecordError: If it is not a whole record of that kind.
        MissingGroups: If it leaves out weights that are not held.
    """
    name, plain, block = _opened(content, limits)
    if KINDS[name] is not kind:
        raise refusal(
            "the record",
            f"a {name}",
            f"a {_NAMES[kind]}",
            "check who sends what at this point of the round",
        )
    return _put_together(kind, plain, block, groups, limits)


def kind_of(content: bytes, limits: Limits = DEFAULT_LIMITS) -> type[Any]:
    """Return what a record is, for a receiver to whom several answers may come.

    Raises:
        RecordError: If it is no record.
    """
    return KINDS[_opened(content, limits)[0]]


def decode_method(content: bytes, limits: Limits = DEFAULT_LIMITS) -> Method:
    """Return the method of a record that ``encode`` wrote.

    Raises:
        RecordError: If it is not the whole record of a method that is known here.
    """
    name, plain, block = _opened(content, limits)
    if not issubclass(KINDS[name], Method):
        raise refusal(
            "the record", f"a {name}", "a method", "check who sends what at this point of the round"
        )
    method: Method = _put_together(KINDS[name], plain, block, None, limits)
    return method


def digests(message: Any, digest: Callable[[Weights], str] = digest_of) -> tuple[str, ...]:
    """Return the digest of every model's weights in a message."""
    return tuple(dict.fromkeys(_taken_apart(message, (), digest, DEFAULT_LIMITS)[1].digests))


def _taken_apart(
    message: Any, omit: Collection[str], digest: Callable[[Weights], str], limits: Limits
) -> tuple[Any, Outgoing]:
    if type(message) not in _NAMES:
        raise refusal(
            "the message", type(message).__name__, f"one of {', '.join(KINDS)}", "add it to KINDS"
        )
    out = Outgoing(digest, omit, limits)
    return write(_as_sent(message), type(message), _NAMES[type(message)], out), out


def _as_sent(message: Any) -> Any:
    """Return the message as it travels.

    An update that is packed leaves its weights to the receiver.
    """
    return (
        replace(message, weights={})
        if isinstance(message, TwinUpdate) and message.packed is not None
        else message
    )


def _opened(content: bytes, limits: Limits) -> tuple[str, Any, memoryview]:
    """Return the kind of a record, its plain data and its block of tensors."""
    if not isinstance(content, bytes) or not content.startswith(MAGIC):
        begin = content[: len(MAGIC)] if isinstance(content, bytes) else type(content).__name__
        raise refusal(
            "the record",
            f"{begin!r}...",
            f"bytes that begin with {MAGIC!r}",
            "nothing else is opened here, pickle least of all",
        )
    if not _START.size <= len(content) <= limits.record_bytes:
        raise refusal("the record", f"{len(content)} bytes", _allowance(limits))
    _, version, length = _START.unpack_from(content)
    if version != RECORD_VERSION:
        raise refusal(
            "the record's version",
            version,
            str(RECORD_VERSION),
            "install the same version of fedka on server and hospitals",
        )
    view = memoryview(content)[_START.size :]
    if length > min(limits.header_bytes, len(view)):
        raise refusal(
            "the header of the record",
            f"{length} bytes",
            f"at most {limits.header_bytes}, and no more than there are",
        )
    header = check_keys(
        parse_json(bytes(view[:length]), "the header of the record"),
        ("kind", "message"),
        "the header of the record",
    )
    name = header["kind"]
    if not isinstance(name, str) or name not in KINDS:
        raise refusal(
            "the record's kind",
            name,
            ", ".join(KINDS),
            "install the same version of fedka on server and hospitals",
        )
    return name, header["message"], view[length:]


def _put_together(
    kind: type[M],
    plain: Any,
    block: memoryview,
    groups: MutableMapping[str, Weights] | None,
    limits: Limits,
) -> M:
    held: MutableMapping[str, Weights] = {} if groups is None else groups
    source = Incoming(digest_of, held, limits, read_tensors(block, limits))
    message: M = read(plain, kind, _NAMES[kind], source)
    if source.tensors:
        raise refusal(
            "the block of tensors",
            f"{len(source.tensors)} tensors too much",
            "those that the header names",
        )
    if source.missing and groups is None:
        raise refusal(
            f"the record of a {_NAMES[kind]}",
            "without its weights",
            "a record with them, as the sender was told of none",
        )
    if source.missing:
        raise MissingGroups(tuple(dict.fromkeys(source.missing)))
    held.update(source.received)
    return message


def _allowance(limits: Limits) -> str:
    return (
        f"at least {_START.size} and at most {limits.record_bytes} bytes, headers of at most "
        f"{limits.header_bytes} bytes, "
        f"at most {limits.tensors} tensors"
    )
