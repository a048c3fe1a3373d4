"""benchmarks/batch_check.py, the look at a batch job's files that trusts nothing of ours."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "batch_check.py"
# As a person may write them: spaces, an order of keys, escapes, a number that a float cannot hold.
BODIES = [
    '{"model":"m","messages":[]}',
    '{ "seed" : 123456789012345678901 ,"t":1.10}',
    '{"text":"\\u00e9é}\\"{"}',
    '{"a":{"b":[{}]}}',
]
INPUT = [
    '{"custom_id":"r0","method":"POST","url":"/v1/chat/completions","body":' + BODIES[0] + "}",
    '  { "body" : ' + BODIES[1] + ' , "custom_id" : "r1" }',
    "",
    '{"custom_id":"\\u0072\\u0032","body":' + BODIES[2] + "}",
    '{"custom_id":"r3","body":' + BODIES[3] + "}",
]


def answer(row: int, finish: str = "stop", body: str | None = None) -> str:
    said = hashlib.blake2b((body or BODIES[row]).encode(), digest_size=16).hexdigest()
    choice = {"message": {"content": said}, "finish_reason": finish}
    response = {"status_code": 200, "body": {"choices": [choice]}}
    return json.dumps({"custom_id": f"r{row}", "response": response, "error": None})


ERROR = '{"custom_id":"r3","response":null,"error":{"code":"x","message":"y"}}'
OUTPUT = [answer(0), answer(1, "length"), answer(2)]


def check(folder: Path, output: list[str], errors: list[str], *flags: str) -> tuple[int, str, str]:
    for name, lines in (("in", INPUT), ("out", output), ("err", errors)):
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    paths = [str(folder / name) for name in ("in", "out", "err")]
    ended = subprocess.run([sys.executable, SCRIPT, *paths, *flags], capture_output=True, text=True)
    return ended.returncode, ended.stdout, ended.stderr


def test_right_files(tmp_path: Path) -> None:
    code, out, err = check(tmp_path, OUTPUT, [ERROR], "--ordered")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"rows": 4, "answered": 2, "cut": 1, "errors": 1}


@pytest.mark.parametrize(
    ("output", "errors", "fault"),
    [
        (OUTPUT[:2], [ERROR], "r2 is in neither file"),
        ([*OUTPUT, answer(0)], [ERROR], "out:4: r0 is there a second time"),
        ([*OUTPUT, answer(3)], [ERROR], "err:1: r3 is there a second time"),
        ([*OUTPUT[:2], answer(2, body=BODIES[0])], [ERROR], "r2 has the answer of another row"),
        ([*OUTPUT, answer(0)[:-9]], [ERROR], "out:4: is no line of a batch's output"),
        ([*OUTPUT, ""], [ERROR], "out:4: is no line of a batch's output"),
        ([*OUTPUT, answer(0).replace("r0", "r9")], [ERROR], "r9 is no row of the input"),
        ([*OUTPUT, ERROR], [], "out:4: r3 has no good answer"),
        (OUTPUT, [answer(3)], "err:1: r3 says no error"),
        ([OUTPUT[1], OUTPUT[0], OUTPUT[2]], [ERROR], "r0 is not in the order of the input"),
    ],
)
def test_each_fault_is_found(tmp_path: Path, output, errors, fault: str) -> None:
    code, _, err = check(tmp_path, output, errors, "--ordered")
    assert code == 1
    assert f"{fault}" in err
    assert err.count("\n") == 1


def test_before_the_end_rows_may_be_missing(tmp_path: Path) -> None:
    assert check(tmp_path, OUTPUT[:1], [])[0] == 1
    assert check(tmp_path, OUTPUT[:1], [], "--partial")[0] == 0


def test_the_last_line_has_an_end(tmp_path: Path) -> None:
    check(tmp_path, OUTPUT, [ERROR])
    path = tmp_path / "out"
    path.write_text(path.read_text().removesuffix("\n"))
    paths = [str(tmp_path / name) for name in ("in", "out", "err")]
    ended = subprocess.run([sys.executable, SCRIPT, *paths], capture_output=True, text=True)
    assert "out:3: has no end" in ended.stderr
