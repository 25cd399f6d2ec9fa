# SPDX-License-Identifier: Apache-2.0
"""What `run` is told of those who ask the agent in, services that answer them out: its own clients, Tetragon's and KubeArmor's.

Each service is imported when it is asked for: most agents have none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from bpfence.agent.loading import Options
from bpfence.errors import UsageError
from bpfence.outputs.forms import Form
from bpfence.services.requests import SOCKET as CONTROL_SOCKET

if TYPE_CHECKING:
    from bpfence.dialects.kubearmor.throttle import Throttle
    from bpfence.dialects.tetragon.export import Export
    from bpfence.services.control import ControlService
    from bpfence.services.kubearmor import KubeArmorService
    from bpfence.services.tetragon import TetragonService


def export_options(command: Callable[..., int]) -> Callable[..., int]:
    """What Tetragon's form leaves out, as one argument `export`; None: nothing."""

    @wraps(command)
    def gathered(**given: Any) -> int:
        asked = {name: given.pop(f"export_{name}") for name in _EXPORT}
        shown = "tetragon" in (given["form_name"], *given["outputs"])
        return command(export=_export(asked, shown, given["tetragon_socket"] is not None), **given)

    made: Callable[..., int] = gathered
    for name, (option, words) in reversed(_EXPORT.items()):
        made = click.option(option, f"export_{name}", metavar="JSON", default="", help=f"{words} JSON lines, or @FILE.")(made)
    return made


_EXPORT: Final = {
    "allow": ("--export-allowlist", "Of --format tetragon, only the events that these filters of Tetragon's let through."),
    "deny": ("--export-denylist", "All but those."),
    "fields": ("--export-fields", "Members of these events to show or leave out (Tetragon's field filters)."),
    "redact": ("--export-redact", "Parts of command lines to hide (Tetragon's redaction filters)."),
}


def _export(asked: Mapping[str, str], shown: bool, answers: bool) -> Export | None:
    """`shown`: an output has Tetragon's form; `answers`: clients of Tetragon are answered, from whom the same is hidden."""
    if not any(asked.values()):
        return None
    from bpfence.dialects.tetragon.export import Export

    if not shown and (not answers or any(text for name, text in asked.items() if name != "redact")):
        raise UsageError("--export-allowlist and its kin are about Tetragon's form: add --format tetragon")
    texts = {}
    for name, text in asked.items():
        try:
            texts[name] = Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text
        except (OSError, ValueError) as error:
            raise UsageError(f"{_EXPORT[name][0]}: {text[1:]} cannot be read: {error}") from None
    return Export(**texts)


def tetragon_service(path: Path, group: str | None, report: Callable[[str], None], export: Export | None = None) -> TetragonService:
    """What `run --tetragon-socket` answers with."""
    from bpfence.cli.main import version_text
    from bpfence.dialects.tetragon.show import line_as_json
    from bpfence.rpc.server import UnixServer
    from bpfence.services.tetragon import TetragonService

    form = line_as_json if export is None else export.clients
    return TetragonService(UnixServer(path.absolute(), group), report, version_text(), form=form)


def kubearmor_service(place: str, group: str | None, report: Callable[[str], None], *, anywhere: bool) -> KubeArmorService:
    """What `run --kubearmor-service` answers with. UsageError where that is no place."""
    from bpfence.host.sockets import address
    from bpfence.rpc.server import Server, TcpServer, UnixServer
    from bpfence.services.kubearmor import KubeArmorService

    if place.startswith("unix:"):
        server: Server = UnixServer(Path(place.removeprefix("unix:")).absolute(), group)
    else:
        if group is not None:
            raise UsageError("--kubearmor-group is about a unix socket: --kubearmor-service unix:PATH")
        why = "anybody who reaches it reads all alerts"
        found, port = address("--kubearmor-service", place, why, anywhere=anywhere, port=32767)
        server = TcpServer(str(found), port)
    return KubeArmorService(server, report)


def throttled(
    options: Options, forms: dict[str, Callable[[], Form]], watched: KubeArmorService | None, report: Callable[[str], None]
) -> list[Throttle]:
    """Have alerts in KubeArmor's form throttled, of each output by itself, where that is asked for. What throttles them; it is to be
    finished when all is over."""
    asked = getattr(options.get("kubearmor"), "throttling", None)
    if asked is None:
        return []
    from bpfence.dialects.kubearmor.throttle import Throttle, ThrottledForm

    made: list[Throttle] = []

    def form() -> Form:
        made.append(Throttle(asked, report))
        return ThrottledForm(made[-1])

    forms["kubearmor"] = form
    if watched is not None:
        watched.throttle(form())
    return made


def control_options(command: Callable[..., int]) -> Callable[..., int]:
    """What `run` says of its control socket, as one argument `control`: what makes the service, given a `report`; None: there is none."""

    @wraps(command)
    def gathered(**given: Any) -> int:
        path, group, users = (given.pop(f"control_{name}") for name in ("socket", "group", "users"))
        if path is None and (group is not None or users):
            raise UsageError(f"--control-{'group' if group is not None else 'user'} is about a socket: add --control-socket")
        if users and group is None:
            raise UsageError("--control-user is about users of a group, and without one nobody but root can connect: add --control-group")
        return command(control=partial(_control_service, path, group, users) if path is not None else None, **given)

    made: Callable[..., int] = gathered
    for option in (
        click.option(
            "--control-user",
            "control_users",
            metavar="USER",
            multiple=True,
            help="Who may change policies there beside root; has to be of that group. Repeatable.",
        ),
        click.option("--control-group", metavar="GROUP", help="Who may connect there beside root, to look: events, policies, counts."),
        click.option(
            "--control-socket",
            type=click.Path(path_type=Path, dir_okay=False),
            is_flag=False,
            flag_value=str(CONTROL_SOCKET),
            metavar="[PATH]",
            help="Answer `bpfence events --follow`, `policy`, `top` and `status` at this unix socket; without PATH at "
            + str(CONTROL_SOCKET)
            + ".",
        ),
    ):
        made = option(made)
    return made


def _control_service(path: Path, group: str | None, users: tuple[str, ...], report: Callable[[str], None]) -> ControlService:
    from bpfence.cli.main import version_text
    from bpfence.host.sockets import number_of_user
    from bpfence.rpc.lines import LineServer
    from bpfence.services.control import ControlService

    server = LineServer(path.absolute(), group, report)
    return ControlService(server, report, version_text(), users=[number_of_user(user) for user in users])
