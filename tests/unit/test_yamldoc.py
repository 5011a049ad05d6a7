"""YAML as policies are written in it: what is read, and what is refused before it means anything."""

from __future__ import annotations

import pytest

from outpass import yamldoc
from outpass.errors import PolicyError
from outpass.policy.document import Mapping


def read(text: str | bytes) -> object:
    return yamldoc.document("p.yaml", text.encode() if isinstance(text, str) else text).root


@pytest.mark.parametrize(
    "text, value",
    [
        ("a: no", {"a": "no"}),
        ("a: on", {"a": "on"}),
        ("a: true", {"a": True}),
        ("a: 12:30:45", {"a": "12:30:45"}),
        ("a: 2027-06-30", {"a": "2027-06-30"}),
        ("a: 010", {"a": 10}),
        ("a: 0o10", {"a": 8}),
        ("a: 1.5", {"a": 1.5}),
        ("a: ~", {"a": None}),
        ("a:", {"a": None}),
        ("a: '1'", {"a": "1"}),
        ("a: " + "9" * 10000, {"a": "9" * 10000}),
        ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}),
        ("\ufeffa: 1", {"a": 1}),
        ("<<: {a: 1}", {"<<": {"a": 1}}),
    ],
    ids=lambda v: repr(v)[:40],
)
def test_plain_values_are_of_yaml_1_2(text: str, value: object) -> None:
    assert read(text) == value


BOMB = "a: &a [x, x]\n" + "".join(
    f"{c}: &{c} [*{p}, *{p}, *{p}, *{p}, *{p}, *{p}, *{p}, *{p}, *{p}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)
)

FAULTS = [
    ("a tab", "a:\n\tb: 1\n", "2:1", "a tab where YAML wants spaces", "indent with spaces"),
    ("an unquoted star as key", "a:\n  *: 1\n", "2:4", "needs quotes", '"*"'),
    ("an unquoted star as value", "a: [*.example.com]\n", "1:6", "needs quotes", '"*.example.com"'),
    ("a key twice", "a: 1\nb: 2\na: 3\n", "3:1", "the key 'a' stands here twice; the first is at line 1", "keep one"),
    ("a key twice, deep down", "a:\n  - {b: 1, b: 2}\n", "2:12", "the key 'b' stands here twice", "keep one"),
    ("a key that is a number", "1: a\n", "1:1", "keys are text", '"1"'),
    ("a key that is a list", "[a]: b\n", "1:1", "keys are text", ""),
    ("two documents", "a: 1\n---\nb: 1\n", "2:1", "more than one document", "include"),
    ("an open bracket", "a: [1\n", "2:1", "did not find expected", ""),
    ("an unknown alias", "a: *b\n", "1:4", "quotes", ""),
    ("a Python object", "a: !!python/object/apply:os.system [x]\n", "1:4", "tag", ""),
    ("a tag of one's own", "a: !secret x\n", "1:4", "tag '!secret' means nothing", "remove it"),
    ("a control character", 'a: 1\nb: "\x01"\n', "2:5", "a character that YAML does not allow", ""),
    ("an alias that stands for itself", "a: &a [*a]\n", "1:4", "alias stands for itself", ""),
    ("a bomb of aliases", BOMB, "1:8", "aliases repeat too much", "include"),
    ("brackets without end", "[" * 100000, "1:1", "nested too deeply", ""),
    ("braces without end", "{a: " * 5000, "1:1", "nested too deeply", ""),
    ("dashes without end", "- " * 100000, "1:1", "nested too deeply", ""),
    ("question marks without end", "? " * 100000, "1:1", "nested too deeply", ""),
    ("levels without end", "".join(f"{' ' * n}a:\n" for n in range(2500)), "2050:1", "nested too deeply", ""),
    ("more levels than a policy has", "a: " + "[" * 40 + "]" * 40, "1:36", "nested too deeply", ""),
]


@pytest.mark.parametrize("sentence, text, at, message, hint", FAULTS, ids=[f[0] for f in FAULTS])
def test_what_is_refused(sentence: str, text: str, at: str, message: str, hint: str) -> None:
    with pytest.raises(PolicyError) as caught:
        read(text)
    fault = caught.value.faults[0]
    assert str(fault.place) == f"p.yaml:{at}", fault.message
    assert message.lower() in fault.message.lower()
    assert hint in fault.hint


def test_bytes_that_are_no_utf_8_are_named_and_placed() -> None:
    with pytest.raises(PolicyError) as caught:
        read(b"a: 1\n# caf\xe9\n")
    assert str(caught.value.faults[0]) == "p.yaml:2:6: the file is not UTF-8: byte 0xe9"


def test_a_file_without_end_is_refused() -> None:
    with pytest.raises(PolicyError, match="larger than 32 MiB"):
        read(b"#" * (yamldoc.MAX_BYTES + 1))


def test_every_duplicate_is_reported() -> None:
    with pytest.raises(PolicyError) as caught:
        read("a: 1\na: 2\na: 3\n")
    assert [f.place.line for f in caught.value.faults] == [2, 3]


def test_values_know_where_they_stood() -> None:
    document = yamldoc.document("p.yaml", b"a:\n  b: [x, y]\n")
    assert isinstance(document.root, Mapping)
    assert str(document.place(("a", "b", 1))) == "p.yaml:2:10"
    assert str(document.place(("a", "b"), key=True)) == "p.yaml:2:3"
    assert str(document.place(("a", "nowhere", 7))) == "p.yaml:2:3"
