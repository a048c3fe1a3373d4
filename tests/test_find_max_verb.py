"""`ropeway bench --find-max` on a terminal: what came of each probe, and of the search."""

import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fake_endpoint import Behaviour, running

from children import INTERRUPTIBLE
from ropeway.cli.main import exit_code
from waiting import SECONDS, wait_for

FAST = Behaviour(ttft_s=0.02, tpot_s=0.001)
SMALL = ("--requests", "6", "--output-tokens", "4", "--input-tokens", "8", "--warmup", "1")


def test_each_probe_says_in_its_line_what_came_of_it(tmp_path: Path) -> None:
    """And a search that is broken off then keeps what it knows."""
    folder, pipe = tmp_path / "r", subprocess.PIPE
    argv = (*INTERRUPTIBLE, sys.executable, "-m", "ropeway", "bench", "--find-max")

    def verdicts() -> dict[str, str]:
        path = folder / "sweep.json"
        return json.loads(path.read_text())["found"]["verdicts"] if path.exists() else {}

    with running(replace(FAST, capacity=2, ttft_s=0.05)) as fake:
        more = (*SMALL, "--url", fake.url, "--clients", "16", "--slo", "e2e=500ms")
        more = (*more, "--requests", "30", "--out", str(folder))
        with subprocess.Popen((*argv, *more), stdout=pipe, stderr=pipe, text=True) as process:
            try:
                wait_for(lambda: len({said == "holds" for said in verdicts().values()}) > 1)
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=SECONDS)
            finally:
                process.kill()
    assert process.returncode == 130, err
    ends = re.findall(r"^(ok|warn) +(?:try|confirm) .* s  ([^\d\n]+)$", err, re.M)
    known = [*verdicts().values()]
    assert [said for _, said in ends][: len(known)] == known
    assert all((mark == "ok") is (said == "holds") for mark, said in ends)
    assert "held in a probe, and were not confirmed" in out


def test_why_no_rate_was_found_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(FAST) as fake:
        argv = ("bench", "--url", fake.url, *SMALL, "--out", str(tmp_path / "r"))
        assert exit_code([*argv, "--find-max", "--slo", "e2e=1ms"]) == 1
    said = capsys.readouterr()
    assert said.out.count("no rate meets the goals: a request that is alone misses them") == 1
    assert "no rate meets the goals" not in said.err
    assert "`--find-max` has confirmed no rate" in said.err
