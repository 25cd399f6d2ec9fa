# SPDX-License-Identifier: Apache-2.0
"""What stands in braces under `on` in, the sensor that makes an event of it out, and which fields that event has.

Called by `read`. The keys are those of `schema.SensorSpec`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

from bpfence.conditions import sensors
from bpfence.dialects.native import schema
from bpfence.documents.report import Report
from bpfence.documents.yaml_nodes import YamlNode
from bpfence.names import lsm_function
from bpfence.policy import Probe, ProbeArgument, Read, Target, Way
from bpfence.words import quoted, suggest

_KEYS: Final = {
    "kprobe": ("args", "return"), "lsm": ("args",), "tracepoint": ("args",),
    "uprobe": ("symbol", "offset", "address", "counter", "args", "return"),
    "usdt": ("provider", "name", "args"),
}  # fmt: skip
"""By the key that says what kind of sensor it is: the keys beside it."""
_TYPES: Final = {
    "kprobe": (*sensors.NUMBERS, *sensors.FILES, *sensors.TEXTS, *sensors.SOCKETS, "nop"), "tracepoint": sensors.IN_RECORDS,
    "uprobe": sensors.IN_PROGRAMS, "usdt": sensors.IN_STATIC_PROBES,
}  # fmt: skip
_TRACEPOINT: Final = re.compile(r"[A-Za-z0-9_]{1,256}/[A-Za-z0-9_]{1,256}")
_NUMBER: Final = re.compile(r"0[xX][0-9a-fA-F]{1,16}|0|[1-9][0-9]{0,18}")
_MAX_ARGUMENTS: Final = 5
_MAX_INDEX: Final = 11
"""In a static probe, which has no more than 12 arguments."""
_MAX_FIELD: Final = 63
_PLACES: Final = ("symbol", "offset", "address")
_WITHOUT: Final[Mapping[str, tuple[YamlNode, YamlNode]]] = {}


class Shapes(Protocol):
    """What of `read` reads keys and values."""

    report: Report

    def level(self, node: YamlNode, model: type[schema.Document], what: str) -> dict[str, tuple[YamlNode, YamlNode]]: ...
    def text(self, node: YamlNode, what: str) -> str | None: ...
    def choice(self, node: YamlNode, what: str, options: tuple[str, ...]) -> str | None: ...


class Sensed(NamedTuple):
    """A sensor, the fields of its events beside those of the process, and what its alerts say where the rule has no message."""

    probe: Probe
    fields: frozenset[str]
    message: str


class _Argument(NamedTuple):
    made: ProbeArgument
    kind: str
    node: YamlNode


class SensorReader:
    """One sensor. Reports what is wrong, and goes on."""

    def __init__(self, shapes: Shapes, node: YamlNode) -> None:
        self.shapes = shapes
        self.report = shapes.report
        self.node = node
        self.entries: Mapping[str, tuple[YamlNode, YamlNode]] = _WITHOUT
        self.way = ""

    def read(self) -> Sensed | None:
        """The sensor; None where something is wrong."""
        errors = self.report.errors
        self.entries = self.shapes.level(self.node, schema.SensorSpec, "a sensor")
        ways = [key for key in self.entries if key in _KEYS]
        if len(ways) != 1:
            if self.report.errors == errors:
                what = f"{' and '.join(ways)} are two sensors" if ways else "a sensor without a place"
                hint = "make a rule of each" if ways else f"write one of {', '.join(_KEYS)}, such as {{kprobe: do_truncate}}"
                self.report.add(self.node, "bad-value" if ways else "missing-key", what, hint)
            return None
        self.way = ways[0]
        for key, (key_node, _) in self.entries.items():
            if key != self.way and key not in _KEYS[self.way]:
                hint = f"beside {self.way} stand {', '.join(_KEYS[self.way])}"
                self.report.add(key_node, "unknown-key", f"a sensor of {self.way} has no {key}", hint)
        arguments = self.arguments()
        result = self.result()
        probe = self.probe(arguments, result)
        if self.report.errors > errors or probe is None:
            return None
        fields: set[str] = {"sensor.result"} if result is not None else set()
        for position, argument in enumerate(arguments):
            fields |= set(sensors.fields_of(argument.kind, position, [other.kind for other in arguments[:position]]))
        words = {"tracepoint": "tracepoint", "usdt": "static probe"}
        told = "return of" if result is not None else words.get(self.way, "call of")
        shown = probe.place.replace("{", "{{").replace("}", "}}")
        return Sensed(probe, frozenset(fields), f"{told} {shown} by {{process.exe}}")

    def value(self, key: str) -> YamlNode | None:
        return self.entries[key][1] if key in self.entries else None

    def text(self, key: str) -> str:
        node = self.value(key)
        return (self.shapes.text(node, key) or "") if node is not None else ""

    def number(self, node: YamlNode, what: str, most: int) -> int:
        """0 where it is none."""
        text = self.shapes.text(node, what)
        if text is None:
            return 0
        if not _NUMBER.fullmatch(text) or int(text, 0) > most:
            self.report.add(node, "bad-number", f"{what} is a number of 0 to {most}, not {quoted(text)}", "")
            return 0
        return int(text, 0)

    # ---- arguments ----

    def arguments(self) -> list[_Argument]:
        node = self.value("args")
        if node is None:
            return []
        if node.kind != "list":
            self.report.add(node, "wrong-type", "args must be a list", "write [int, string], or begin each argument with '- '")
            return []
        if len(node.items) > _MAX_ARGUMENTS:
            self.report.add(node, "bad-value", f"a sensor reads at most {_MAX_ARGUMENTS} arguments", "leave some out")
        found: list[_Argument] = []
        for position, item in enumerate(node.items[:_MAX_ARGUMENTS]):
            argument = self.argument(item, position)
            if argument is not None:
                self.beside(argument, found)
                found.append(argument)
        return found

    def argument(self, node: YamlNode, position: int) -> _Argument | None:
        entries = self.shapes.level(node, schema.SensorArgument, "an argument") if node.kind == "map" else None
        index = position
        types = _TYPES["kprobe" if self.way == "lsm" else self.way]
        if entries is None and self.way == "tracepoint":
            hint = "write {index: 4, type: int}: fields are counted from 0 as in the tracepoint's format file, common ones, too"
            self.report.add(node, "bad-value", "an argument of a tracepoint needs its index", hint)
            return None
        if entries is not None and "index" in entries:
            most = {"usdt": _MAX_INDEX, "tracepoint": _MAX_FIELD}.get(self.way, sensors.MAX_REGISTER)
            index = self.number(entries["index"][1], "index", most)
        elif entries is not None and self.way == "tracepoint" and "type" in entries:
            self.report.add(node, "missing-key", "an argument of a tracepoint needs its index", "add index:")
        type_node = node if entries is None else entries["type"][1] if "type" in entries else None
        kind = self.shapes.choice(type_node, "the type of an argument", types) if type_node is not None else None
        if kind is None:
            return None
        length, late = 0, False
        if entries is not None and "length" in entries:
            length = self.number(entries["length"][1], "length", sensors.MAX_REGISTER)
        if entries is not None and "at" in entries:
            late = self.shapes.choice(entries["at"][1], "at", ("call", "return")) == "return"
        given = [key for key in ("length", "at") if entries is not None and key in entries]
        if kind == "char_buf" and "length" not in given:
            hint = "add length: the argument with the number of bytes, counted from 0"
            self.report.add(node, "missing-key", "nothing says how many bytes of char_buf there are", hint)
        elif kind != "char_buf" and given:
            self.report.add(node, "useless", f"only char_buf has {' and '.join(given)}", "leave them out")
        if late and "return" not in self.entries:
            self.report.add(node, "bad-value", "at: return, and nobody waits for the return", "add return: sint64 to the sensor")
        size = sensors.NUMBERS.get(kind, 32) // 8
        made = ProbeArgument(index, sensors.read_of(kind), size, kind in sensors.SIGNED, length, late)
        return _Argument(made, kind, node)

    def beside(self, argument: _Argument, before: list[_Argument]) -> None:
        """Refuse what cannot be read beside the arguments in front of it."""
        if argument.kind != "nop" and any(other.made.index == argument.made.index and other.kind != "nop" for other in before):
            self.report.add(argument.node, "bad-value", f"argument {argument.made.index} is read twice", "read it once")
        files = sum(other.kind in sensors.FILES for other in before)
        if argument.kind in sensors.FILES and files == sensors.MAX_FILES:
            self.report.add(
                argument.node, "bad-value", f"more than {sensors.MAX_FILES} files are not read by one sensor", "make another rule"
            )
        if argument.kind in sensors.SOCKETS and any(other.kind in sensors.SOCKETS for other in before):
            what = "more than one socket, packet or address is not read by one sensor"
            self.report.add(argument.node, "bad-value", what, "make another rule")

    def result(self) -> ProbeArgument | None:
        node = self.value("return")
        kind = self.shapes.choice(node, "return", tuple(sensors.INTEGERS)) if node is not None else None
        return ProbeArgument(0, Read.NUMBER, sensors.INTEGERS[kind] // 8, kind in sensors.SIGNED) if kind is not None else None

    # ---- places ----

    def probe(self, arguments: list[_Argument], result: ProbeArgument | None) -> Probe | None:
        made = tuple(argument.made for argument in arguments)
        if self.way == "tracepoint":
            return self.tracepoint(made)
        return self.function(made, result) if self.way in ("kprobe", "lsm") else self.in_program(made, result)

    def function(self, arguments: tuple[ProbeArgument, ...], result: ProbeArgument | None) -> Probe | None:
        node = self.entries[self.way][1]
        name = self.shapes.text(node, self.way)
        if name is None:
            return None
        if not sensors.FUNCTION.fullmatch(name):
            what = f"{quoted(name)} is no name of {'a function of the kernel' if self.way == 'kprobe' else 'an LSM hook'}"
            self.report.add(node, "bad-value", what, "write a name such as " + ("do_truncate" if self.way == "kprobe" else "file_ioctl"))
            return None
        if self.way == "lsm" and name.startswith("security_"):
            hint = f"write lsm: {name.removeprefix('security_')}, or kprobe: {name}"
            self.report.add(node, "bad-value", f"{name} is the function of an LSM hook", hint)
            return None
        place = lsm_function(name) if self.way == "lsm" else name
        way = Way.KPROBE if result is None else Way.KRETPROBE
        return Probe(way, place, arguments, sensors.is_call(place), result=result, location=node.location)

    def tracepoint(self, arguments: tuple[ProbeArgument, ...]) -> Probe | None:
        node = self.entries[self.way][1]
        name = self.shapes.text(node, self.way)
        if name is None:
            return None
        if not _TRACEPOINT.fullmatch(name):
            hint = f"write {name.replace(':', '/')}" if ":" in name else "write subsystem/name, such as sched/sched_process_exec"
            self.report.add(node, "bad-value", f"{quoted(name)} is no name of a tracepoint", hint)
            return None
        return Probe(Way.TRACEPOINT, name, arguments, location=node.location)

    def in_program(self, arguments: tuple[ProbeArgument, ...], result: ProbeArgument | None) -> Probe | None:
        node = self.entries[self.way][1]
        path = self.shapes.text(node, self.way)
        if path is None:
            return None
        if not path.startswith("/"):
            hint = "write the whole path, as it is on the host, and the function as symbol:"
            self.report.add(node, "bad-value", f"{quoted(path)} is no path from the root", hint)
            return None
        if self.way == "usdt":
            return self.static_probe(path, arguments)
        given = [key for key in _PLACES if key in self.entries]
        if len(given) != 1:
            what = f"{' and '.join(given)} together" if given else f"none of {', '.join(_PLACES)}"
            self.report.add(self.node, "bad-value" if given else "missing-key", f"a uprobe with {what}", "write exactly one of them")
            return None
        place = self.entries[given[0]][1]
        symbol = self.text("symbol")
        number = self.number(place, given[0], 2**63) if given[0] != "symbol" else None
        counter_node = self.value("counter")
        counter = self.number(counter_node, "counter", 2**63) if counter_node is not None else 0
        offset, address = (number, None) if given[0] == "offset" else (None, number)
        target = Target(path, symbol, offset=offset, address=address, counter=counter)
        shown = symbol if number is None else f"{'@' if given[0] == 'address' else ''}{number:#x}"
        way = Way.UPROBE if result is None else Way.URETPROBE
        return Probe(way, f"{path}:{shown}", arguments, result=result, target=target, location=place.location)

    def static_probe(self, path: str, arguments: tuple[ProbeArgument, ...]) -> Probe | None:
        missing = [key for key in ("provider", "name") if key not in self.entries]
        if missing:
            what = f"a static probe needs {' and '.join(missing)}"
            self.report.add(self.node, "missing-key", what, "`readelf -n FILE` lists the static probes of a file")
            return None
        provider, name = self.text("provider"), self.text("name")
        target = Target(path, name, provider=provider)
        return Probe(Way.USDT, f"{path}:{provider}:{name}", arguments, target=target, location=self.entries["name"][1].location)


def lacking(sensed: Sensed, field: str) -> str:
    """A hint for a field that the events of a sensor do not have."""
    has = sorted(sensed.fields)
    if not has:
        return "the sensor reads no arguments: name them under args"
    near = suggest(field, has, "")
    return near or f"it has {', '.join(has)}, and process.*"
