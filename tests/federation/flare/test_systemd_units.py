"""systemd's units: each is closed to what it does not need and comes back after a fault.

Systemd finds nothing wrong with them.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from federation.flare.systemd import HOME, PROGRAM, UNITS


def sections(unit: str) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for line in unit.splitlines():
        if line.startswith("["):
            section = found.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            key, equals, value = line.partition("=")
            assert equals, line
            section.append((key, value))
    return found


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_is_closed_and_comes_back(name: str) -> None:
    service = sections(UNITS[name])["Service"]
    keys = [key for key, _ in service]
    said = dict(service)
    assert len(set(keys)) == len(keys)
    assert said["Restart"] == ("on-failure" if name == "fedka-run.service" else "always")
    assert (said["NoNewPrivileges"], said["ProtectSystem"], said["PrivateTmp"]) == (
        "yes",
        "strict",
        "yes",
    )
    assert all(each.startswith(HOME + "/") for each in said["ReadWritePaths"].split())
    assert (
        said["User"] == "fedka"
        and said["CapabilityBoundingSet"] == ""
        and said["ExecStart"].startswith(PROGRAM)
    )


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd is not on this machine"
)
def test_systemd_finds_nothing_wrong_with_the_units(out: Path, tmp_path: Path) -> None:
    paths = []
    for path in (out / "systemd").iterdir():
        instance = tmp_path / path.name.replace("@.", "@north.")
        instance.write_text(path.read_text().replace(PROGRAM, sys.executable))
        paths.append(str(instance))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *paths],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0 and not done.stderr.strip(), done.stderr
