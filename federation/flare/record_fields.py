"""Dataclass fields as plain data and tensors, and back, by their types.

What a field may be: int, float, str, bool, bytes, Tensor, ``Weights``, a dataclass; a tuple or a
mapping by name of such; one of several words; any of them or none. Anything else is a mistake in
our own code and a ``TypeError``. A field whose name ends in ``_id`` is an id.
"""

from collections.abc import Callable, Collection, Mapping, MutableMapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from torch import Tensor

from federation.flare.record_limits import (
    Limits,
    check_float,
    check_id,
    check_int,
    check_keys,
    check_text,
    plain_float,
    refusal,
)
from incremental.head import Weights


@dataclass
class Outgoing:
    """What a message becomes beside its plain data.

    Args:
        digest: Gives the digest of a model's weights.
        omit: Digests of weights that are left out.
        limits: Of the texts.
        tensors: Of the message, by field and name; filled in.
        digests: Of every model's weights in the message, sent or not; filled in.
    """

    digest: Callable[[Weights], str]
    omit: Collection[str]
    limits: Limits
    tensors: dict[str, Tensor] = field(default_factory=dict)
    digests: list[str] = field(default_factory=list)

    def group(self, weights: Weights, at: str) -> dict[str, Any]:
        """Take in the weights of a model, unless they are to be left out or are in already."""
        digest = self.digest(weights)
        sent = digest not in self.omit and digest not in self.digests
        self.digests.append(digest)
        return {"digest": digest, "tensors": self.named(weights, at) if sent else None}

    def named(self, tensors: Mapping[str, Tensor], at: str) -> list[str]:
        """Take in tensors and return their names."""
        for name, value in tensors.items():
            place = f"{at}/{check_text(name, f'{at}: the name of a tensor', self.limits)}"
            if not isinstance(value, Tensor) or place in self.tensors:
                raise refusal(place, type(value).__name__, "a tensor, and each place once")
            self.tensors[place] = value
        return list(tensors)


@dataclass
class Incoming:
    """What a record holds beside its plain data.

    Args:
        digest: Gives the digest of a model's weights.
        groups: Weights that the receiver holds, by digest.
        limits: Of lists and texts.
        tensors: Of the record, by field and name; what is read is taken out.
        received: Weights that came with the record, by digest; filled in.
        missing: Digests of weights that neither came nor are held; filled in.
    """

    digest: Callable[[Weights], str]
    groups: MutableMapping[str, Weights]
    limits: Limits
    tensors: dict[str, Tensor]
    received: dict[str, Weights] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def group(self, plain: Any, at: str) -> Weights:
        """Return the weights of a model.

        Those that came, which must have their digest, or those that are held.
        """
        plain = check_keys(plain, ("digest", "tensors"), at)
        digest = check_text(plain["digest"], f"{at}.digest", self.limits)
        if plain["tensors"] is not None:
            weights = self.named(plain["tensors"], at)
            if self.digest(weights) != digest:
                raise refusal(
                    at, "weights of another digest than is said", "the weights that were sent"
                )
            self.received[digest] = weights
        elif digest in self.received:
            weights = self.received[digest]
        elif digest in self.groups:
            weights = self.groups[digest]
        else:
            self.missing.append(digest)
            weights = {}
        return dict(weights)

    def named(self, plain: Any, at: str) -> dict[str, Tensor]:
        """Return the tensors of these names."""
        found: dict[str, Tensor] = {}
        for each in self.items(plain, at):
            name = check_text(each, f"{at}: the name of a tensor", self.limits)
            if f"{at}/{name}" not in self.tensors:
                raise refusal(
                    f"{at}/{name}",
                    "not in the block of tensors, or asked for twice",
                    "each named tensor once",
                )
            found[name] = self.tensors.pop(f"{at}/{name}")
        return found

    def only(self, plain: Any, at: str) -> Tensor:
        """Return the one tensor of a field that holds one."""
        tensors = self.named(plain, at)
        if list(tensors) != [""]:
            raise refusal(at, f"{len(tensors)} tensors", "one, without a name")
        return tensors[""]

    def items(self, plain: Any, at: str) -> list[Any]:
        """Return a list that is not too long."""
        if not isinstance(plain, list) or len(plain) > self.limits.items:
            got = f"a list of {len(plain)}" if isinstance(plain, list) else type(plain).__name__
            raise refusal(at, got, f"a list of at most {self.limits.items}")
        return plain


def write(value: Any, hint: Any, at: str, out: Outgoing) -> Any:
    """Return the plain data of a field.

    Args:
        value: What it holds.
        hint: Its type.
        at: Where it stands, in dots.
        out: Takes its tensors.

    Raises:
        RecordError: If the value is not what the type says, or may not be in a record.
    """
    kind, inner = _parts(hint)
    if kind in _HOLDERS and not isinstance(value, _HOLDERS[kind]):
        raise refusal(at, type(value).__name__, str(hint))
    match kind:
        case "optional":
            return None if value is None else write(value, inner[0], at, out)
        case "group":
            return out.group(value, at)
        case "tensors":
            return out.named(value, at)
        case "tensor":
            return out.named({"": value}, at)
        case "bytes":
            return check_text(value.hex(), at, out.limits)
        case "mapping":
            return {
                check_text(name, at, out.limits): write(each, inner[0], f"{at}.{name}", out)
                for name, each in value.items()
            }
        case "tuple":
            hints = _each(inner, len(value), at)
            return [
                write(each, hint, f"{at}[{index}]", out)
                for index, (each, hint) in enumerate(zip(value, hints, strict=True))
            ]
        case "record":
            hints_by_name = hints_of(inner[0])
            if type(value) is not inner[0]:
                raise refusal(at, type(value).__name__, inner[0].__name__)
            return {
                name: write(getattr(value, name), each, f"{at}.{name}", out)
                for name, each in hints_by_name.items()
            }
        case "float":
            return plain_float(value, at)
    return _simple(value, kind, inner, at, out.limits)


def read(plain: Any, hint: Any, at: str, source: Incoming) -> Any:
    """Return what a field held.

    Args:
        plain: Its plain data.
        hint: Its type.
        at: Where it stands, in dots.
        source: Gives its tensors.

    Raises:
        RecordError: If the data are not those of the type.
    """
    kind, inner = _parts(hint)
    match kind:
        case "optional":
            return None if plain is None else read(plain, inner[0], at, source)
        case "group":
            return source.group(plain, at)
        case "tensors":
            return source.named(plain, at)
        case "tensor":
            return source.only(plain, at)
        case "bytes":
            return _bytes(check_text(plain, at, source.limits), at)
        case "mapping":
            named = _object(plain, at)
            names = [check_text(name, at, source.limits) for name in source.items(list(named), at)]
            return {name: read(named[name], inner[0], f"{at}.{name}", source) for name in names}
        case "tuple":
            hints = _each(inner, len(source.items(plain, at)), at)
            return tuple(
                read(each, hint, f"{at}[{index}]", source)
                for index, (each, hint) in enumerate(zip(plain, hints, strict=True))
            )
        case "record":
            return _built(inner[0], plain, at, source)
        case "float":
            return check_float(plain, at)
    return _simple(plain, kind, inner, at, source.limits)


@cache
def hints_of(kind: Any) -> dict[str, Any]:
    """Return the types of a dataclass's fields, in their order."""
    hints = get_type_hints(kind)
    return {each.name: hints[each.name] for each in fields(kind)}


_HOLDERS: dict[str, Any] = {
    "group": Mapping,
    "tensors": Mapping,
    "mapping": Mapping,
    "tuple": tuple,
    "tensor": Tensor,
    "bytes": bytes,
}


@cache
def _parts(hint: Any) -> tuple[str, tuple[Any, ...]]:
    """Return what a type is and what is inside it."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint == Weights:
        return "group", ()
    if origin in (Union, UnionType) and len(inner) == 2 and NoneType in inner:
        return "optional", tuple(each for each in inner if each is not NoneType)
    if origin in (dict, Mapping) and inner[0] is str:
        return ("tensors", ()) if inner[1] is Tensor else ("mapping", inner[1:])
    if origin is tuple:
        return "tuple", inner
    if origin is Literal:
        return "words", inner
    if hint is Tensor or hint in (int, float, str, bool, bytes):
        return hint.__name__.lower(), ()
    if isinstance(hint, type) and is_dataclass(hint):
        return "record", (hint,)
    raise TypeError(
        f"{hint} is not a type that a record can hold; give the message a field of another type"
    )


def _each(inner: tuple[Any, ...], length: int, at: str) -> tuple[Any, ...]:
    """Return the type of each item of a tuple."""
    if len(inner) == 2 and inner[1] is Ellipsis:
        return inner[:1] * length
    if len(inner) != length:
        raise refusal(at, f"{length} items", str(len(inner)))
    return inner


def _simple(value: Any, kind: str, words: tuple[Any, ...], at: str, limits: Limits) -> Any:
    """Return a value that is the same in JSON, if it is what it must be."""
    match kind:
        case "int":
            return check_int(value, at)
        case "str":
            return (
                check_id(value, at, limits) if at.endswith("_id") else check_text(value, at, limits)
            )
        case "bool":
            words = (True, False)
    if not any(type(value) is type(each) and value == each for each in words):
        raise refusal(at, value, ", ".join(map(str, words)))
    return value


def _bytes(plain: str, at: str) -> bytes:
    """Return the bytes of pairs of digits: keys and signatures, so nothing of them is shown."""
    try:
        value = bytes.fromhex(plain)
    except ValueError:
        value = None
    if value is None or value.hex() != plain:
        raise refusal(at, f"{len(plain)} characters", "bytes as pairs of the digits 0 to f")
    return value


def _object(plain: Any, at: str) -> dict[str, Any]:
    if not isinstance(plain, dict):
        raise refusal(at, type(plain).__name__, "an object")
    return plain


def _built(kind: Any, plain: Any, at: str, source: Incoming) -> Any:
    hints = hints_of(kind)
    plain = check_keys(plain, tuple(hints), at)
    values = {name: read(plain[name], hint, f"{at}.{name}", source) for name, hint in hints.items()}
    try:
        return kind(**values)
    except (ValueError, TypeError, ArithmeticError) as error:  # what the dataclass itself checks
        raise refusal(
            at, f"refused ({type(error).__name__})", f"what {kind.__name__} allows"
        ) from error
