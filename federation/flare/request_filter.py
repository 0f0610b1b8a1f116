"""Request filter: what FLARE at a site refuses, whoever asks.

FLARE's client answers its server's administrative requests: among others it runs ``cat`` with any
path, and its check of roles is made at the server's wish, with a role that the server names. A
hospital does not trust its server that far: here requests are taken out that running a job does not
need, and an application that brings anything but its one configuration is refused.
"""

from pathlib import Path

from nvflare.apis.app_validation import AppValidator
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_context import FLContext
from nvflare.lighter.tool_consts import NVFLARE_SIG_FILE, NVFLARE_SUBMITTER_CRT_FILE
from nvflare.private.defs import TrainingTopic
from nvflare.private.fed.client.client_req_processors import ClientRequestProcessors

from federation.flare.handshake_timeouts import limit_handshakes

ANSWERED = (
    *(
        TrainingTopic.CHECK_RESOURCE,
        TrainingTopic.CANCEL_RESOURCE,
        TrainingTopic.DEPLOY,
        TrainingTopic.START_JOB,
    ),
    *(
        TrainingTopic.ABORT,
        TrainingTopic.DELETE_RUN,
        TrainingTopic.NOTIFY_JOB_STATUS,
        TrainingTopic.CHECK_STATUS,
    ),
)
_CONFIGURATION = frozenset(("config/config_fed_server.json", "config/config_fed_client.json"))
_SIGNED = frozenset((NVFLARE_SIG_FILE, NVFLARE_SUBMITTER_CRT_FILE))


class ServerGate(FLComponent):  # type: ignore[misc]  # FLARE has no types
    """Keeps a server open to hospitals when strangers connect and say nothing."""

    def __init__(self) -> None:
        super().__init__()
        limit_handshakes()


class HospitalGate(FLComponent):  # type: ignore[misc]  # the base is untyped
    """Leaves a hospital's FLARE the requests that a job's life is made of.

    Before the first can come.
    """

    def __init__(self) -> None:
        super().__init__()
        limit_handshakes()

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Take the others out before FLARE registers with its server."""
        if event_type == EventType.SYSTEM_BOOTSTRAP:
            known = ClientRequestProcessors.request_processors
            known[:] = [each for each in known if set(each.get_topics()) <= set(ANSWERED)]


class OnlyConfiguration(AppValidator):  # type: ignore[misc]  # the base is untyped
    """Refuses an application that brings more than its configuration: no code comes to a site."""

    def validate(self, app_folder: str) -> tuple[str, dict[str, object]]:
        """Return what is wrong, in words, or nothing."""
        folder = Path(app_folder)
        brought = sorted(
            str(path.relative_to(folder))
            for path in folder.rglob("*")
            if not path.is_dir() and path.name not in _SIGNED
        )
        more = [each for each in brought if each not in _CONFIGURATION]
        if (folder / "custom").exists() or more:
            return (
                f"the application brings {', '.join(more[:3])[:200] or 'code'}; allowed here: its "
                "configuration and nothing else",
                {},
            )
        return "", {}
