"""The container engine, its images and containers, as JSON of docker, podman and nerdctl."""

import json

import pytest

from ropeway.facts.containers import (
    CONTAINERS,
    Engine,
    parse_containers,
    parse_engine,
    parse_images,
    with_engine,
)
from ropeway.facts.question import ToolError
from ropeway.facts.questions import questions

AWAY = (
    "Cannot connect to the Docker daemon at unix:///var/run/docker.sock."
    " Is the docker daemon running?"
)
DENIED = (
    "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/"
    'docker.sock: Get "http://%2Fvar%2Frun%2Fdocker.sock/v1.24/version": dial unix'
    " /var/run/docker.sock: connect: permission denied"
)
NEW = (
    "failed to connect to the docker API at unix:///var/run/docker.sock; check if the path is"
    " correct and if the daemon is running: dial unix /var/run/docker.sock: connect: no such file"
    " or directory"
)
ROOTLESS = (
    "FATA[0000] rootless containerd not running? (hint: use `containerd-rootless-setuptool.sh"
    " install` to start rootless containerd): stat /run/user/1000/containerd-rootless:"
    " no such file or directory"
)
CLIENT = {"Client": {"Version": "28.2.2", "ApiVersion": "1.41"}, "Server": None}


@pytest.mark.parametrize(
    ("complaint", "kind"),
    [(AWAY, "failed"), (DENIED, "denied"), (NEW, "failed"), (ROOTLESS, "failed")],
)
def test_a_daemon_that_is_away_is_an_error(complaint, kind):
    parsed = parse_engine(f"{json.dumps(CLIENT)}\n{complaint}\n")
    assert (parsed.state, parsed.value) == ("error", Engine("docker", None))
    assert parsed.error == ToolError(kind, complaint)
    for parse in (parse_engine, parse_images, parse_containers):
        alone = parse(f"{complaint}\n")
        assert (alone.state, alone.error) == ("error", ToolError(kind, complaint))


@pytest.mark.parametrize("parse", [parse_engine, parse_images, parse_containers])
@pytest.mark.parametrize("text", ["sh: 1: docker: not found\n", "bash: docker: command not found"])
def test_a_host_without_docker_has_none(parse, text):
    assert parse(text).state == "absent"


def test_nothing_that_may_hold_a_secret_is_asked():
    words = " ".join(" ".join(question.argv) for question in questions())
    assert "inspect" in words
    assert not any(
        word in words for word in ("Env", "Proxy", "docker info --format {{json", "ps -a")
    )


def test_other_engines_are_asked_in_the_same_words():
    argv = with_engine(CONTAINERS, "podman").argv
    assert "podman inspect" in argv[-1] and "docker" not in " ".join(argv)
