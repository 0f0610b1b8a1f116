"""systemd units that run a server, its sessions and a hospital."""

PROGRAM = "/opt/fedka/bin/fedka"
HOME = (
    "/var/lib/fedka"  # holds server/ and operator/, or a hospital's kit under the hospital's name
)

_UNIT = """\
# {about}
[Unit]
Description=fedka: {what}
Wants=network-online.target
After=network-online.target{after}
StartLimitIntervalSec=0

[Service]
User=fedka
Group=fedka
UMask=0077
Environment=OMP_NUM_THREADS=1 HOME=/tmp PYTHONDONTWRITEBYTECODE=1
{start}
Restart={restart}
RestartSec=5
TimeoutStopSec=30
KillMode=control-group

# It writes in its own folder and nowhere else, and can become nobody else.
NoNewPrivileges=yes
ProtectSystem=strict
ReadWritePaths={writes}
ProtectHome=yes
PrivateTmp=yes
{devices}
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
SystemCallArchitectures=native
CapabilityBoundingSet=
AmbientCapabilities=

[Install]
WantedBy=multi-user.target
"""
_NO_DEVICES = "PrivateDevices=yes"
_GPU = "# With a GPU: PrivateDevices=no\nPrivateDevices=yes"


def _start(kit: str) -> str:
    return f"ExecStartPre={PROGRAM} deploy check {kit}\nExecStart={PROGRAM} deploy start {kit}"


UNITS = {
    "fedka-server.service": _UNIT.format(
        about=f"The server, with its kit in {HOME}/server: "
        "systemctl enable --now fedka-server fedka-run",
        what="server of the federation",
        after="",
        start=_start(f"{HOME}/server"),
        restart="always",
        writes=f"{HOME}/server",
        devices=_NO_DEVICES,
    ),
    "fedka-run.service": _UNIT.format(
        about=f"Begins the sessions, beside the server, with the operator's kit in "
        f"{HOME}/operator; it ends when the run is finished.",
        what="sessions of the federation",
        after=" fedka-server.service",
        start=f"ExecStart={PROGRAM} deploy run {HOME}",
        restart="on-failure",
        writes=f"{HOME}/server {HOME}/operator",
        devices=_NO_DEVICES,
    ),
    "fedka-hospital@.service": _UNIT.format(
        about=f"A hospital, with its kit in {HOME}/NAME: "
        "systemctl enable --now fedka-hospital@NAME",
        what="hospital %i",
        after="",
        start=_start(f"{HOME}/%i"),
        restart="always",
        writes=f"{HOME}/%i",
        devices=_GPU,
    ),
}
