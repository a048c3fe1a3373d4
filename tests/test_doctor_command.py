"""`ropeway doctor` as a user types it: what it prints, its exit codes, its page."""

import json
from pathlib import Path

import pytest

from ropeway.cli.main import exit_code
from ropeway.sim.faults import FAULTS


def run(capsys, *args: str) -> tuple[int, str, str]:
    code = exit_code(["doctor", *args])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_sound_cluster_is_told_in_two_lines(capsys):
    code, out, _ = run(capsys, "--rehearse", "2x8-910B4")
    assert code == 0
    assert [line.rstrip() for line in out.splitlines() if line.strip()] == [
        "2 hosts · 16 NPUs · 128 pings: sound",
        "ok    hosts · NPUs · versions · containers · model · network",
    ]


def test_a_fault_is_told_with_what_to_do_and_what_follows(capsys):
    code, out, _ = run(capsys, "--rehearse", "2x8-910B4", "--fault", "no-light:host1:5")
    assert code == 1
    told = [line.rstrip() for line in out.splitlines() if line.strip()]
    assert told[0] == "2 hosts · 16 NPUs · 128 pings: 1 fault"
    assert told[1] == "FAIL  optical modules receive little light  host1 NPU 5"
    assert told[2] == "      seen    0.0001 mW on host1 NPU 5, alarm below 0.1445 mW"
    assert told[4].split()[:4] == ["fix", "clean", "or", "replace"]
    assert told[5:8] == [
        "      so also: RoCE links are down (host1 NPU 5)",
        "      so also: the network's health is Fault (host1 NPU 5)",
        "      so also: pings to and from host1 NPU 5 do not arrive",
    ]


def test_a_warning_alone_is_no_failure(capsys):
    code, out, _ = run(capsys, "--rehearse", "2x8-910B4", "--fault", "disk-full")
    assert code == 0
    assert "sound, 1 warning" in out


def test_two_hundred_hosts_fit_on_a_screen(capsys):
    faults = [f"--fault=shm-small:host{number}" for number in range(1, 151)]
    code, out, _ = run(capsys, "--rehearse", "200x8-910B4", *faults, "--partners", "1")
    assert code == 1
    assert len(out.splitlines()) < 15
    assert "host1, host2, host3, host4 and 146 more" in " ".join(out.split())


def test_verbose_names_every_place_and_the_source(capsys):
    faults = [f"--fault=shm-small:host{number}" for number in range(1, 7)]
    _, out, _ = run(capsys, "-v", "--rehearse", "8x2-910B4", *faults)
    assert "host1, host2, host3, host4, host5, host6" in " ".join(out.split())
    assert "gpustack #5014" in out


def test_json_is_one_document(capsys):
    code, out, err = run(capsys, "--json", "--rehearse", "2x8-910B4", "--fault", "tls-on:host2:7")
    said = json.loads(out)
    assert (code, err) == (1, "")
    counts = {key: said[key] for key in ("schema", "hosts", "answered", "npus", "pings")}
    assert counts == {"schema": 1, "hosts": 2, "answered": 2, "npus": 16, "pings": 128}
    assert said["sound"] is False
    [finding] = said["findings"]
    assert finding["check"] == "roce-tls"
    assert finding["level"] == "fail"
    assert finding["places"] == [{"host": "host2", "device": 7}]
    assert said["passed"] == ["hosts", "NPUs", "versions", "containers", "model"]


def test_the_page_holds_every_finding_and_every_ping(capsys, tmp_path):
    page = tmp_path / "doctor.html"
    code, _, _ = run(
        capsys, "--rehearse", "2x8-910B4", "--fault", "link-down:host1:0", "--html", str(page)
    )
    text = page.read_text()
    assert code == 1
    assert "RoCE links are down" in text
    assert text.count('<rect class="good"') == 128 - 16
    assert text.count('<rect class="dead"') == 16
    assert "http://" not in text
    assert "<script" not in text


def test_what_comes_from_outside_is_escaped_on_the_page(capsys, tmp_path):
    page = tmp_path / "doctor.html"
    image = "<script>alert(1)</script>"
    run(capsys, "--rehearse", "2x2-910B4", "--image", image, "--html", str(page))
    assert "<script>" not in page.read_text()
    assert "&lt;script&gt;" in page.read_text()


def test_all_faults_can_be_listed(capsys):
    code, out, _ = run(capsys, "--list-faults")
    assert code == 0
    assert all(name in out for name in FAULTS)


@pytest.mark.parametrize(
    ("args", "what", "hint"),
    [
        (["--rehearse", "two"], "names no cluster", "2x8-910B4"),
        (["--rehearse", "2x8-910B4", "--fault", "no-such"], "no such fault", "--list-faults"),
        (["--fault", "tls-on"], "virtual hosts", "--rehearse"),
        (["--rehearse", "2x8-910B4", "host1"], "makes its own hosts", "leave HOST out"),
        (["a b"], "is not a host", "root@"),
        (["-c", "no-such.yaml"], "no such file", "ropeway init"),
    ],
)
def test_bad_input_is_refused_with_a_hint(capsys, args, what, hint):
    code, out, err = run(capsys, *args)
    assert (code, out) == (2, "")
    assert what in err
    assert hint in err


def test_a_spec_of_virtual_hosts_is_refused(capsys, tmp_path: Path):
    spec = tmp_path / "ropeway.yaml"
    spec.write_text("cluster: {local: {hosts: 2, npus: 2}}\nmodel: {name: smollm2}\n")
    code, _, err = run(capsys, "-c", str(spec))
    assert code == 2
    assert "--rehearse" in err


def test_a_host_that_does_not_exist_is_a_finding_and_not_a_crash(capsys):
    code, out, _ = run(capsys, "no-such-host.invalid")
    assert code == 1
    assert "hosts cannot be reached over SSH  no-such-host.invalid" in out
