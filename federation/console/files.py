"""Files of the console: written privately and whole, read as JSON where they hold JSON."""

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

_OWNER_ONLY = 0o600


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(_OWNER_ONLY)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as a private JSON file."""
    write_private(path, json.dumps(value, indent=1).encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file; None if there is no file or no object in it."""
    with suppress(FileNotFoundError):
        return _json_object(path.read_bytes())
    return None


def json_lines(content: bytes) -> list[dict[str, Any]]:
    """Return the objects in lines of JSON; a line that is cut or no object is left out."""
    objects = map(_json_object, content.split(b"\n"))
    return [each for each in objects if each is not None]


def _json_object(text: bytes) -> dict[str, Any] | None:
    with suppress(json.JSONDecodeError):
        plain = json.loads(text)
        return plain if isinstance(plain, dict) else None
    return None
