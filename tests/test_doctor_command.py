"""`ropeway doctor` as a user types it: what it prints, its exit codes, its pages."""

import re
from pathlib import Path

import pytest

from json_documents import read_document
from ropeway.cli.main import exit_code
from ropeway.doctor.checks import CAUSES, GROUPS
from ropeway.sim.faults import FAULTS

PAGE = Path(__file__).parent.parent / "docs" / "doctor.md"
CHECKS = {check.id for checks in GROUPS.values() for check in checks}


def run(capsys, *args: str) -> tuple[int, str, str]:
    code = exit_code(["doctor", *args])
    output = capsys.readouterr()
    return code, output.out, output.err


def lines(output: str) -> list[str]:
    return [line.strip() for line in output.splitlines() if line.strip()]


def test_a_sound_cluster_takes_two_lines(capsys):
    code, out, _ = run(capsys, "--rehearse", "2x8-910B4")
    assert code == 0
    assert lines(out) == [
        "2 hosts · 16 NPUs · 128 pings: sound",
        "ok    hosts · NPUs · versions · containers · model · ports · network",
    ]


def test_a_fault_is_shown_with_its_fix_and_its_consequences(capsys):
    code, out, _ = run(capsys, "--rehearse", "2x8-910B4", "--fault", "no-light:host1:5")
    assert code == 1
    summary, title, evidence, expected, fix, *consequences, passed = lines(out)
    assert summary == "2 hosts · 16 NPUs · 128 pings: 1 fault"
    assert title.startswith("FAIL  ") and title.endswith("  host1 NPU 5")
    assert evidence.startswith("found ") and "0.0001 mW" in evidence and "0.1445 mW" in evidence
    assert (expected.split()[0], fix.split()[0]) == ("expected", "fix")
    assert len(consequences) == 3
    for line in consequences:
        assert line.startswith("consequence: ") and "host1 NPU 5" in line
    assert passed.startswith("ok ")


def test_a_warning_alone_is_not_a_failure(capsys):
    code, out, _ = run(capsys, "--rehearse", "2x8-910B4", "--fault", "disk-full")
    assert code == 0
    assert "sound, 1 warning" in out


def test_two_hundred_hosts_fit_on_a_screen(capsys):
    faults = [f"--fault=shm-small:host{number}" for number in range(1, 151)]
    code, out, _ = run(capsys, "--rehearse", "200x8-910B4", *faults, "--partners", "1")
    assert code == 1
    assert len(out.splitlines()) < 15
    assert "host1, host2, host3, host4 and 146 more" in " ".join(out.split())


def test_verbose_names_every_location_the_source_and_the_check(capsys):
    faults = [f"--fault=shm-small:host{number}" for number in range(1, 7)]
    _, out, _ = run(capsys, "-v", "--rehearse", "8x2-910B4", *faults)
    assert "host1, host2, host3, host4, host5, host6" in " ".join(out.split())
    assert "gpustack #5014" in out
    assert "host-shm" in out


def test_json_is_one_document(capsys):
    code, out, err = run(
        capsys, "--json", "--rehearse", "2x8-910B4", "--fault", "link-down:host2:7"
    )
    result = read_document(out)
    assert (code, err) == (1, "")
    counts = {key: result[key] for key in ("schema", "hosts", "answered", "npus", "pings")}
    assert counts == {"schema": 1, "hosts": 2, "answered": 2, "npus": 16, "pings": 128}
    assert result["ok"] is False
    finding, *consequences = result["findings"]
    assert set(finding) == {
        "check", "level", "title", "locations", "total", "evidence", "expected", "fix", "source",
        "cause",
    }  # fmt: skip
    assert (finding["check"], finding["level"], finding["total"]) == ("roce-link", "fail", 16)
    assert finding["locations"] == [{"host": "host2", "device": 7}]
    assert finding["cause"] is None
    assert {one["cause"] for one in consequences} == {"roce-link"}
    assert result["passed"] == ["hosts", "NPUs", "versions", "containers", "model"]


@pytest.mark.parametrize(
    ("size", "squares", "dead"), [("2x8-910B4", 128, 16), ("6x2-910B4", 30, 0)]
)
def test_the_page_holds_every_finding_and_every_ping(capsys, tmp_path, size, squares, dead):
    page = tmp_path / "doctor.html"
    code, _, _ = run(
        capsys, "--rehearse", size, "--fault", "link-down:host1:0", "--html", str(page)
    )
    text = page.read_text()
    assert code == 1
    assert text.count("<article>") == 1
    assert text.count('<rect class="') == squares
    assert text.count('<rect class="dead"') == dead
    assert "http://" not in text
    assert "<script" not in text


def test_text_from_outside_is_escaped_on_the_page(capsys, tmp_path):
    page = tmp_path / "doctor.html"
    image = "<script>alert(1)</script>"
    run(capsys, "--rehearse", "2x2-910B4", "--image", image, "--html", str(page))
    assert "<script>" not in page.read_text()
    assert "docker pull &lt;script&gt;" in page.read_text()


def test_all_faults_can_be_listed(capsys):
    code, out, _ = run(capsys, "--list-faults")
    assert code == 0
    assert all(name in out for name in FAULTS)


@pytest.mark.parametrize(
    ("args", "what", "hint"),
    [
        (["--rehearse", "two"], "two", "2x8-910B4"),
        (["--rehearse", "2x8-910B4", "--fault", "no-such"], "no-such", "--list-faults"),
        (["--fault", "tls-on"], "--fault", "--rehearse"),
        (["--rehearse", "2x8-910B4", "host1"], "--rehearse", "HOST"),
        (["a b"], "a b", "root@"),
        (["-c", "no-such.yaml"], "no-such.yaml", "ropeway init"),
        (["-c", "virtual.yaml"], "", "--rehearse"),
    ],
)
def test_bad_input_is_refused_with_a_hint(capsys, tmp_path, monkeypatch, args, what, hint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "virtual.yaml").write_text("cluster: {local: {}}\nmodel: {name: smollm2}\n")
    code, out, err = run(capsys, *args)
    assert (code, out) == (2, "")
    assert what in err
    assert hint in err


def test_a_host_that_does_not_exist_is_a_finding_and_not_a_crash(capsys):
    code, out, _ = run(capsys, "--json", "no-such-host.invalid")
    assert code == 1
    [finding] = read_document(out)["findings"]
    assert finding["check"] == "host-reach"
    assert finding["locations"] == [{"host": "no-such-host.invalid", "device": None}]


def test_every_check_is_in_the_documentation_and_no_other():
    table = re.findall(r"^\| `([a-z-]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(table) == CHECKS


def test_every_fault_and_every_cause_names_a_check_that_exists():
    assert len(FAULTS) >= 30
    assert {fault.check for fault in FAULTS.values()} <= CHECKS
    assert set(CAUSES) | {cause for causes in CAUSES.values() for cause in causes} <= CHECKS


def test_the_documented_session_is_what_the_command_prints(capsys):
    for block in PAGE.read_text(encoding="utf-8").split("```console\n")[1:]:
        command, _, shown = block.split("```")[0].partition("\n")
        _, out, _ = run(capsys, *command.removeprefix("$ ropeway doctor ").split())
        assert "\n".join(line.rstrip() for line in out.splitlines()).strip() == shown.strip()
