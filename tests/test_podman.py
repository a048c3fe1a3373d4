"""What is other with podman, without running it; test_two_hosts_podman.py does."""

from dataclasses import replace

import pytest

from recorded import ANSWERS
from ropeway.errors import CheckFailed
from ropeway.facts.gather import Answers, facts_from
from ropeway.facts.host import HostFacts
from ropeway.facts.script import Answer
from ropeway.launch import docker
from ropeway.launch.checks import check_hosts
from ropeway.launch.docker import in_utc
from ropeway.launch.dry_run import dry_run
from ropeway.launch.logs import line_of
from ropeway.launch.rollout import Rollout, Service
from test_launch_commands import ME, service_of, spec_of


def service(command: str, *, restart: bool = True) -> Service:
    return service_of(
        spec_of(f"runtime: {{command: {command}}}", layout="TP8×PP2", restart=restart)
    )


def test_podman_is_told_to_restart_at_the_start_and_docker_afterwards():
    one = Rollout(service("docker")).containers[0]
    assert "--restart" not in docker.run_argv("docker", one, {}, restart=True)
    assert "--restart" not in docker.run_argv("podman", one, {})
    argv = docker.run_argv("podman", one, {}, restart=True)
    assert argv[argv.index("--restart") + 1] == "always"
    scripts = {name: dry_run(Rollout(service(name)), "base", ME) for name in ("docker", "podman")}
    assert [text.count("update --restart") for text in scripts.values()] == [2, 0]
    assert [text.count("--restart always") for text in scripts.values()] == [0, 2]
    assert "--restart" not in dry_run(Rollout(service("podman", restart=False)), "base", ME)


def test_what_podman_needs_after_a_reboot_is_said():
    (note,) = set(service("podman").notes) - set(service("docker").notes)
    assert "systemctl enable podman-restart.service" in note
    assert service("podman", restart=False).notes == service("docker").notes


@pytest.mark.parametrize(
    ("stamp", "expected"),
    [
        ("2026-11-28T15:19:15.322502732+08:00", "2026-11-28T07:19:15.322502732Z"),
        ("2026-11-28T15:19:15.3225+08:00", "2026-11-28T07:19:15.322500000Z"),
        ("2026-11-28T23:30:00-05:30", "2026-11-29T05:00:00.000000000Z"),
        ("2026-11-28T07:15:42.59893335Z", "2026-11-28T07:15:42.598933350Z"),
        ("2026-11-28T07:15:42.598933354Z", "2026-11-28T07:15:42.598933354Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000000Z"),
        ("0001-01-01T00:00:00+08:00", "0001-01-01T00:00:00+08:00"),
        ("2026-13-99T00:00:00+08:00", "2026-13-99T00:00:00+08:00"),
        ("2026", "2026"),
    ],
)
def test_times_of_all_hosts_are_sorted_as_texts(stamp, expected):
    assert in_utc(stamp) == expected
    line = line_of("h head", f"{stamp} said")
    assert (line.time, line.text) == (expected, "said")


def recorded() -> HostFacts:
    """Of a host whose images have names without a registry."""
    texts = {
        "docker-version": ANSWERS.text_of("podman_version_json"),
        "docker-images": ANSWERS.text_of("podman_images_json").replace("quay.io/", "localhost/"),
    }
    answers = [Answer(key, None, None, 0, text) for key, text in texts.items()]
    return facts_from("h", "192.168.0.147", Answers(answers))


def test_an_image_without_a_registry_has_its_own_name_too():
    engine = recorded().docker
    assert engine is not None
    names = {one.name for one in engine.images}
    assert any(name.startswith("localhost/") for name in names)
    assert {name.removeprefix("localhost/") for name in names} <= names


def test_podman_that_answers_to_docker_is_refused_by_name():
    first = replace(recorded(), name="192.168.0.147")
    check_hosts(Rollout(service("podman")), {first.name: first})
    with pytest.raises(CheckFailed, match="another container engine answers to `docker`") as caught:
        check_hosts(Rollout(service("docker")), {first.name: first})
    assert caught.value.evidence == ("192.168.0.147: `docker` is podman 4.3.1",)
