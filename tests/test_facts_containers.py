"""The container engine, its images and containers, as JSON of docker, podman and nerdctl."""

import json

import pytest

from ropeway.facts.containers import (
    CONTAINERS,
    Engine,
    parse_containers,
    parse_engine,
    parse_images,
    parse_root,
    with_engine,
)
from ropeway.facts.host import Container, Image
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
    for parse in (parse_engine, parse_images, parse_containers, parse_root):
        alone = parse(f"{complaint}\n")
        assert (alone.state, alone.error) == ("error", ToolError(kind, complaint))


def test_a_client_alone_is_half_an_answer():
    parsed = parse_engine(json.dumps(CLIENT))
    assert (parsed.state, parsed.value) == ("partial", Engine("docker", None))


def test_nerdctl_has_containerd_as_its_server():
    server = {"Components": [{"Name": "containerd", "Version": "1.6.6"}]}
    text = json.dumps({"Client": {"Version": "v0.21.0"}, "Server": server})
    assert parse_engine(text).value == Engine("nerdctl", "1.6.6")


@pytest.mark.parametrize("parse", [parse_engine, parse_images, parse_containers, parse_root])
@pytest.mark.parametrize("text", ["sh: 1: docker: not found\n", "bash: docker: command not found"])
def test_a_host_without_docker_has_none(parse, text):
    assert parse(text).state == "absent"


def test_an_image_has_every_name_by_which_it_can_be_run():
    rows = [
        {"Repository": "a/b", "Tag": "v1", "ID": "sha256:0123"},
        {"Repository": "<none>", "Tag": "<none>", "ID": "sha256:4567"},
    ]
    assert parse_images("\n".join(map(json.dumps, rows))).value == (Image("a/b:v1", "0123"),)
    podman = [{"Id": "0123", "Names": ["localhost/x:1", "docker.io/y:2"]}, {"Id": "4567"}]
    assert parse_images(json.dumps(podman, indent=2)).value == (
        Image("localhost/x:1", "0123"),
        Image("docker.io/y:2", "0123"),
        Image("x:1", "0123"),
    )
    assert parse_images("[]\n").value == ()


def row(name: str, *devices: str, privileged: object = False) -> str:
    given = [{"PathOnHost": f"/dev/{path}", "PathInContainer": "/dev/x"} for path in devices]
    fields = {"name": f"/{name}", "image": "i:1", "privileged": privileged, "devices": given}
    return json.dumps(fields) + "\n"


def test_npus_are_numbered_as_the_host_numbers_them():
    text = row("a", "davinci7", "davinci3", "hisi_hdc") + row("b", privileged=True)
    assert parse_containers(text).value == (
        Container("a", "i:1", (3, 7)),
        Container("b", "i:1", (), privileged=True),
    )


def test_an_answer_that_was_cut_keeps_the_containers_before():
    parsed = parse_containers(row("a", "davinci0") + row("b")[:40])
    assert (parsed.state, parsed.value) == ("partial", (Container("a", "i:1", (0,)),))


def test_nothing_that_may_hold_a_secret_is_asked():
    words = " ".join(" ".join(question.argv) for question in questions())
    assert "inspect" in words
    assert not any(
        word in words for word in ("Env", "Proxy", "docker info --format {{json", "ps -a")
    )


def test_other_engines_are_asked_in_the_same_words():
    argv = with_engine(CONTAINERS, "podman").argv
    assert "podman inspect" in argv[-1] and "docker" not in " ".join(argv)
