"""What holds for every output of a host: recordings are recognised, hostile text does no harm."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ropeway.facts import (
    containers,
    docker,
    filesystems,
    images,
    limits,
    memory,
    names,
    network,
    ping,
    ports,
    processor,
    programs,
    ray,
    storage,
    system,
)
from ropeway.facts.base import Reading
from ropeway.facts.printed import documents

MODULES = (
    containers, docker, filesystems, images, limits, memory, names, network, ping, ports,
    processor, programs, ray, storage, system,
)  # fmt: skip
OUTPUTS = [output for module in MODULES for output in module.OUTPUTS]
EACH = pytest.mark.parametrize("output", OUTPUTS, ids=lambda output: output.name)

RECORDINGS = Path(__file__).parent / "recordings"
INDEX = [
    line.split("\t")
    for line in (RECORDINGS / "INDEX-host.tsv").read_text(encoding="utf-8").splitlines()
]
TEXTS = {row[0]: (RECORDINGS / row[0]).read_text(encoding="utf-8") for row in INDEX[1:]}

# By the beginning of a recording's name, what it must be recognised as.
KINDS = {
    "docker_version": "docker-version",
    "docker_info": "docker-info",
    "docker_images": "docker-images",
    "docker_image_inspect": "docker-image-inspect",
    "docker_ps_denied": "docker-info",  # the daemon's refusal is the same for every question
    "docker_ps_no_daemon": "docker-info",
    "docker_ps": "docker-ps",
    "docker_inspect": "docker-inspect",
    "podman_version": "docker-version",
    "nerdctl_version": "docker-version",
    "podman_info": "docker-info",
    "podman_images": "docker-images",
    "podman_ps": "docker-ps",
    "podman_inspect": "docker-inspect",
    "ip_addr": "ip-addr",
    "ifconfig": "ifconfig",
    "ip_route": "ip-route",
    "ss": "ss",
    "ping": "ping",
    "df": "df",
    "meminfo": "meminfo",
    "lscpu": "lscpu",
    "cpuinfo": "cpuinfo",
    "ulimit": "ulimit",
    "proc_limits": "proc-limits",
    "ethtool": "link-speed",
    "ray_status": "ray-status",
    "ray_nodes": "ray-nodes",
    "os_release": "os-release",
    "uname": "uname",
    "model_directory": "model-directory",
    "model_hashes": "sha256sum",
}


def kind_of(file: str) -> str:
    return KINDS[max((name for name in KINDS if file.startswith(name)), key=len)]


def check(reading: Reading) -> None:
    """What every reading must be, whatever the text was."""
    assert (reading.value is not None) == (reading.state in ("ok", "partial")) or (
        reading.state == "error"
    )
    assert (reading.error is not None) == (reading.state == "error")
    json.dumps(asdict(reading), allow_nan=False, ensure_ascii=False).encode()


def test_the_index_names_every_recording_once():
    assert INDEX[0] == ["file", "command", "hardware", "tool version", "state", "source URL"]
    assert {len(row) for row in INDEX} == {6}
    assert len(TEXTS) == len(INDEX) - 1


def test_outputs_have_a_name_of_their_own():
    named = [output.name for output in OUTPUTS]
    assert len(set(named)) == len(named)


@pytest.mark.parametrize("file", sorted(TEXTS))
def test_a_recording_is_recognised_and_by_one_output_best(file):
    scores = sorted((output.recognise(TEXTS[file]), output.name) for output in OUTPUTS)
    assert scores[-1][1] == kind_of(file)
    assert scores[-1][0] > scores[-2][0]


@pytest.mark.parametrize("file", sorted(TEXTS))
def test_quoted_in_a_page_a_recording_says_the_same(file):
    output = next(output for output in OUTPUTS if output.name == kind_of(file))
    plain = output.parse(TEXTS[file])
    quoted = "".join(f"> {line}\n" for line in f"```\n{TEXTS[file]}\n```".split("\n"))
    for text in (TEXTS[file].replace("\n", "\r\n"), "\ufeff" + TEXTS[file], quoted):
        assert (output.parse(text).state, output.parse(text).value) == (plain.state, plain.value)


@pytest.mark.slow
@EACH
@given(text=st.text(max_size=300))
@settings(max_examples=60, deadline=None)
def test_random_text_does_no_harm(output, text):
    check(output.parse(text))
    assert 0 <= output.recognise(text) <= 1


LINES = sorted({line for text in TEXTS.values() for line in text.split("\n") if len(line) < 2000})


@pytest.mark.slow
@EACH
@given(lines=st.lists(st.sampled_from(LINES), max_size=12), cut=st.integers(0, 400))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_lines_of_anything_in_any_order_do_no_harm(output, lines, cut):
    text = "\n".join(lines)
    check(output.parse(text[: len(text) - cut]))


WORDS = ["0", "9" * 30, "²", "-", "%", "/", "{", "[", "]", "}", '"', ":", "=", "\t", "  ", "a", "…"]


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted(TEXTS))
@given(place=st.floats(0, 1), word=st.sampled_from(WORDS), data=st.data())
@settings(max_examples=15, deadline=None)
def test_a_recording_cut_or_spoilt_does_no_harm(file, place, word, data):
    text = TEXTS[file]
    at = int(place * len(text))
    output = next(output for output in OUTPUTS if output.name == kind_of(file))
    check(output.parse(text[:at]))
    check(output.parse(text[at:]))
    end = at + data.draw(st.integers(0, 40))
    check(output.parse(text[:at] + word + text[end:]))


def places(value: object) -> list[tuple[object, object]]:
    """Every place in a JSON value: the list or object, and the index or key."""
    found: list[tuple[object, object]] = []
    inner = list(
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, member in inner:
        found += [(value, key), *places(member)]
    return found


JSON_FILES = sorted(
    file
    for file, text in TEXTS.items()
    if text.lstrip().startswith(("{", "[{", "[\n")) and documents(text).values
)
OTHER = [None, True, 0, -1, 10**400, 1.5, "", "x", "-", [], [[]], {}, {"a": {}}, ["a"], [None]]


@pytest.mark.slow
@pytest.mark.parametrize("file", JSON_FILES)
@given(place=st.floats(0, 0.999), other=st.sampled_from(OTHER))
@settings(max_examples=60, deadline=None)
def test_a_member_of_another_type_does_no_harm(file, place, other):
    values = list(documents(TEXTS[file]).values)
    spots = places(values)
    inside, key = spots[int(place * len(spots))]
    inside[key] = other
    output = next(output for output in OUTPUTS if output.name == kind_of(file))
    check(output.parse("\n".join(json.dumps(value) for value in values)))


MEGABYTE = 1_000_000
HUGE = {
    "letters": "a" * MEGABYTE,
    "digits": "9" * MEGABYTE,
    "blanks": "a" + " " * MEGABYTE + "b",
    "words": "a " * (MEGABYTE // 2),
    "numbers": "1 " * (MEGABYTE // 2),
    "quotes": '"' * MEGABYTE,
    "escaped": '{"' + '\\"' * (MEGABYTE // 2),
    "brackets": "[" * MEGABYTE,
    "objects": '{"a":' * (MEGABYTE // 5),
    "list": "[1," * (MEGABYTE // 3),
    "commas": "[" + "," * MEGABYTE,
    "colons": "a: " * (MEGABYTE // 3),
    "parentheses": "0(" * (MEGABYTE // 2),
    "lines": "\n" * MEGABYTE,
    "short lines": "a b\n" * (MEGABYTE // 4),
    "openings": "[\n" * (MEGABYTE // 2),
    "indented": "".join(" " * n + "a:\n" for n in range(1_400)),
    "prompts": "[root@" * (MEGABYTE // 6),
    "angles": "<" + "UP," * (MEGABYTE // 3),
}


def grows_evenly(read: Callable[[str], None], text: str, enough: float = 1.0) -> bool:
    """Whether time goes with the length and not with its square, or is below `enough` seconds.

    Held against the same machine: a tenth of the text takes a tenth of the time, or with a square
    a hundredth.
    """
    whole = processor_seconds(read, text)
    if whole < enough:
        return True
    tenth = processor_seconds(read, text[: len(text) // 10])
    return whole < 30 * tenth


def processor_seconds(read: Callable[[str], None], text: str) -> float:
    started = time.process_time()
    read(text)
    return time.process_time() - started


def test_a_square_is_seen():
    def compare_all(text: str) -> None:
        sum(one == other for one in text for other in text)

    assert not grows_evenly(compare_all, "ab" * 700, enough=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("shape", HUGE)
@EACH
def test_a_megabyte_is_read_at_once(output, shape):
    def read(text: str) -> None:
        check(output.parse(text))
        output.recognise(text)

    assert grows_evenly(read, HUGE[shape])


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted(TEXTS))
def test_a_megabyte_behind_a_recording_is_no_trouble(file):
    text = TEXTS[file]
    at = text.rfind("\n", 0, len(text) // 2) + 1
    output = next(output for output in OUTPUTS if output.name == kind_of(file))
    for huge in ("x" * MEGABYTE, " 1" * (MEGABYTE // 2), '"' * MEGABYTE):
        assert grows_evenly(
            lambda part: check(output.parse(text[:at] + part + "\n" + text[at:])), huge
        )


def test_documents_cut_in_a_member_keep_the_members_before_it():
    found = documents('[root@n1 ~]# docker inspect\n[{"a": 1}, {"b": [1, 2, {"c')
    assert (found.values, found.cut) == (([{"a": 1}, {"b": [1, 2, {}]}],), True)


@pytest.mark.parametrize("typed", ["$ docker info", "docker info", "sudo docker info", "# ls"])
def test_the_command_before_a_document_is_no_part_of_it(typed):
    found = documents(f'{typed}\n{{"a": 1}}\n$ \n', "docker")
    assert (found.values, found.unread, found.cut) == (({"a": 1},), (), False)


def test_documents_with_a_part_left_out_are_cut():
    found = documents('{"a": 1,\n ...\n}\nafter\n')
    assert (found.values, found.unread, found.cut) == (({"a": 1},), ("after",), True)


def test_documents_hold_nothing_that_cannot_be_printed():
    text = r'{"a": NaN, "b": -Infinity, "c": 1e999, "d": "\ud83d\ude00 \ud800", "e": 1.5}'
    assert documents(text).values == (
        {"a": None, "b": None, "c": None, "d": "😀 \ufffd", "e": 1.5},
    )


def test_documents_stand_one_a_line():
    found = documents('{"a": 1}\n{"a": 2}\nthen words\n')
    assert (found.values, found.unread, found.cut) == (
        ({"a": 1}, {"a": 2}),
        ("then words",),
        False,
    )
