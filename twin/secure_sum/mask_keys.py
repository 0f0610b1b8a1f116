"""Keys of secure aggregation: mask streams, pairwise secrets and signatures.

X25519, HKDF-SHA256, ChaCha20 and Ed25519 are those of the package cryptography, which is an extra.
Keys and seeds come from the operating system and not from a run's seed: they are secrets, and no
result depends on them.
"""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEY_BYTES = 32
_VERSION = "fedka secure sum 1"
_INSTALL = (
    "secure aggregation needs the package cryptography, which is not installed; install the extra: "
    "pip install 'fedka[flare]'"
)


class MaskingError(ValueError):
    """A request that a hospital refuses, or an update that it cannot mask: what, got, allowed."""


def mask_stream(key: bytes, length: int) -> NDArray[np.uint64]:
    """Return the mask of a key.

    ChaCha20's stream (each key is used once, so the nonce is 0) as unsigned 64-bit integers.

    Args:
        key: 32 bytes.
        length: How many integers.
    """
    try:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms  # noqa: PLC0415
    except ImportError:
        raise MaskingError(_INSTALL) from None
    stream = (
        Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(8 * length))
    )
    return np.frombuffer(stream, "<u8").astype(np.uint64, copy=False)


def new_round_key() -> tuple[Any, bytes]:
    """Return a new X25519 key pair.

    The private half, an object that is never written down, and the public half.
    """
    private_key = _x25519().X25519PrivateKey.generate()
    return private_key, private_key.public_key().public_bytes_raw()


def pair_key(
    private_key: Any, public_key: bytes, round_number: int, digest: str, twin_ids: tuple[str, str]
) -> bytes:
    """Return the key that two hospitals share for one roster.

    HKDF-SHA256 of their X25519 secret, the same for both of them.

    Args:
        private_key: One hospital's.
        public_key: The other's.
        round_number: Of the roster.
        digest: Of the roster.
        twin_ids: Both, in any order.

    Raises:
        MaskingError: If the public key gives no secret.
    """
    x25519 = _x25519()
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415

    try:
        secret = private_key.exchange(x25519.X25519PublicKey.from_public_bytes(public_key))
    except ValueError:
        raise MaskingError(
            f"a key of {' or '.join(twin_ids)} gives no X25519 secret; allowed: {KEY_BYTES} bytes, "
            "no weak point"
        ) from None
    info = encoded("pair", round_number, digest, sorted(twin_ids))
    derived: bytes = HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=info).derive(
        secret
    )
    return derived


def long_term_key() -> tuple[bytes, str]:
    """Return a new long-term key of a hospital.

    The private half to keep, and the public half for the others' ``pinned_keys``.
    """
    private_key = _ed25519().Ed25519PrivateKey.generate()
    return private_key.private_bytes_raw(), private_key.public_key().public_bytes_raw().hex()


def sign(identity: bytes, said: bytes) -> bytes:
    """Return the signature of what was said by a long-term Ed25519 private key."""
    signature: bytes = _ed25519().Ed25519PrivateKey.from_private_bytes(identity).sign(said)
    return signature


def is_signed(pinned: str, signature: bytes, said: bytes) -> bool:
    """Return whether the owner of a long-term public key (hexadecimal) signed what was said."""
    ed25519 = _ed25519()
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415

    try:
        ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(pinned)).verify(signature, said)
    except (InvalidSignature, ValueError):
        return False
    return True


def is_hex_key(text: str) -> bool:
    """Return whether a text is a key in hexadecimal."""
    try:
        return len(bytes.fromhex(text)) == KEY_BYTES
    except ValueError:
        return False


def encoded(*parts: Any) -> bytes:
    """Return plain data as bytes that no other data has.

    They name this protocol and its version.
    """
    return json.dumps([_VERSION, *parts]).encode()


def _x25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import x25519  # noqa: PLC0415
    except ImportError:
        raise MaskingError(_INSTALL) from None
    return x25519


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415
    except ImportError:
        raise MaskingError(_INSTALL) from None
    return ed25519
