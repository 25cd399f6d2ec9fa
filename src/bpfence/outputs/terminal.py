# SPDX-License-Identifier: Apache-2.0
"""A line in, what people see of it out.

Shown where standard output is a terminal. One line an alert, one dimmed line of who did it. Strings were escaped when
the line was composed, and are added as plain text: neither control characters nor rich's own markup of a hostile name have an effect.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.text import Text

from bpfence.alerts.alert import Alert, Line, LossLine, StatusLine, WholeLine, whole

SEVERITY_STYLES: Final = {"info": "cyan", "low": "blue", "medium": "yellow", "high": "bold red", "critical": "bold white on red"}
ACTION_STYLES: Final = {"deny": "red", "kill": "bold red", "audit": "yellow"}
MAX_ARGS: Final = 160


class People:
    """The form `rich`: a compact view of alerts, in the colours that the terminal of the environment has."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(
            file=io.StringIO(), force_terminal=True, legacy_windows=False, highlight=False, markup=False, emoji=False
        )

    def __call__(self, line: Line) -> bytes:
        """One line as text, which may be two."""
        with self._console.capture() as shown:
            self._console.print(render(whole(line)), soft_wrap=True, end="")
        return shown.get().encode()


def render(line: WholeLine) -> Text:
    """A line as styled text."""
    match line:
        case Alert():
            return _alert(line)
        case LossLine():
            return _note(line.time, "LOSS", "bold magenta", line.message)
        case StatusLine():
            return _note(line.time, line.status, SEVERITY_STYLES.get(line.severity, "cyan"), line.message)


def _clock(moment: str) -> str:
    return moment[11:23]


def _note(moment: str, word: str, style: str, text: str) -> Text:
    return Text.assemble((_clock(moment), "dim"), " ", (word, style), " ", text)


def _alert(alert: Alert) -> Text:
    word, name, action = alert.severity, f"{alert.policy or '-'}/{alert.rule or '-'}", alert.action
    if alert.dialect is not msgspec.UNSET:
        # A rule of another language as its users know it: by its name and that language's word for its urgency.
        (own,) = alert.dialect.values()
        word, name = str(own.get("priority", word)), str(alert.rule)
    text = Text.assemble(
        (_clock(alert.time), "dim"),
        " ",
        (f"{word:<8}", SEVERITY_STYLES.get(alert.severity, "")),
        " ",
        (f"{action:<5}", ACTION_STYLES.get(action, "")),
        " ",
        (name, "bold"),
        "  ",
        alert.message,
    )
    if alert.would is not msgspec.UNSET:
        text.append(f" (would {alert.would})", "yellow")
    if alert.uncertain is not msgspec.UNSET:
        causes = alert.causes if alert.causes is not msgspec.UNSET else ()
        text.append(f" (uncertain: {', '.join(causes)})" if causes else " (uncertain)", "magenta")
    process = alert.process if isinstance(alert.process, Mapping) else msgspec.to_builtins(alert.process)
    if process:
        text.append(f"\n             {_who(process)}", "dim")
    return text


def _who(process: Mapping[str, Any]) -> str:
    words = " ".join(process.get("args") or [])
    words = words if len(words) <= MAX_ARGS else words[:MAX_ARGS] + "…"
    parents = " ← ".join(str(ancestor.get("exe")) for ancestor in (process.get("ancestors") or [])[:4])
    who = f"pid {process.get('pid')} uid {process.get('uid')} {process.get('exe') or process.get('name')}"
    return who + (f" [{words}]" if words else "") + (f" ← {parents}" if parents else "")
