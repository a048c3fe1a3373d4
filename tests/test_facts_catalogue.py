"""All outputs together: their names, the commands they are found by, and what is recognised."""

from collections.abc import Callable
from typing import Any

import pytest

from facts_recordings import RECORDINGS, expected_of, recorded, text_of
from ropeway.facts.base import Output
from ropeway.facts.catalogue import BY_NAME, OUTPUTS, find, near, recognise

RECORDED = recorded("")


def test_names_are_unique_and_plain() -> None:
    names = [output.name for output in OUTPUTS]
    assert len(set(names)) == len(names)
    assert all(name == name.lower() and set(name) & set("_ ") == set() for name in names)
    assert all(output.command for output in OUTPUTS)


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda output: output.name)
def test_an_output_is_found_by_its_name_however_it_is_written(output: Output[Any]) -> None:
    name = output.name
    for asked in (name, name.upper(), name.replace("-", "_"), name.replace("-", " "), f" {name}\n"):
        assert find(asked) is output


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("npu-smi info", "npu-smi-info"),
        ("watch -n 1 npu-smi info", "npu-smi-info"),
        ("docker exec -it x npu-smi info -m", "npu-smi-m"),
        ("npu-smi info -l", "npu-smi-l"),
        ("npu-smi info -h", "npu-smi-help"),
        ("npu-smi info -t board -i 0", "npu-smi-board"),
        ("npu-smi info -i 0 -c 0 -t board", "npu-smi-board-chip"),
        ("npu-smi info -t spod-info -i 0 -c 0", "npu-smi-spod"),
        ("npu-smi info -t current-fault-event -i 0", "npu-smi-fault-event"),
        ("npu-smi info -t temp -i 0", "npu-smi-details"),
        ("hccn_tool -i 3 -ip -g", "hccn-ip"),
        ("/usr/local/Ascend/driver/tools/hccn_tool -i 0 -tls -g | grep switch", "hccn-tls"),
        ("for i in {0..7}; do hccn_tool -i $i -ip -g; done", "hccn-ip"),
        ("for i in {0..7}; do hccn_tool -i $i -tls -g ; done | grep switch", "hccn-tls"),
        ("for i in 0 1\ndo\nhccn_tool -i $i -optical -g\ndone", "hccn-optical"),
        ("timeout 5 hccn_tool -i 0 -net_health -g", "hccn-net-health"),
        ("hccn_tool -g -link_stat -i 0 -u 0 -p 4", "hccn-link-stat"),
        ("hccn_tool -i 0 -ping -g address 10.0.0.2 pkt 64", "hccn-ping"),
        ("hccn_tool -i 0 -mac -g", "hccn-other"),
        ("cat /etc/hccn.conf", "hccn-conf"),
        ("sudo cat /etc/ascend_install.info", "ascend-install-info"),
        ("cat /usr/local/Ascend/driver/version.info", "driver-version-info"),
        ("/opt/Ascend/firmware/version.info", "firmware-version-info"),
        ("cat /usr/local/Ascend/nnae/latest/ascend_nnae_install.info", "cann-install-info"),
        ("cat /usr/local/Ascend/cann-8.5.0/compiler/version.info", "cann-version-info"),
        ("/usr/local/Ascend/driver/tools/upgrade-tool --device_index -1", "upgrade-tool"),
        ("lspci | grep acce", "lspci"),
        ("dmesg -T | grep -i ascend", "dmesg"),
        ("docker version", "docker-version"),
        ("sudo docker ps -a", "docker-ps"),
        ("ray status", "ray-status"),
        ("cat /proc/meminfo", "meminfo"),
    ],
)
def test_a_command_is_found_as_people_type_it(command: str, name: str) -> None:
    found = find(command)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    "asked", ["", " ", "nonsense", "cat", "hccn_tool", "ls -l", "'", "for i in"]
)
def test_what_is_no_output_is_not_found(asked: str) -> None:
    assert find(asked) is None


def test_a_slip_is_near_its_name() -> None:
    assert near("npu_smi_inof")[0] == "npu-smi-info"
    assert near("hccn") != []
    assert near("") == near("xyzzy") == []


# Recognised by themselves


@pytest.mark.parametrize("name", RECORDED)
def test_a_recording_is_recognised(name: str) -> None:
    found = recognise(text_of(name))
    assert found is not None
    assert found.name == expected_of(name)["output"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Get ipconf failed, because no ip was preset there!", "hccn-ip"),
        ("Get gateway failed, because no gateway was preset there!", "hccn-gateway"),
        ("hccn_tool is busy, please try again.", "hccn-other"),
        ("$ hccn_tool -i 0 -lldp -g\nhccn_tool is busy, please try again.", "hccn-lldp"),
        ("dcmi module initialize failed. ret is -8005", "npu-smi-info"),
        ("# npu-smi info -t ecc -i 0\ndcmi module initialize failed. ret is -8005", "npu-smi-ecc"),
        ("This device does not support querying spod-info.", "npu-smi-spod"),
        ("This device does not support querying temp.", "npu-smi-details"),
        ("bash: npu-smi: command not found", "npu-smi-info"),
        (
            "-bash: /usr/local/Ascend/driver/tools/hccn_tool: No such file or directory",
            "hccn-other",
        ),
        ("cat: /etc/hccn.conf: No such file or directory", "hccn-conf"),
        ("sh: 1: docker: not found", "docker-version"),
        ("link status: UP\nnet health status: Success\n", "hccn-multi"),
        ("roce_rx_err_pkt_num:0\n", "hccn-stat"),
        ("present              : not present\n", "hccn-optical"),
        ("NPU ID : 0\nNPU ID : 1\n", "npu-smi-l"),
    ],
)
def test_little_is_enough(text: str, name: str) -> None:
    found = recognise(text)
    assert found is not None
    assert found.name == name
    assert found.parse(text).state != "unknown"


@pytest.mark.parametrize("text", ["", "\n\n", "hello world\n", "a: b\n", "| a | b |\n", "{}]"])
def test_what_is_nothing_is_not_recognised(text: str) -> None:
    found = recognise(text)
    assert found is None or found.parse(text).state == "unknown"


# Whatever is put around them


def _lines(change: Callable[[str], str]) -> Callable[[str], str]:
    return lambda text: "".join(f"{change(line)}\n" for line in text.splitlines())


WRAPPINGS: dict[str, Callable[[str], str]] = {
    "CRLF": lambda text: text.replace("\n", "\r\n"),
    "a byte order mark": lambda text: "\ufeff" + text,
    "a fence": lambda text: f"```text\n{text.rstrip()}\n```\n",
    "quote marks": _lines(lambda line: f"> {line}"),
    "bare quote marks": _lines(lambda line: f">{line}"),
    "indentation": _lines(lambda line: f"    {line}"),
    "tabs": _lines(lambda line: f"\t{line}"),
    "trailing blanks": _lines(lambda line: f"{line}   "),
    "colours": _lines(lambda line: f"\x1b[32m{line}\x1b[0m"),
    "prompts": lambda text: f"[root@npu1 ~]# \n{text.rstrip()}\nroot@npu1:~# \n",
    "blank lines": lambda text: f"\n\n{text}\n\n",
    "hard blanks": lambda text: text.replace("  ", "\xa0 "),
    "no last line end": lambda text: text.rstrip("\n"),
    "a quoted fence": lambda text: _lines(lambda line: f"> {line}")(f"```\n{text.rstrip()}\n```"),
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("name", RECORDED)
def test_what_stands_around_a_recording_changes_nothing(name: str, wrapping: str) -> None:
    text = text_of(name)
    output = BY_NAME[expected_of(name)["output"]]
    wrapped = WRAPPINGS[wrapping](text)
    plain, read = output.parse(text), output.parse(wrapped)
    assert (read.state, read.value, read.error, read.unread) == (
        plain.state,
        plain.value,
        plain.error,
        plain.unread,
    )
    assert recognise(wrapped) is output


def test_every_expectation_belongs_to_a_recording() -> None:
    assert {path.stem for path in RECORDINGS.glob("*.json")} >= set(RECORDED)
    assert all((RECORDINGS / f"{name}.txt").is_file() for name in RECORDED)
