"""Nothing from outside becomes a command: names, paths and values, through real shells and sshd.

Programs that only write down what they were given stand for docker, vllm, ray and python3.
"""

import json
import os
import subprocess
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings

from children import TEXT
from ropeway.hosts.base import shell_file
from ropeway.hosts.ssh import SshHost
from ropeway.launch import docker
from ropeway.launch.dry_run import dry_run
from ropeway.launch.labels import labels_of, list_argv, read_containers
from ropeway.launch.rollout import Rollout, Service
from ropeway.launch.scripts import FOLDER
from ropeway.spec.model import Spec
from test_launch_commands import ME, service_of, spec_of

pytestmark = pytest.mark.real_time

NASTY = TEXT.filter(bool)
WORST = "-a $(touch owned)`touch owned`\n';touch owned;'\"\\"
# What the spec lets through: no control characters in a path, no blanks in a served name.
PATHS = NASTY.filter(lambda text: all(ord(sign) > 31 and ord(sign) != 127 for sign in text))
NAMES = NASTY.map(lambda text: "".join(text.split()).lstrip("-")).filter(bool)
SETTINGS = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
_RECORDER = """\
#!/bin/sh
printf '%s\\0' "$#" "$@" >>"$RECORDED/${0##*/}"
case $2 in on) exec sleep 1;; esac # the watchdog does not end before the engine
"""


class Bench:
    """A folder in which recorders stand for programs, and what they heard."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recorded = folder / "recorded"
        self.recorded.mkdir()
        (folder / "bin").mkdir()
        for name in ("docker", "vllm", "ray", "python3"):
            (folder / "bin" / name).write_text(_RECORDER)
            (folder / "bin" / name).chmod(0o755)

    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "RECORDED": str(self.recorded), "KEY": WORST, "LANG": "C.UTF-8",
        }  # fmt: skip

    def forget(self) -> None:
        for file in self.recorded.iterdir():
            file.unlink()

    def run(self, script: str, *args: str) -> "subprocess.CompletedProcess[str]":
        self.forget()
        return subprocess.run(
            ("bash", "-c", script, "bash", *args), cwd=self.folder, env=self.environment(),
            capture_output=True, text=True, errors="replace", timeout=60, check=False,
        )  # fmt: skip

    def heard(self, program: str) -> list[tuple[str, ...]]:
        """The argv of each of its calls."""
        file = self.recorded / program
        words = iter(file.read_bytes().decode().split("\0")[:-1] if file.exists() else [])
        return [tuple(islice(words, int(count))) for count in words]

    def is_owned(self) -> bool:
        return any(self.folder.rglob("owned"))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def nasty_spec(path: str, name: str, value: str) -> Spec:
    """A spec with all of it in it, past the checks that would refuse some."""
    spec = spec_of(layout="TP8xPP2", api_key_env="KEY")
    model = spec.model.model_copy(update={"path": f"/data/{path}", "served_name": name})
    serve = spec.serve.model_copy(
        update={"env": {"SOME": value}, "engine_args": {"generation-config": value}}
    )
    runtime = spec.runtime.model_copy(update={"mirror": "mirror.example.org"})
    return spec.model_copy(update={"model": model, "serve": serve, "runtime": runtime})


def in_folder(service: Service, folder: Path) -> Service:
    """The service with its files in a folder of the test."""
    sites = tuple(
        replace(site, folder=str(folder / site.name), cache=str(folder / "cache"))
        for site in service.sites
    )
    return replace(service, sites=sites)


@SETTINGS
@given(PATHS, NAMES, NASTY)
@example(WORST.replace("\n", " "), "".join(WORST.split()).lstrip("-"), WORST)
def test_the_printed_script_hands_on_each_word_as_it_is(bench, path, name, value):
    service = in_folder(service_of(nasty_spec(path, name, value)), bench.folder)
    rollout = Rollout(service)
    script = dry_run(rollout, "quay.io/base:1", ME)
    for host, containers in rollout.containers_by_host.items():
        assert bench.run(script, host).returncode == 0
        calls = bench.heard("docker")
        assert not {call[0] for call in calls} & {"pull", "tag"}, "the image is there"
        assert [call for call in calls if call[:2] == ("run", "--detach")] == [
            docker.run_argv("docker", one, labels_of(rollout, one, ME))[1:] for one in containers
        ]
        for file in rollout.files_by_host[host]:
            assert Path(file.path).read_bytes() == file.content
    assert not bench.is_owned()


def test_without_a_host_the_script_says_how_and_runs_nothing(bench):
    rollout = Rollout(in_folder(service_of(nasty_spec("m", "m", "v")), bench.folder))
    script = dry_run(rollout, "quay.io/base:1", ME)
    for args in ((), ("another",)):
        found = bench.run(script, *args)
        assert (found.returncode, found.stdout, bench.heard("docker")) == (2, "", [])
        for host in rollout.containers_by_host:
            assert f"\n  bash commands.sh {host}\n" in found.stderr
    told = [line for line in found.stderr.splitlines() if "export" in line]
    assert told == ["export first, with the same value on every host: KEY"], "once"


def test_a_command_that_fails_ends_the_script(bench):
    rollout = Rollout(in_folder(service_of(nasty_spec("m", "m", "v")), bench.folder))
    (bench.folder / "bin" / "docker").write_text(
        '#!/bin/sh\necho "$1" >>"$RECORDED/said"; exit 7\n'
    )
    host = next(iter(rollout.containers_by_host))
    assert bench.run(dry_run(rollout, "quay.io/base:1", ME), host).returncode == 7
    assert (bench.recorded / "said").read_text() == "image\npull\n"


@SETTINGS
@given(PATHS, NAMES, NASTY)
@example(WORST.replace("\n", " "), "".join(WORST.split()).lstrip("-"), WORST)
def test_the_script_of_a_container_hands_on_each_word_as_it_is(bench, path, name, value):
    service = service_of(nasty_spec(path, name, value))
    head = next(file for file in Rollout(service).files if file.path.endswith("-0-0.sh"))
    script = head.content.decode().replace(f". {FOLDER}", f"true {FOLDER}")
    bench.run(script.replace("sleep 1\n", "sleep 0.01\n"))  # between looks at what is to end
    (serve,) = bench.heard("vllm")
    assert serve[1] == f"/data/{path}"
    assert name in serve
    assert value in serve or f"--generation-config={value}" in serve
    assert not bench.is_owned()


@SETTINGS
@given(NASTY)
@example("END\nEND_\nEND")
def test_a_file_in_a_printed_script_is_written_as_it_is(bench, text):
    bench.run(shell_file("it's a file", text))
    whole = text if text.endswith("\n") else f"{text}\n"
    assert (bench.folder / "it's a file").read_bytes().decode() == whole


def test_a_secret_with_anything_in_it_reaches_the_engine_and_no_argv(bench):
    service = in_folder(service_of(nasty_spec("m", "m", "v")), bench.folder)
    script = dry_run(Rollout(service), "base", ME)
    assert '"${KEY:?}"' in script, "bash stops where it is not set"
    bench.run(script, service.sites[0].name)
    assert WORST not in "".join(word for call in bench.heard("docker") for word in call)
    secrets = bench.folder / service.sites[0].name / service.name / "ropeway-qwen3-vl-0-0.secrets"
    assert secrets.stat().st_mode & 0o777 == 0o600
    told = subprocess.run(
        ("bash", "-c", f'. "{secrets}"; printf %s "$VLLM_API_KEY"'),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout == WORST


@pytest.fixture(scope="module")
def host(server) -> SshHost:
    return server.host("npu0")


@pytest.mark.slow
@SETTINGS
@given(PATHS, NAMES, NASTY)
@example(WORST.replace("\n", " "), "".join(WORST.split()).lstrip("-"), WORST)
def test_a_run_over_ssh_hands_on_each_word_as_it_is(host, bench, path, name, value):
    rollout = Rollout(service_of(nasty_spec(path, name, value)))
    one = rollout.containers[0]
    argv = docker.run_argv("docker", one, labels_of(rollout, one, ME))
    bench.forget()
    env = bench.environment()
    host.run(("env", f"PATH={env['PATH']}", f"RECORDED={env['RECORDED']}", *argv))
    assert bench.heard("docker") == [argv[1:]]
    assert not bench.is_owned()


@pytest.mark.slow
def test_labels_come_back_as_they_were_put(host, tmp_path):
    service = service_of(nasty_spec(WORST.replace("\n", " "), "m", WORST))
    rollout = Rollout(service)
    labels = labels_of(rollout, rollout.containers[0], ME)
    answer = [{"Id": "1", "Name": "n", "State": {"Status": "running"},
               "Config": {"Labels": labels}}]  # fmt: skip
    (tmp_path / "answer").write_text(json.dumps(answer))
    engine = tmp_path / "docker"
    engine.write_text(f'#!/bin/sh\ncase $1 in ps) echo 1;; *) cat "{tmp_path}/answer";; esac\n')
    engine.chmod(0o755)
    result = host.run(("env", f"PATH={tmp_path}:{os.environ['PATH']}", *list_argv("docker")))
    (found,) = read_containers(result.check("it asks", where="npu0").stdout, "npu0")
    assert found.spec == service.spec
