"""tools/gen_abi.py and bpfence.abi: the module is what the header gives; layouts are those of the C compiler."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import struct
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from bpfence import abi
from bpfence.fields import EVENTS, FIELDS, Kind

ROOT = Path(__file__).resolve().parents[2]
HEADER = ROOT / "bpf" / "abi.h"


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gen_abi", ROOT / "tools" / "gen_abi.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_module_is_fresh() -> None:
    assert generator().render(HEADER.read_text()) == (ROOT / "src" / "bpfence" / "abi.py").read_text()
    assert hashlib.sha256(HEADER.read_bytes()).hexdigest()[:16] == abi.ABI_HASH


def test_check_tells_a_stale_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = generator()
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "MODULE", tmp_path / "abi.py")
    assert module.main(["--check"]) == 1
    assert module.main([]) == 0
    assert module.main(["--check"]) == 0


def test_layout_rules() -> None:
    text = """
    #define COUNT 3
    #define MASK 0x10 /* not this: 7 */
    enum e { A, B = 5, C, };
    struct inner { __u8 a; __u32 b; };
    struct outer { __u8 x[COUNT]; struct inner i; __u16 s; __u64 big[2]; __u8 last; };
    """
    header = generator().parse(text)
    assert header.defines == {"COUNT": 3, "MASK": 16}
    assert header.enums == {"e": {"A": 0, "B": 5, "C": 6}}
    inner, outer = header.structs
    assert (inner.format, inner.size, inner.offsets) == ("B3xI", 8, {"a": 0, "b": 4})
    assert outer.offsets == {"x": 0, "i": 4, "s": 12, "big": 16, "last": 32}
    assert (outer.format, outer.size) == ("3s1xB3xIH2x2QB7x", 40)


def test_unreadable_members_are_refused() -> None:
    with pytest.raises(ValueError, match="a bit : 1"):
        generator().parse("struct s { __u32 a bit : 1; };")


def struct_names() -> list[str]:
    return [name.removesuffix("_OFFSETS") for name in vars(abi) if name.endswith("_OFFSETS")]


def test_formats_have_the_structs_size() -> None:
    for name in struct_names():
        assert struct.calcsize(getattr(abi, f"{name}_FORMAT")) == getattr(abi, f"{name}_SIZE"), name


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler: gcc is not installed")
def test_layouts_are_the_compilers(tmp_path: Path) -> None:
    lines = ["#include <stdio.h>", "#include <stddef.h>", "#include <linux/types.h>", f'#include "{HEADER}"', "int main(void) {"]
    for name in struct_names():
        c = f"struct {name.lower()}"
        lines.append(f'printf("{name} %zu", sizeof({c}));')
        lines += [f'printf(" %zu", offsetof({c}, {member}));' for member in getattr(abi, f"{name}_OFFSETS")]
        lines.append('puts("");')
    source = tmp_path / "layout.c"
    source.write_text("\n".join([*lines, "return 0; }"]))
    subprocess.run(["gcc", "-o", str(tmp_path / "layout"), str(source)], check=True)
    found = subprocess.run([str(tmp_path / "layout")], check=True, capture_output=True, text=True).stdout.splitlines()
    expected = [
        " ".join(map(str, [name, getattr(abi, f"{name}_SIZE"), *getattr(abi, f"{name}_OFFSETS").values()])) for name in struct_names()
    ]
    assert found == expected


def test_tables_name_only_what_the_header_has() -> None:
    assert [e.id for e in EVENTS if e.id not in abi.EVENT_ID] == []
    slots = {**abi.NUM_SLOT, **abi.STR_SLOT}
    assert [f.name for f in FIELDS if f.kernel and f.kind is not Kind.STRINGS and f.slot not in slots] == []
    assert max(abi.NUM_SLOT.values()) < abi.ABI_NUM_SLOTS
    assert max(abi.STR_SLOT.values()) < abi.ABI_STR_SLOTS
