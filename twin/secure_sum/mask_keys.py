"""Keys of secure aggregation: mask streams, pairwise secrets and signatures.

X25519, HKDF-SHA256, ChaCha20 and Ed25519 come from the optional package cryptography. Keys and
seeds are drawn by the operating system, as they are secrets; no result depends on them.
"""

import json
from importlib import import_module
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
    """A request that a hospital refuses, or an update that it cannot mask."""


def mask_stream(key: bytes, length: int) -> NDArray[np.uint64]:
    """Return the mask of a key: ChaCha20's stream as 64-bit integers.

    Args:
        key: 32 bytes, used for this mask alone, so that the nonce may be 0.
        length: Number of integers.
    """
    ciphers = _cryptography("ciphers")
    cipher = ciphers.Cipher(ciphers.algorithms.ChaCha20(key, bytes(16)), mode=None)
    stream = cipher.encryptor().update(bytes(8 * length))
    return np.frombuffer(stream, "<u8").astype(np.uint64, copy=False)


def new_round_key() -> tuple[Any, bytes]:
    """Return a new X25519 key pair: the private key, which is never stored, and the public one."""
    private_key = _cryptography("asymmetric.x25519").X25519PrivateKey.generate()
    return private_key, private_key.public_key().public_bytes_raw()


def pair_key(
    private_key: Any, public_key: bytes, round_number: int, digest: str, twin_ids: tuple[str, str]
) -> bytes:
    """Return the key that two hospitals share for one roster: HKDF-SHA256 of their X25519 secret.

    Args:
        private_key: Private key of one hospital.
        public_key: Public key of the other hospital.
        round_number: Round of the roster.
        digest: Digest of the roster.
        twin_ids: Both twins, in any order.

    Raises:
        MaskingError: If the public key gives no secret.
    """
    x25519, hkdf = _cryptography("asymmetric.x25519"), _cryptography("kdf.hkdf")
    try:
        secret = private_key.exchange(x25519.X25519PublicKey.from_public_bytes(public_key))
    except ValueError:
        raise MaskingError(
            f"a key of {' or '.join(twin_ids)} gives no X25519 secret; allowed: {KEY_BYTES} bytes, "
            "no weak point"
        ) from None
    info = canonical_bytes("pair", round_number, digest, sorted(twin_ids))
    sha256 = _cryptography("hashes").SHA256()
    derived: bytes = hkdf.HKDF(algorithm=sha256, length=KEY_BYTES, salt=None, info=info).derive(
        secret
    )
    return derived


def long_term_key() -> tuple[bytes, str]:
    """Return a new long-term key pair: the private key, and the public one for ``pinned_keys``."""
    private_key = _cryptography("asymmetric.ed25519").Ed25519PrivateKey.generate()
    return private_key.private_bytes_raw(), private_key.public_key().public_bytes_raw().hex()


def sign(identity: bytes, message: bytes) -> bytes:
    """Return the signature of a message by a long-term Ed25519 private key."""
    ed25519 = _cryptography("asymmetric.ed25519")
    signature: bytes = ed25519.Ed25519PrivateKey.from_private_bytes(identity).sign(message)
    return signature


def has_valid_signature(pinned: str, signature: bytes, message: bytes) -> bool:
    """Return whether a message is signed by the owner of a long-term public key (hexadecimal)."""
    ed25519 = _cryptography("asymmetric.ed25519")
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415

    try:
        key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(pinned))
        key.verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def is_hex_key(text: str) -> bool:
    """Return whether a text is a key in hexadecimal."""
    try:
        return len(bytes.fromhex(text)) == KEY_BYTES
    except ValueError:
        return False


def canonical_bytes(*parts: Any) -> bytes:
    """Return plain data as JSON, with this protocol's name and version."""
    return json.dumps([_VERSION, *parts]).encode()


def _cryptography(module: str) -> Any:
    try:
        return import_module(f"cryptography.hazmat.primitives.{module}")
    except ImportError:
        raise MaskingError(_INSTALL) from None
