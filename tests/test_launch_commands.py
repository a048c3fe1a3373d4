"""From a spec to the commands of real hosts: placement, containers, files, labels, changes."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropeway.engines.ascend_backends import backend_for
from ropeway.engines.ascend_layouts import Case, limits
from ropeway.engines.ascend_releases import RELEASES, release_of
from ropeway.engines.base import Node
from ropeway.engines.placement import replicas_that_fit
from ropeway.errors import CheckFailed, Refused
from ropeway.facts.ascend.driver import USUAL
from ropeway.facts.host import HostFacts, Nic, Npu
from ropeway.launch import docker
from ropeway.launch.checks import changes
from ropeway.launch.complete import Inputs, complete, family_of, place
from ropeway.launch.docker import Mount, mount_option
from ropeway.launch.images import derive_argvs, derived_name, image_name, mirrored
from ropeway.launch.labels import ServiceContainer, labels_of, read_containers
from ropeway.launch.lock import Author
from ropeway.launch.logs import Line, in_order
from ropeway.launch.rollout import Rollout, Service, mount_of
from ropeway.launch.served_model import ServedModel
from ropeway.models.known import known
from ropeway.plan.layout import host_sizes_of, hosts_of, working
from ropeway.spec.cluster import Cluster, RemoteHost, Runtime
from ropeway.spec.model import Layout, Spec, parse_spec

ME = Author("me@laptop", "abc123", "2026-11-28T00:00:00Z")
SPEC = """
name: qwen3-vl
cluster:
  hosts:
    - {address: 192.168.0.147, npus: 8}
    - {address: 192.168.0.35, npus: 8}
  nic: enp67s0f5
  chip: 910B4
model: {path: /data/Qwen3-VL-30B-A3B-Instruct, served_name: qwen3-vl}
serve:
  context: 32768
  memory: 0.9
"""


def spec_of(more: str = "", **serve: object) -> Spec:
    keys = {"version": "0.18.0", **serve}
    text = SPEC + "".join(f"  {key}: {json.dumps(value)}\n" for key, value in keys.items()) + more
    return parse_spec(text, "spec")


def service_of(
    spec: Spec,
    facts: dict[str, HostFacts] | None = None,
    model: str = "Qwen3-VL-30B-A3B-Instruct",
    scheme: str | None = None,
) -> Service:
    release = release_of(spec.serve.version or "")
    assert release is not None
    image = image_name(release, "A2", spec.runtime)
    names = tuple(host.address for host in spec.cluster.hosts or ())
    return complete(spec, names, Inputs(facts or {}, {}, image, ServedModel(known(model), scheme)))


def nodes(*npus: int) -> list[Node]:
    return [
        Node(f"h{number}", f"10.0.0.{number}", count, "eth0", tuple(range(count)))
        for number, count in enumerate(npus)
    ]


def taken(layout: str, replicas: int, *npus: int) -> list[list[tuple[str, tuple[int, ...]]]]:
    return [
        [(node.name, node.devices) for node in one]
        for one in place(Layout.parse(layout), replicas, nodes(*npus))
    ]


def test_a_layout_takes_only_the_npus_it_needs():
    assert taken("TP4", 1, 8, 8) == [[("h0", (0, 1, 2, 3))]]
    assert taken("TP8xPP2", 1, 8, 8, 8) == [[("h0", tuple(range(8))), ("h1", tuple(range(8)))]]
    assert taken("TP4xPP3", 1, 8, 8) == [[("h0", tuple(range(6))), ("h1", tuple(range(6)))]]
    # Replicas fill one host after the other.
    assert taken("TP4", 3, 8, 8) == [
        [("h0", (0, 1, 2, 3))], [("h0", (4, 5, 6, 7))], [("h1", (0, 1, 2, 3))],
    ]  # fmt: skip
    # 3 ranks of 4 over hosts of 6: six each would cut the second.
    assert taken("DP3xTP4", 1, 6, 6, 6) == [[(f"h{n}", (0, 1, 2, 3)) for n in range(3)]]
    # Unequal shares, where as few hosts have no equal ones: no group of TP is torn if that is
    # possible, and no data-parallel rank.
    for layout, sizes, counts in (
        ("TP4xPP3", (4, 8), [4, 8]), ("TP2xPP3", (4, 2), [4, 2]), ("TP3xPP3", (8, 8), [6, 3]),
        ("DP3xTP4", (8, 8), [8, 4]), ("TP3xPP2", (4, 2), [4, 2]),
    ):  # fmt: skip
        (one,) = taken(layout, 1, *sizes)
        assert [len(devices) for _, devices in one] == counts


def test_what_has_no_room_is_refused_with_the_numbers():
    with pytest.raises(Refused) as caught:
        place(Layout.parse("TP8"), 3, nodes(8, 8))
    assert caught.value.what == "3 replicas of TP8 take 24 NPUs, and there is room for 2"
    assert caught.value.evidence == ("16 NPUs: h0: 8, h1: 8",)


@given(
    st.builds(
        Layout,
        tensor=st.sampled_from([1, 2, 4, 8]),
        pipeline=st.integers(1, 3),
        data=st.integers(1, 3),
    ),
    st.integers(1, 3),
    st.lists(st.integers(1, 8), min_size=1, max_size=4),
)
def test_no_npu_is_given_twice_and_every_rank_has_one(layout, replicas, sizes):
    try:
        placed = place(layout, replicas, nodes(*sizes))
    except Refused:
        return
    given_out = [(node.name, device) for one in placed for node in one for device in node.devices]
    assert len(given_out) == len(set(given_out)) == replicas * layout.npus


@given(st.lists(st.integers(1, 8), min_size=1, max_size=4))
def test_what_a_plan_can_choose_can_be_placed_and_joined(sizes):
    cluster = Cluster(
        hosts=[RemoteHost(address=f"h{at}", npus=npus) for at, npus in enumerate(sizes)]
    )
    shape = known("Qwen3-30B-A3B")
    for layout in working(shape, cluster):
        replicas = replicas_that_fit(layout, host_sizes_of(cluster))
        (one, *others) = place(layout, replicas, nodes(*sizes))
        assert all(len(other) == len(one) for other in others)
        assert len(one) == hosts_of(layout, cluster)
        assert sum(node.npus for node in one) == layout.npus
        for release in (RELEASES[0], release_of("0.11.0rc2"), RELEASES[-1]):
            if not limits(Case(layout, shape, "A2", len(one)), release.version):
                backend_for(layout, one, release)


def test_each_host_gets_only_its_npus_and_the_paths_that_are_there():
    spec = spec_of(layout="TP4")
    facts = {
        name: HostFacts(
            name, name, root=True, home="/root", devices=tuple(range(4, 12)),
            nics=(Nic("enp67s0f5", (name,), 1500, True),),
            paths=frozenset(USUAL) - {"/usr/local/bin/npu-smi"} | {"/usr/local/sbin/npu-smi"},
            npus=tuple(Npu(number, name="910B4", health="OK") for number in range(4, 12)),
        )
        for name in ("192.168.0.147", "192.168.0.35")
    }  # fmt: skip
    (one,) = Rollout(service_of(spec, facts)).containers
    assert one.devices == (
        *(f"/dev/davinci{number}" for number in range(4, 8)),
        "/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc",
    )  # fmt: skip
    npu_smi = [mount for mount in one.mounts if mount.target.endswith("npu-smi")]
    assert npu_smi == [Mount("/usr/local/sbin/npu-smi", "/usr/local/bin/npu-smi", True)]
    assert Mount("/data/Qwen3-VL-30B-A3B-Instruct", "/data/Qwen3-VL-30B-A3B-Instruct", True) in (
        one.mounts
    )
    argv = docker.run_argv("docker", one, {})
    assert "--privileged" not in argv
    assert argv[argv.index("--security-opt") :][:2] == ("--security-opt", "no-new-privileges")
    assert "--cap-drop=NET_RAW" in argv


def test_every_container_may_open_many_files_and_engines_may_pin_memory():
    rollout = Rollout(service_of(spec_of(layout="TP4", replicas=2, api_key_env="KEY")))
    for one in rollout.containers:
        argv = docker.run_argv("docker", one, {})
        limits = [after for word, after in pairwise(argv) if word == "--ulimit"]
        assert "nofile=655350:655350" in limits
        assert ("memlock=-1:-1" in limits) == (one.role != "router")


@pytest.mark.parametrize(
    ("layout", "replicas", "note"),
    [
        ("TP8", 1, "NPUs in use: 8 of 16 (TP8); idle: 192.168.0.35"),
        ("TP4", 3, "NPUs in use: 12 of 16 (3 replicas of TP4); idle: 4 NPUs on 192.168.0.35"),
        ("TP8xPP2", 1, None),
    ],
)
def test_npus_that_no_engine_uses_are_noted(layout: str, replicas: int, note: str | None):
    service = service_of(spec_of(layout=layout, replicas=replicas, api_key_env="KEY"))
    assert [one for one in service.notes if "idle" in one] == ([note] if note else [])


def test_an_address_that_is_the_hosts_name_proves_nothing():
    text = SPEC.replace("192.168.0.147", "127.0.0.2").replace("192.168.0.35", "127.0.0.3")
    with pytest.raises(Refused, match="other hosts cannot reach") as caught:
        service_of(parse_spec(f'{text}  version: "0.18.0"\n  layout: TP8xPP2\n', "spec"))
    assert caught.value.evidence == ()


def test_replicas_share_one_endpoint_and_need_a_key_between_hosts():
    with pytest.raises(Refused, match="without a key"):
        service_of(spec_of(layout="TP8", replicas=2))
    rollout = Rollout(service_of(spec_of(layout="TP8", replicas=2, api_key_env="KEY")))
    roles = [(one.role, one.host, one.name) for one in rollout.containers]
    assert roles == [
        ("head", "192.168.0.147", "ropeway-qwen3-vl-0-0"),
        ("head", "192.168.0.35", "ropeway-qwen3-vl-1-0"),
        ("router", "192.168.0.147", "ropeway-qwen3-vl-router"),
    ]
    config = next(file for file in rollout.files if file.path.endswith("router.json"))
    assert json.loads(config.content) == {
        "listen": {"host": "127.0.0.1", "port": 8000},
        "model": "qwen3-vl",
        "backends": [
            {"name": "replica-0", "url": "http://127.0.0.1:8001/v1"},
            {"name": "replica-1", "url": "http://192.168.0.35:8002/v1"},
        ],
        "key_env": "VLLM_API_KEY",
    }
    router = rollout.containers[-1]
    assert router.devices == ()
    secrets = [mount.source for mount in router.mounts if "secrets" in mount.source]
    assert secrets == ["/var/lib/ropeway/qwen3-vl/ropeway-qwen3-vl-router.secrets"]
    assert all(mount.target.startswith("/run/ropeway/") for mount in router.mounts)


def running(service: Service) -> tuple[ServiceContainer, ...]:
    """The containers of a service that runs, as read from what the engine prints of them."""
    rollout = Rollout(service)
    state = {"Status": "running", "ExitCode": 0, "StartedAt": "2026-11-28T00:00:00Z"}
    rows = [
        {"Id": one.name, "Name": f"/{one.name}", "RestartCount": 2, "State": state,
         "Config": {"Image": one.image, "Labels": labels_of(rollout, one, ME)}}
        for one in rollout.containers
    ]  # fmt: skip
    return read_containers(json.dumps(rows), "192.168.0.147")


def test_labels_tell_the_whole_service():
    service = service_of(spec_of(layout="TP8xPP2", api_key_env="KEY"))
    head, _ = running(service)
    assert head.spec == service.spec
    assert (head.service, head.role, head.author) == ("qwen3-vl", "head", ME)
    assert (head.devices, head.restarts) == (tuple(range(8)), 2)
    assert 8000 in head.ports and 29500 in head.ports


def test_one_rank_that_differs_replaces_its_whole_replica():
    service = service_of(spec_of(layout="TP8xPP2"))
    head, worker = running(service)
    gone = changes(Rollout(service), [head])
    assert gone.start == {head.name, worker.name}
    assert gone.remove == {head.name}


def test_a_mirror_takes_the_place_of_the_registry():
    image = "quay.io/ascend/vllm-ascend:v0.18.0"
    assert mirrored(image, None) == image
    assert mirrored(image, "quay.nju.edu.cn") == "quay.nju.edu.cn/ascend/vllm-ascend:v0.18.0"
    assert mirrored(image, "m.daocloud.io/quay.io") == (
        "m.daocloud.io/quay.io/ascend/vllm-ascend:v0.18.0"
    )
    assert mirrored("ubuntu:22.04", "m.daocloud.io") == "m.daocloud.io/ubuntu:22.04"


def test_the_image_follows_the_chip_and_the_system():
    release = release_of("0.18.0")
    assert release is not None
    names = [image_name(release, family, Runtime()) for family in ("A2", "A3", "310P")]
    assert [name.rpartition(":")[2] for name in names] == ["v0.18.0", "v0.18.0-a3", "v0.18.0-310p"]
    assert image_name(release, "A3", Runtime(os="openeuler")).endswith("v0.18.0-a3-openeuler")
    assert image_name(release, "A2", Runtime(image="my/own")) == "my/own:latest"
    facts = [HostFacts("a", "a", npus=(Npu(0, name=name),)) for name in ("Ascend910", "910ProB")]
    assert family_of(spec_of(layout="TP4"), facts[:1], []) == "A3"
    with pytest.raises(CheckFailed, match="no image of vLLM-Ascend is for `910ProB`"):
        family_of(spec_of(layout="TP4"), facts[1:], [])


def test_a_derived_image_is_named_by_what_it_is_made_of():
    one = Runtime(pip=("transformers==4.57.0",))
    other = Runtime(pip=("transformers==4.57.1",))
    assert derived_name("sha256:1", Runtime()) is None
    assert derived_name("sha256:1", one) == derived_name("sha256:1", one)
    assert len({derived_name(i, r) for i in ("sha256:1", "sha256:2") for r in (one, other)}) == 4
    argvs = derive_argvs(
        "docker", "base", "ropeway/vllm-ascend:x", Runtime(pip=one.pip, wheels="/w")
    )
    assert argvs[1][-6:] == (
        "--no-cache-dir", "--no-index", "--find-links", "/wheels", "--", "transformers==4.57.0",
    )  # fmt: skip


def test_a_mount_is_read_as_docker_reads_it():
    assert mount_of("/data") == Mount("/data", "/data")
    assert mount_of("/data:ro") == Mount("/data", "/data", True)
    assert mount_of("/data:/models:ro") == Mount("/data", "/models", True)
    assert mount_option(Mount("/a,b", '/c"d', True)) == (
        'type=bind,"source=/a,b","target=/c""d",readonly'
    )


def test_lines_of_several_logs_come_by_time_though_one_log_is_not_in_order():
    head = [Line("3", "a", "out"), Line("2", "a", "err"), Line("", "a", "its second line")]
    other = [Line("1", "b", "x"), Line("4", "b", "y")]
    texts = [line.text for line in in_order((head, other))]
    assert texts == ["x", "err", "its second line", "out", "y"]
