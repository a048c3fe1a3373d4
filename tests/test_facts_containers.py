"""Images and containers of a host, from the texts and the JSON of docker, podman and nerdctl."""

import json
from pathlib import Path

import pytest

from ropeway.facts.containers import (
    Container,
    ContainerDetails,
    Containers,
    Device,
    Inspection,
    Mount,
    Ulimit,
    parse_inspect,
    parse_ps,
)
from ropeway.facts.images import (
    Image,
    ImageDetails,
    ImageInspection,
    Images,
    parse_image_inspect,
    parse_images,
)

RECORDINGS = Path(__file__).parent / "recordings"


def recording(name: str) -> str:
    return (RECORDINGS / name).read_text(encoding="utf-8")


ID = "797024ba20cffef369bd4209a69db346542bd1d5d6d3880bcfea4fc4019c5817"
OLD = "dfbc8408e585fe547d1afc265ddb1e797d87b3db16bfe1dd61e1d8f64ba2cd73"


def test_images_of_the_table():
    reading = parse_images(recording("docker_images.txt"))
    assert reading.state == "ok"
    assert reading.value == Images(
        (
            Image(
                "quay.io/ascend/vllm-ascend",
                "v0.11.0rc0",
                ID[:12],
                None,
                "2 seconds ago",
                1_980_000,
            ),
            Image(
                "registry.local:5000/vllm-ascend",
                "v0.11.0rc0",
                ID[:12],
                None,
                "2 seconds ago",
                1_980_000,
            ),
            Image(None, None, OLD[:12], None, "34 seconds ago", 773_000),
        )
    )


def test_images_as_json_have_their_whole_id():
    created = "2026-11-24 03:39:57 +0000 UTC"
    assert parse_images(recording("docker_images_json.txt")).value == Images(
        (
            Image("quay.io/ascend/vllm-ascend", "v0.11.0rc0", ID, None, created, 1_980_000),
            Image("registry.local:5000/vllm-ascend", "v0.11.0rc0", ID, None, created, 1_980_000),
            Image(None, None, OLD, None, "2026-11-24 03:39:25 +0000 UTC", 773_000),
        )
    )


def test_images_of_docker_29():
    reading = parse_images(recording("docker_images_29.txt"))
    assert reading.state == "ok"
    assert reading.value == Images(
        (
            Image(
                "hello-world",
                None,
                "09538a1f51d3",
                "sha256:09538a1f51d3ec5af0449a1640937dfdf79b0e9b8c4da5b8a883086d5c1492ef",
                None,
                20_600,
            ),
            Image("moby/buildkit", "buildx-stable-1", "0168606be231", None, None, 348_000_000),
        )
    )


def test_images_of_podman_and_nerdctl():
    digest = "sha256:a4967c9d98d233a53e47e3c190ae61aaf5d9e8c0b1674b384b3ba1fe02b15ca3"
    assert parse_images(recording("podman_images_json.txt")).value == Images(
        (
            Image(
                "quay.io/ascend/vllm-ascend",
                "v0.11.0rc0",
                "49a9774c322e0acb5baa3b996357b6ef7e1afe15dcb653a50685158d160a4b1e",
                digest,
                "2026-11-24T03:40:44Z",
                1_987_722,
            ),
        )
    )
    nerdctl = '{"CreatedAt":"2024-01-01","Digest":"sha256:ab","ID":"0123456789ab",'
    nerdctl += '"Repository":"alpine","Tag":"3.19","Size":"7.6 MiB","Platform":"linux/arm64"}\n'
    assert parse_images(nerdctl).value == Images(
        (Image("alpine", "3.19", "0123456789ab", "sha256:ab", "2024-01-01", int(7.6 * 2**20)),)
    )


def test_a_host_without_images_has_none():
    header = "REPOSITORY   TAG       IMAGE ID   CREATED   SIZE\n"
    for text in ("", "[]\n", header):
        assert (parse_images(text).state, parse_images(text).value) == ("ok", Images(()))


def test_an_image_in_detail():
    reading = parse_image_inspect(recording("docker_image_inspect.txt"))
    assert reading.state == "ok"
    assert reading.value == ImageInspection(
        (
            ImageDetails(
                id=ID,
                names=(
                    "quay.io/ascend/vllm-ascend:v0.11.0rc0",
                    "registry.local:5000/vllm-ascend:v0.11.0rc0",
                ),
                digests=(),
                created="2026-11-24T03:39:57.586574851Z",
                architecture="amd64",
                os="linux",
                size_bytes=1_982_256,
                environment={
                    "PATH": "/usr/local/Ascend/ascend-toolkit/latest/bin:/usr/bin:/bin",
                    "ASCEND_TOOLKIT_HOME": "/usr/local/Ascend/ascend-toolkit/latest",
                    "SOC_VERSION": "ascend910b1",
                },
                labels={"org.opencontainers.image.version": "22.04"},
                cann_version=None,
            ),
        )
    )


def test_a_detail_cut_in_the_middle_keeps_what_came_before():
    reading = parse_image_inspect(recording("docker_image_inspect_ascend.txt"))
    assert reading.state == "partial" and reading.value is not None
    image = reading.value.images[0]
    assert image.names == ("quay.io/ascend/vllm-ascend:main",)
    assert image.digests == (
        "quay.io/ascend/vllm-ascend@sha256:"
        "118693a0cce4ad24a354157a3fd48cf0096c947add0ad7d774979e2204aff4b2",
    )
    assert list(image.environment) == ["PATH", "ASCEND_TOOLKIT_HOME"]
    assert image.architecture is None


@pytest.mark.parametrize(
    ("variable", "version"),
    [
        ("ASCEND_TOOLKIT_HOME=/usr/local/Ascend/cann-8.5.1", "8.5.1"),
        ("LD_LIBRARY_PATH=/a:/usr/local/Ascend/ascend-toolkit/8.2.RC1/lib64", "8.2.RC1"),
        ("ASCEND_TOOLKIT_HOME=/usr/local/Ascend/ascend-toolkit/latest", None),
    ],
)
def test_the_cann_version_is_in_the_paths(variable, version):
    text = f'[{{"Id": "sha256:ab", "RepoTags": [], "Config": {{"Env": ["{variable}"]}}}}]'
    value = parse_image_inspect(text).value
    assert value is not None and value.images[0].cann_version == version


def test_an_image_that_is_not_there_is_absent():
    assert parse_image_inspect(recording("docker_image_inspect_none.txt")).state == "absent"
    assert parse_inspect("[]\nError: No such object: nope\n").state == "absent"


GONE = "ec4221c5f5ce7718ddd669e00607ea902ea7116b89bf9d76962d1c95788808a7"
OTHER = "e0890e6297852c23eb34049d0b54a6a9ad9dbd2ec6a33b8e0d216dc17ff076e2"
HEAD = "400e81f415ceacad81de9206f45c01dad372f5cb13dee6513a12152e0ac61abe"
NAME = "quay.io/ascend/vllm-ascend:v0.11.0rc0"
LABEL = {"org.opencontainers.image.version": "22.04"}


def test_containers_of_the_table():
    reading = parse_ps(recording("docker_ps.txt"))
    assert reading.state == "ok"
    assert reading.value == Containers(
        (
            Container(
                GONE[:12], "gone", NAME, "exited", "Exited (3) 1 second ago", "sh -c 'exit 3'",
                "1 second ago",
            ),
            Container(
                OTHER[:12], "other", NAME, "created", "Created", "sleep 100000", "2 seconds ago"
            ),
            Container(
                HEAD[:12], "ropeway-head", NAME, "running", "Up 1 second", "sleep 100000",
                "2 seconds ago",
            ),
        )
    )  # fmt: skip


def test_containers_as_json_have_labels_and_mounts():
    value = parse_ps(recording("docker_ps_json.txt")).value
    assert value is not None and len(value.containers) == 3
    assert value.containers[2] == Container(
        id=HEAD,
        name="ropeway-head",
        image=NAME,
        state="running",
        status="Up 1 second",
        command="sleep 100000",
        created="2026-11-24 03:39:57 +0000 UTC",
        labels={**LABEL, "ropeway.role": "head", "ropeway.service": "demo"},
        mounts=("/etc/hosts",),
        networks=("host",),
    )


def test_containers_of_podman():
    value = parse_ps(recording("podman_ps_json.txt")).value
    assert value == Containers(
        (
            Container(
                id="7eb545f2bf412bd473a377eef5bec5585b1bfba8cdf6a69ecb9d7785b5761276",
                name="ropeway-head",
                image=NAME,
                state="created",
                status="Created",
                command="sleep 300",
                created="Less than a second ago",
                labels={"ropeway.role": "head"},
                mounts=("/etc/hccn.conf",),
            ),
        )
    )


def test_a_host_without_containers_has_none():
    header = "CONTAINER ID   IMAGE     COMMAND   CREATED   STATUS    PORTS     NAMES\n"
    for text in ("", "[]\n", header):
        assert (parse_ps(text).state, parse_ps(text).value) == ("ok", Containers(()))
    assert parse_inspect("").value == Inspection(())


def test_a_row_keeps_its_ports_apart_from_its_name():
    header = (
        "CONTAINER ID   IMAGE     COMMAND   CREATED      STATUS                PORTS      NAMES\n"
    )
    row = '0123456789ab   redis     "x"       2 days ago   Up 2 days (Paused)    6379/tcp   r1\n'
    value = parse_ps(header + row).value
    assert value is not None
    assert value.containers[0] == Container(
        "0123456789ab", "r1", "redis", "paused", "Up 2 days (Paused)", "x", "2 days ago",
        ports="6379/tcp",
    )  # fmt: skip


def test_a_container_in_detail():
    reading = parse_inspect(recording("docker_inspect.txt"))
    assert reading.state == "ok" and reading.value is not None
    head, gone = reading.value.containers
    assert head == ContainerDetails(
        id=HEAD,
        name="ropeway-head",
        image=NAME,
        image_id=ID,
        state="running",
        pid=15_609,
        exit_code=0,
        error=None,
        out_of_memory=False,
        started_at="2026-11-24T03:39:57.830800978Z",
        restart_policy="no",
        network_mode="host",
        ipc_mode="private",
        pid_mode=None,
        privileged=False,
        runtime="runc",
        shm_bytes=16 * 2**30,
        memory_limit_bytes=None,
        npus=(0,),
        devices=(
            Device("/dev/null", "/dev/davinci0"),
            Device("/dev/zero", "/dev/davinci_manager"),
        ),
        mounts=(Mount("/etc/hosts", "/etc/hccn.conf", False),),
        ulimits=(Ulimit("msgqueue", 819_200, 819_200),),
        added_capabilities=(),
        labels={**LABEL, "ropeway.role": "head", "ropeway.service": "demo"},
        environment={
            "ASCEND_RT_VISIBLE_DEVICES": "0",
            "PATH": "/usr/local/Ascend/ascend-toolkit/latest/bin:/usr/bin:/bin",
            "ASCEND_TOOLKIT_HOME": "/usr/local/Ascend/ascend-toolkit/latest",
            "SOC_VERSION": "ascend910b1",
        },
        command=("sleep", "100000"),
    )
    assert (gone.state, gone.exit_code, gone.pid, gone.npus) == ("exited", 3, None, ())


def test_npus_are_numbered_as_the_host_numbers_them():
    devices = [
        {"PathOnHost": f"/dev/{host}", "PathInContainer": f"/dev/{inside}"}
        for host, inside in (("davinci7", "davinci0"), ("davinci3", "davinci1"), ("hisi_hdc", "x"))
    ]
    text = json.dumps([{"Id": "ab", "HostConfig": {"Devices": devices}}])
    value = parse_inspect(text).value
    assert value is not None and value.containers[0].npus == (3, 7)


def test_podman_inspects_alike():
    value = parse_inspect(recording("podman_inspect.txt")).value
    assert value is not None
    container = value.containers[0]
    assert (container.image, container.shm_bytes, container.npus) == (NAME, 16 * 2**30, (0,))
    assert container.ulimits[0] == Ulimit("nofile", 1_048_576, 1_048_576)
    assert container.started_at is None


def test_secrets_stay_where_they_are():
    text = (
        '[{"Id": "ab", "HostConfig": {}, "Config": {"Env": ["VLLM_API_KEY=s3cret",'
        ' "HF_TOKEN=s3cret", "VLLM_USE_V1=1", "MY_NAME=private"]}}]'
    )
    value = parse_inspect(text).value
    assert value is not None
    assert value.containers[0].environment == {"VLLM_USE_V1": "1"}
