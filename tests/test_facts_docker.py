"""The container engine of a host: its versions, what it says of itself, and how it says no."""

import dataclasses
import json
from pathlib import Path

import pytest

from ropeway.facts.base import ToolError
from ropeway.facts.containers import parse_inspect, parse_ps
from ropeway.facts.docker import (
    EngineInfo,
    EngineVersion,
    Part,
    Runtime,
    for_engine,
    parse_info,
    parse_version,
)
from ropeway.facts.images import image_command, parse_image_inspect, parse_images

RECORDINGS = Path(__file__).parent / "recordings"
DEBIAN_PARTS = (Part("containerd", "1.6.20~ds1"), Part("runc", "1.1.5+ds1"))
AWAY = (
    "Cannot connect to the Docker daemon at unix:///var/run/docker.sock."
    " Is the docker daemon running?"
)


def recording(name: str) -> str:
    return (RECORDINGS / name).read_text(encoding="utf-8")


def test_client_and_server_are_read_apart():
    reading = parse_version(recording("docker_version_01.txt"))
    assert reading.state == "ok"
    assert reading.value == EngineVersion(
        engine="docker",
        client_version="19.03.2",
        server_version="19.03.2",
        api_version="1.40",
        min_api_version="1.12",
        platform="linux/arm64",
        edition="Docker Engine - Community",
        parts=(
            Part("containerd", "1.2.6"),
            Part("runc", "1.0.0-rc8"),
            Part("docker-init", "0.18.0"),
        ),
    )


def test_a_server_without_an_edition_is_read():
    assert parse_version(recording("docker_version_20.txt")).value == EngineVersion(
        engine="docker",
        client_version="20.10.24+dfsg1",
        server_version="20.10.24+dfsg1",
        api_version="1.41",
        min_api_version="1.12",
        platform="linux/amd64",
        parts=DEBIAN_PARTS,
    )


def test_json_says_the_same_and_the_kernel():
    reading = parse_version(recording("docker_version_json.txt"))
    assert reading.state == "ok"
    assert reading.value == EngineVersion(
        engine="docker",
        client_version="28.2.2",
        server_version="20.10.24+dfsg1",
        api_version="1.41",
        min_api_version="1.12",
        platform="linux/amd64",
        kernel="6.1.0-18-amd64",
        parts=DEBIAN_PARTS,
    )


def test_an_old_server_needs_no_engine_line():
    text = "Client:\n Version:  17.12.1-ce\n\nServer:\n Version:  17.12.0-ce\n API version: 1.35\n"
    value = parse_version(text).value
    assert value is not None
    assert (value.client_version, value.server_version) == ("17.12.1-ce", "17.12.0-ce")


def test_a_client_alone_is_half_an_answer():
    reading = parse_version(recording("docker_version_03.txt"))
    assert reading.state == "partial"
    assert reading.value == EngineVersion(
        engine="docker",
        client_version="28.0.4",
        server_version=None,
        api_version="1.48",
        platform="linux/arm64",
        edition="Docker Engine - Community",
    )


def test_a_daemon_that_is_away_is_an_error_beside_the_client():
    reading = parse_version(recording("docker_version_no_daemon.txt"))
    assert reading.state == "error"
    assert reading.error == ToolError("failed", AWAY)
    assert reading.value is not None and reading.value.client_version == "28.2.2"


def test_a_user_without_the_group_is_denied():
    for parse, name in (
        (parse_version, "docker_version_denied.txt"),
        (parse_ps, "docker_ps_denied.txt"),
    ):
        reading = parse(recording(name))
        assert reading.state == "error"
        assert reading.error is not None and reading.error.kind == "denied"
        assert reading.error.message.startswith("permission denied while trying to connect to the")


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_ps, recording("docker_ps_no_daemon.txt")),
        (parse_info, recording("docker_info_json_no_daemon.txt")),
        (parse_info, f"Client:\n Version: 28.2.2\n\nServer:\n{AWAY}\n"),
        (parse_images, AWAY),
        (parse_image_inspect, f"[]\n{AWAY}\n"),
        (parse_inspect, AWAY),
    ],
)
def test_a_daemon_that_is_away_is_an_error(parse, text):
    reading = parse(text)
    assert (reading.state, reading.value, reading.error) == (
        "error",
        None,
        ToolError("failed", AWAY),
    )


def test_the_client_of_29_has_other_words_for_it():
    text = (
        "failed to connect to the docker API at unix:///var/run/docker.sock; check if the path is"
        " correct and if the daemon is running: dial unix /var/run/docker.sock: connect:"
        " no such file or directory\n"
    )
    reading = parse_ps(text)
    assert reading.state == "error" and reading.error is not None
    assert reading.error.kind == "failed"


@pytest.mark.parametrize("parse", [parse_version, parse_info, parse_images, parse_ps])
@pytest.mark.parametrize(
    "text", ["sh: 1: docker: not found\n", "bash: docker: command not found\n"]
)
def test_a_host_without_docker_has_none(parse, text):
    assert parse(text).state == "absent"


def test_podman_is_its_own_server():
    text = parse_version(recording("podman_version.txt"))
    json = parse_version(recording("podman_version_json.txt"))
    assert (text.state, json.state) == ("ok", "ok")
    assert text.value == EngineVersion(
        engine="podman",
        client_version="4.3.1",
        server_version="4.3.1",
        api_version="4.3.1",
        platform="linux/amd64",
        edition="Podman Engine",
    )
    assert json.value == dataclasses.replace(text.value, api_version=None, edition=None)


NERDCTL = EngineVersion(
    engine="nerdctl",
    client_version="v0.21.0-95-g733285c",
    server_version="1.6.6",
    platform="linux/amd64",
    parts=(Part("containerd", "1.6.6"), Part("runc", "1.1.2")),
)


def test_nerdctl_has_containerd_as_its_server():
    reading = parse_version(recording("nerdctl_version.txt"))
    assert (reading.state, reading.value) == ("ok", NERDCTL)
    client = {"Version": "v0.21.0-95-g733285c", "GoVersion": "go1", "Os": "linux", "Arch": "amd64"}
    server = [{"Name": "containerd", "Version": "1.6.6"}, {"Name": "runc", "Version": "1.1.2"}]
    text = json.dumps({"Client": client, "Server": {"Components": server}})
    assert parse_version(text).value == NERDCTL


def test_containerd_without_root_is_away():
    text = (
        "FATA[0000] rootless containerd not running? (hint: use `containerd-rootless-setuptool.sh"
        " install` to start rootless containerd): stat /run/user/1000/containerd-rootless:"
        " no such file or directory\n"
    )
    reading = parse_version(text)
    assert reading.state == "error" and reading.error is not None
    assert reading.error.kind == "failed"


INFO = EngineInfo(
    server_version="20.10.24+dfsg1",
    storage_driver="vfs",
    root_dir="/var/lib/docker",
    cgroup_driver="cgroupfs",
    cgroup_version="1",
    default_runtime="runc",
    runtimes=(
        Runtime("ascend", "/usr/local/Ascend/Ascend-Docker-Runtime/ascend-docker-runtime"),
        Runtime("io.containerd.runc.v2", "runc"),
        Runtime("io.containerd.runtime.v1.linux", "runc"),
        Runtime("runc", "runc"),
    ),
    containers=3,
    running=0,
    images=1,
    cpus=2,
    memory_bytes=25_276_514_304,
    architecture="x86_64",
    operating_system="Debian GNU/Linux 12 (bookworm)",
    kernel="6.1.0-18-amd64",
    hostname="node1",
    insecure_registries=("127.0.0.0/8",),
    security_options=("seccomp",),
)


def test_info_has_runtimes_and_the_place_of_images():
    assert parse_info(recording("docker_info_json.txt")).value == INFO


def test_info_as_text_lacks_the_paths_and_rounds_the_memory():
    reading = parse_info(recording("docker_info.txt"))
    assert reading.state == "ok"
    assert reading.value == dataclasses.replace(
        INFO,
        runtimes=tuple(Runtime(runtime.name) for runtime in INFO.runtimes),
        memory_bytes=int(23.54 * 2**30),
    )


def test_info_of_old_and_warnings():
    text = """\
Containers: 4
 Running: 1
Images: 7
Server Version: 18.06.1-ce
Storage Driver: overlay2
 Backing Filesystem: extfs
Runtimes: ascend runc
Default Runtime: ascend
Docker Root Dir: /data/docker
Registry Mirrors:
 https://mirror.example/
Live Restore Enabled: false

WARNING: No swap limit support
"""
    reading = parse_info(text)
    assert reading.state == "ok" and reading.value is not None
    assert (reading.value.storage_driver, reading.value.running) == ("overlay2", 1)
    assert reading.value.default_runtime == "ascend"
    assert reading.value.root_dir == "/data/docker"
    assert reading.value.registry_mirrors == ("https://mirror.example/",)
    assert reading.value.warnings == ("WARNING: No swap limit support",)


def test_two_lines_of_info_are_a_part_of_it():
    reading = parse_info(recording("docker_info_ascend.txt"))
    assert reading.state == "partial" and reading.value is not None
    assert reading.value.default_runtime == "ascend"
    assert reading.value.runtimes == (Runtime("ascend"), Runtime("runc"))


def test_info_of_podman_is_the_same_in_both_forms():
    text, json = (parse_info(recording(f"podman_info{form}.txt")).value for form in ("", "_json"))
    assert text == json
    assert text == EngineInfo(
        server_version="4.3.1",
        storage_driver="vfs",
        root_dir="/var/lib/containers/storage",
        cgroup_driver="cgroupfs",
        cgroup_version="1",
        default_runtime="/usr/bin/runc",
        runtimes=(Runtime("/usr/bin/runc", "/usr/bin/runc"),),
        containers=0,
        running=0,
        images=0,
        cpus=2,
        memory_bytes=25_276_514_304,
        architecture="amd64",
        operating_system="debian",
        kernel="6.1.0-18-amd64",
        hostname="node1",
    )


def test_other_engines_are_asked_in_the_same_words():
    assert for_engine(image_command("a:1"), "podman") == ("podman", "image", "inspect", "a:1")
