# SPDX-License-Identifier: Apache-2.0
"""What is made of what `run` is told of services. That they answer is shown by test_host."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bpfence.cli.services import control_options, export_options, kubearmor_service, tetragon_service, throttled
from bpfence.dialects.kubearmor.dialect import KUBEARMOR
from bpfence.errors import UsageError
from bpfence.outputs.forms import FORMS, Form
from bpfence.rpc.server import TcpServer, UnixServer
from bpfence.services.control import ControlService


def test_places_of_kubearmors_clients(tmp_path: Path) -> None:
    unix = kubearmor_service(f"unix:{tmp_path}/a/sock", None, print, anywhere=False)._server
    assert isinstance(unix, UnixServer)
    assert unix.path == tmp_path / "a" / "sock"
    tcp = kubearmor_service("0.0.0.0:32767", None, print, anywhere=True)._server
    assert isinstance(tcp, TcpServer)
    assert (tcp.host, tcp.port) == ("0.0.0.0", 32767)
    with pytest.raises(UsageError, match="reached from other machines"):
        kubearmor_service("0.0.0.0:32767", None, print, anywhere=False)
    with pytest.raises(UsageError, match="about a unix socket"):
        kubearmor_service("127.0.0.1:32767", "daemon", print, anywhere=False)


def test_clients_of_tetragon_see_no_more_than_its_form(tmp_path: Path) -> None:
    asked: list[object] = []

    @export_options
    def command(**given: object) -> int:
        asked.append(given["export"])
        return 0

    def called(**more: str) -> object:
        none = {f"export_{name}": "" for name in ("allow", "deny", "fields", "redact")}
        command(**{**none, **more}, form_name="tetragon", outputs=(), tetragon_socket=None)
        return asked.pop()

    assert called() is None
    export = called(export_redact='{"redact": ["(secret)"]}')
    service = tetragon_service(tmp_path / "sock", None, print, export)  # type: ignore[arg-type]
    assert service._form == export.clients  # type: ignore[attr-defined]


@pytest.mark.parametrize(("on", "throttles"), [("off", 0), ("on", 1)])
def test_each_output_is_throttled_by_itself(on: str, throttles: int) -> None:
    named = {option.member: option.default for option in KUBEARMOR.options} | {"throttling": on}
    options = {"kubearmor": KUBEARMOR.choose(named)}
    forms: dict[str, Callable[[], Form]] = dict(FORMS)
    made = throttled(options, forms, None, print)
    assert made == []
    assert (forms["kubearmor"] is FORMS["kubearmor"]) is (not throttles)
    if throttles:
        assert forms["kubearmor"]() is not forms["kubearmor"]()
        assert len(made) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), None),
        (("--control-socket", "{}/sock"), ""),
        (("--control-group", "daemon"), "add --control-socket"),
        (("--control-socket", "{}/sock", "--control-user", "root"), "add --control-group"),
    ],
)
def test_the_control_socket_is_there_where_it_is_asked_for(tmp_path: Path, words: tuple[str, ...], said: str | None) -> None:
    made: list[object] = []

    @click.command()
    @control_options
    def command(control: Callable[[Callable[[str], None]], ControlService] | None) -> int:
        made.append(control(print) if control is not None else None)
        return 0

    result = CliRunner().invoke(command, [word.format(tmp_path) for word in words])
    if said:
        assert isinstance(result.exception, UsageError)
        assert said in str(result.exception)
    else:
        assert isinstance(made[0], ControlService) is (said is not None)
