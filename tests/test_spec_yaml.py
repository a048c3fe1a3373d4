"""The YAML reader: what it reads, and the exact line of what it refuses."""

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ropeway.errors import SpecError
from ropeway.spec.yaml import MAX_BYTES, MAX_PROBLEMS, dump_yaml, load_yaml, read_text


def refusal(text: str) -> SpecError:
    with pytest.raises(SpecError) as caught:
        load_yaml(text, "f.yaml")
    return caught.value


def test_data_and_lines_come_together() -> None:
    document = load_yaml("# note\na:\n  b: 1\n\n  c:\n    - x\n    - {d: 2}\n", "f")
    assert document.data == {"a": {"b": 1, "c": ["x", {"d": 2}]}}
    assert document.lines == {
        "": 1, "a": 2, "a.b": 3, "a.c": 5, "a.c[0]": 6, "a.c[1]": 7, "a.c[1].d": 7,
    }  # fmt: skip
    # A path that is not there has the line of what surrounds it.
    assert document.line_of(("a", "b", "c", 0)) == 3
    assert document.line_of(("a", "z")) == 2
    assert document.line_of(()) == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("on", "on"), ("12:30", "12:30"), ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"), ("1e-5", 1e-5), ("010", 10), ("0x1F", 31), ("0o17", 15), ("-3", -3),
        ("1.", 1.0), (".5", 0.5), ("true", True), ("FALSE", False), ("~", None), ("", None),
        ("null", None), (".nan", ".nan"), (".inf", ".inf"), ('"8000"', "8000"), ("<<", "<<"),
        ("=", "="), ("TP2×PP2+EP", "TP2×PP2+EP"), ("0.0.0.0", "0.0.0.0"),
    ],
)  # fmt: skip
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    read = load_yaml(f"a: {text}", "f").data["a"]
    assert (read, type(read)) == (value, type(value))


def test_a_merge_key_is_a_key_like_any_other() -> None:
    assert load_yaml("a:\n  <<: {b: 1}\n", "f").data == {"a": {"<<": {"b": 1}}}


@pytest.mark.parametrize(
    ("text", "where", "word"),
    [
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3", "`a` is given twice, first on line 1"),
        ("s:\n  - {k: 1,\n     k: 2}\n", "f.yaml:3", "`s[0].k` is given twice, first on line 2"),
        ("a:\n\tb: 1\n", "f.yaml:2", "tab"),
        ("a: 1\n  b: 2\n", "f.yaml:2", "mapping values"),
        ("a: [1, 2\nb: 3\n", "f.yaml:2", "expected ',' or ']'"),
        ('a: 1\nb: "x\n', "f.yaml:3", "unexpected end of stream"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2", "second document"),
        ("- a\n- b\n", "f.yaml:1", "`key: value`"),
        ("# only\n# comments\n", "f.yaml", "empty"),
        ("", "f.yaml", "empty"),
        ("a: 1\n8000: x\n", "f.yaml:2", "`8000`"),
        ("a:\n  [1]: x\n", "f.yaml:2", "key must be text"),
        ("a: 1\n? \n: x\n", "f.yaml:2", "key must be text"),
        ('a: 1\n"\\0": x\n', "f.yaml:2", "key must be text"),
        ("a: 1\n: x\n", "f.yaml:2", "not valid YAML"),
        ("a: 1\nb: !!python/object:os.system x\n", "f.yaml:2", "tag"),
        ("a: !!int x\n", "f.yaml:1", "tag"),
        ("a: !mine {b: 1}\n", "f.yaml:1", "tag (`!mine`)"),
        ("a: 1\nb: 1e999\n", "f.yaml:2", "`b` is too large"),
        ("a: 1\nb: x\x07y\n", "f.yaml:2", "U+0007"),
        ('a: 1\nb: "\\ud800"\n', "f.yaml:2", "`b`"),
        ('a: 1\nb: "\\0"\n', "f.yaml:2", "`b`"),
        ('a: 1\nb: "\\UFFFFFFFF"\n', "f.yaml:2", "not valid YAML"),
        ('a: 1\nb: "\\U00110000"\n', "f.yaml:2", "not valid YAML"),
        ("%YAML " + "1" * 5000 + ".1\n---\na: 1\n", "f.yaml:1", "not valid YAML"),
        ("a: &b 1\nc: *b\n", "f.yaml:2", "alias (`*b`)"),
        ("a: 1\nb: &x [*x]\n", "f.yaml:2", "alias (`*x`)"),
        ("a: &x {c: 1}\nb:\n  <<: *x\n", "f.yaml:3", "alias (`*x`)"),
        ("a: " + "[" * 5000, "f.yaml:1", "40 levels"),
    ],
)
def test_a_fault_is_refused_with_its_line(text: str, where: str, word: str) -> None:
    error = refusal(text)
    assert error.where == where
    assert word in error.what


def test_an_alias_bomb_is_refused_before_it_goes_off() -> None:
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    error = refusal("a0: &a0 [x]\n" + "\n".join(levels))
    assert (error.where, error.evidence) == ("f.yaml:2", ())
    assert "alias" in error.what


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("port：8000\nname: x\n", "line 1 has a full-width colon `：`; write `: `"),
        ("a: 1\nport:8000\n", "line 2 needs a space after the colon"),
        ("port:8000\n", "line 1 needs a space after the colon"),
        ("just words\n", None),
    ],
)
def test_a_lost_colon_is_hinted_at(text: str, hint: str | None) -> None:
    assert refusal(text).hint == hint


def test_a_file_with_thousands_of_problems_lists_the_first_ones() -> None:
    error = refusal("a: 1\n" * 5_001)
    assert (error.where, len(error.evidence)) == ("f.yaml:2", MAX_PROBLEMS)
    assert error.evidence[-2].startswith(f"f.yaml:{MAX_PROBLEMS + 1}: ")
    assert "4,950" in error.evidence[-1]


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: 1\r\nb:\r\n  c: 2\r\n")
    document = load_yaml(read_text(file), "f")
    assert document.data == {"a": 1, "b": {"c": 2}}
    assert document.lines["b.c"] == 3


def test_what_cannot_be_read_is_refused_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, reason, hint in (
        (tmp_path / "none.yaml", "no such file", "ropeway init"),
        (tmp_path, "is a directory", ""),
        (tmp_path / "file" / "g.yaml", "not a directory", ""),
        (tmp_path / "a\0b", "null byte", "`--config` names the spec"),
    ):
        with pytest.raises(SpecError) as caught:
            read_text(path)
        assert reason in caught.value.what
        assert hint in str(caught.value.hint or "") and bool(hint) == bool(caught.value.hint)
        assert caught.value.where == str(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_forbidden_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.touch(mode=0)
    with pytest.raises(SpecError, match="permission denied"):
        read_text(file)


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        ("a: 1\nb: 模型\n".encode("gb18030"), ":2", "iconv -f GB18030"),
        (b"#" * (MAX_BYTES + 1), "", "longer than 195.3 KiB"),
    ],
)
def test_what_is_no_utf_8_or_endless_is_refused(
    tmp_path: Path, content: bytes, line: str, words: str
) -> None:
    file = tmp_path / "f.yaml"
    file.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        read_text(file)
    assert caught.value.where == f"{file}{line}"
    assert words in f"{caught.value.what} {caught.value.hint}"


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT | st.sampled_from(["no", "1e5", "0o7", "~", "<<", "12:30", "1_0", "2024-01-01", "="]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(TEXT, PLAIN, min_size=1, max_size=3))
def test_what_is_dumped_is_read_back_here_and_by_yaml_1_1(data: dict[str, object]) -> None:
    text = dump_yaml(data)
    assert load_yaml(text, "f").data == data
    assert yaml.safe_load(text) == data


@given(st.text(st.sampled_from("ab:- \n\t[]{},&*!|>'\"#%@`?<~0.\\x："), max_size=40))
def test_whatever_is_written_is_read_or_refused(text: str) -> None:
    try:
        load_yaml(text, "f")
    except SpecError as error:
        assert str(error.where).startswith("f")


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_may_never_end_is_no_spec(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "ropeway.yaml"
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    with pytest.raises(SpecError) as error:
        read_text(path)
    assert "not a regular file" in error.value.what
