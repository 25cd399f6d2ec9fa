"""Random conditions, fields and events for the tests of the Falco dialect and the rule engine."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import strategies as st

from bpfence.dialects.falco.read import language
from bpfence.dialects.falco.read.language import (
    AndNode,
    Check,
    ConditionNode,
    FieldRef,
    MacroRef,
    NotNode,
    OrNode,
    TransformerCall,
    Word,
    Words,
)

CORPUS = Path(__file__).resolve().parents[4].parent / "shared" / "corpora" / "falco" / "falco_rules.yaml"


def corpus() -> Path:
    """Falco's own stable rules; the test is skipped where they are not."""
    if not CORPUS.exists():
        pytest.skip(f"{CORPUS} is missing: the corpora lie beside the repository")
    return CORPUS


def canonical(text: str) -> str:
    """Surrogate escapes that together are UTF-8 become the character: what a decoded text cannot hold is left out."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


names = st.sampled_from(["proc.name", "fd.name", "evt.type", "proc.aname", "fd.sip", "user.uid", "k8s.ns.name", "a.b"])
any_text = st.text(
    st.one_of(
        st.characters(codec="utf-8"), st.sampled_from(["\udcff", "\udc80", '"', "'", "\\", " ", "\n", "\t", "(", ")", ",", "=", "<"])
    ),
    max_size=8,
).map(canonical)
arguments = st.one_of(st.none(), any_text.filter(lambda text: "]" not in text or '"' not in text))
fields = st.builds(FieldRef, names, arguments)
numbers = st.one_of(st.integers(-1000, 10**12).map(str), st.sampled_from(["0x1F", "1.5", "+3", "1e+3"])).map(Word)
words = any_text.map(Word)
operands: st.SearchStrategy[FieldRef | TransformerCall] = st.recursive(
    fields,
    lambda inner: st.one_of(
        st.builds(lambda f, a: TransformerCall(f, (a,)), st.sampled_from(["tolower", "toupper", "b64", "basename", "len"]), inner),
        st.builds(lambda s, a: TransformerCall("join", (Word(s), a)), any_text, inner),
        st.builds(lambda a, b: TransformerCall("concat", (a, b)), inner, inner),
        st.builds(lambda a, o, x: TransformerCall("getopt", (a, Word(o)), x), inner, any_text, st.sampled_from([None, "e", "x"])),
    ),
    max_leaves=3,
)
computed = st.one_of(fields.map(lambda f: TransformerCall("val", (f,))), operands.filter(lambda o: isinstance(o, TransformerCall)))
lists = st.lists(words, max_size=4).map(lambda items: Words(tuple(items)))
identifiers = st.sampled_from(["abc", "x1", "known_list"]).map(Word)
checks = st.one_of(
    st.builds(lambda left: Check(left, "exists"), operands),
    st.builds(Check, operands, st.sampled_from(language.NUMBER_OPERATORS), st.one_of(numbers, computed)),
    st.builds(Check, operands, st.sampled_from(language.TEXT_OPERATORS), st.one_of(words, computed)),
    st.builds(Check, operands, st.sampled_from(language.TEXT_OPERATORS), lists, st.sampled_from(language.MODIFIERS)),
    st.builds(Check, operands, st.sampled_from(language.LIST_OPERATORS), st.one_of(lists, computed, identifiers)),
)
macros = st.sampled_from(["m", "spawned_process", "nota", "order", "andy", "inside"]).map(MacroRef)
nodes: st.SearchStrategy[ConditionNode] = st.recursive(
    st.one_of(checks, macros),
    lambda inner: st.one_of(
        inner.map(NotNode),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: AndNode(tuple(parts))),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: OrNode(tuple(parts))),
    ),
    max_leaves=8,
)
