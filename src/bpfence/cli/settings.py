# SPDX-License-Identifier: Apache-2.0
"""The configuration file in, what the options of `bpfence run` are without a word on the command line or in the environment, out.

Its keys are the long options of `run`; values are checked as those of the options, each mistake with its place. Only `output` knows more:
an output may be a map (`outputs.specs`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from bpfence.documents import yaml_nodes, yaml_values
from bpfence.documents.files import read_bytes
from bpfence.documents.json_values import JsonValue
from bpfence.documents.placed import DocumentError
from bpfence.documents.report import Report
from bpfence.documents.yaml_nodes import YamlNode
from bpfence.errors import Diagnostic, PolicyError, UsageError
from bpfence.words import quoted, suggest

CONFIG: Final = Path("/etc/bpfence/bpfence.yaml")
OUTPUT: Final = "output"
_NOT_HERE: Final = frozenset(("config", "help"))


class Setting(NamedTuple):
    """A key of the file: its value as the option has it, and where it stands."""

    value: Any
    node: YamlNode


def options(command: click.Command) -> dict[str, click.Parameter]:
    """The options of a command by the names that the file and the environment have for them."""
    found = {}
    for param in command.params:
        long = [name for name in param.opts if name.startswith("--")]
        if long and long[0][2:] not in _NOT_HERE:
            found[long[0][2:]] = param
    return found


def named_in_environment(command: click.Command) -> None:
    """Has options be taken from BPFENCE_OPTION, too: `--pin-dir` from BPFENCE_PIN_DIR."""
    for name, param in options(command).items():
        param.envvar = param.envvar or f"BPFENCE_{name.upper().replace('-', '_')}"


def read(path: Path, command: click.Command) -> dict[str, Setting]:
    """The settings of a file, by its keys. PolicyError with every mistake."""
    report = Report()
    data = read_bytes(path, report)
    found: dict[str, Setting] = {}
    if data is not None:
        try:
            told: list[Diagnostic] = []
            roots = list(yaml_nodes.documents(yaml_nodes.decode(data, str(path)), str(path), told=told))
            report.take(told)
            for root in roots[:1]:
                found = _settings(root, options(command), report)
            for root in roots[1:]:
                report.add(root, "wrong-kind", "the file holds more than one document", "put all settings into the first")
        except DocumentError as error:
            report.take([error.diagnostic])
    if any(diagnostic.severity == "error" for diagnostic in report.diagnostics):
        raise PolicyError(report.diagnostics)
    return found


def _settings(root: YamlNode, known: dict[str, click.Parameter], report: Report) -> dict[str, Setting]:
    found: dict[str, Setting] = {}
    if root.kind != "map":
        report.add(root, "wrong-type", "the configuration is a map of settings", "write `mode: audit`, say")
        return found
    for key, node in root.pairs:
        param = known.get(key.text) if key.kind == "scalar" else None
        if param is None:
            hint = suggest(key.text, known, "`bpfence run --help` lists them: a setting is an option without its dashes")
            report.add(key, "unknown-key", f"there is no setting {quoted(key.text)}", hint)
        elif key.text in found:
            report.add(key, "duplicate-key", f"{key.text} is set twice", "leave one out")
        elif not node.empty:
            errors = report.errors
            value = _value(key.text, param, node, report)
            if report.errors == errors:
                found[key.text] = Setting(value, node)
    return found


def _value(name: str, param: click.Parameter, node: YamlNode, report: Report) -> Any:
    if isinstance(param, click.Option) and param.is_flag:
        if node.kind == "scalar" and not node.style and node.text in ("true", "false"):
            return node.text == "true"
        report.add(node, "wrong-type", f"{name} is true or false")
        return None
    if not param.multiple:
        return _one(name, param, node, report)
    nodes = node.items if node.kind == "list" else [node]
    return tuple(_output(item, report) if name == OUTPUT else _one(name, param, item, report) for item in nodes)


def _one(name: str, param: click.Parameter, node: YamlNode, report: Report) -> Any:
    if node.kind != "scalar":
        report.add(node, "wrong-type", f"{name} takes a text or number here, not a {node.kind}")
        return None
    try:
        return param.type.convert(node.text, param, None)
    except click.BadParameter as error:
        report.add(node, "bad-value", f"{name}: {error.message}")
        return None


def _output(node: YamlNode, report: Report) -> Any:
    from bpfence.outputs import specs  # imported late: completion and help do without

    try:
        found = specs.spec_of(_plain(yaml_values.as_value(node)))
        specs.check(found)
    except UsageError as error:
        report.add(node, "bad-value", f"output: {error}", "docs/outputs.md lists what outputs take")
        return None
    return node.text if node.kind == "scalar" else found


def _plain(value: JsonValue) -> Any:
    """A value as Python has it."""
    match value.kind:
        case "object":
            return {key.text: _plain(inner) for key, inner in value.pairs}
        case "array":
            return [_plain(inner) for inner in value.items]
        case "number":
            return int(value.text) if value.text.lstrip("-").isdigit() else float(value.text)
        case "boolean":
            return value.text == "true"
        case "null":
            return None
        case _:
            return value.text


def _take(context: click.Context, _param: click.Parameter, given: Path | None) -> Path | None:
    """Has the options of the command fall back to the file: the one that was named, or CONFIG where there is one."""
    path = given if given is not None else CONFIG if CONFIG.is_file() else None
    if path is not None and not context.resilient_parsing:
        known = options(context.command)
        context.default_map = {str(known[key].name): setting.value for key, setting in read(path, context.command).items()}
    return path


config_option = click.option(
    "--config",
    is_eager=True,
    expose_value=False,
    callback=_take,
    envvar="BPFENCE_CONFIG",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help=f"Settings for all that is not said here nor in the environment.  [default: {CONFIG}, where there is one]",
)
