"""From a spec to ordered steps: blanks, refusals with numbers, the script, the record."""

import json
import re
import subprocess
from dataclasses import replace
from typing import Any

import pytest

from model_files import MOE
from ropeway.engines.base import Node, Ports
from ropeway.engines.vllm_cpu import CpuReplica
from ropeway.errors import Exit, HostError, Refused
from ropeway.facts.local import SystemFacts
from ropeway.hosts.base import shell_line
from ropeway.launch.local.prepare import check, complete
from ropeway.launch.local.steps import (
    as_record,
    dry_run,
    from_record,
    probe_of,
    scratch_of,
    steps,
)
from ropeway.models.build import read_shape
from ropeway.spec.model import Layout, Model, Serve, local_spec
from ropeway.units import format_bytes

SHAPE = replace(read_shape(MOE), weight_bytes=760_000_000)
PACKAGES = {"vllm-cpu": "0.32.0", "ray": "2.60.0", "torch": "2.12.0+cpu"}
FACTS = SystemFacts(2, 24 * 2**30, 50 * 2**30, frozenset({22}), PACKAGES)
PLACE: Any = {
    "user": 1000, "python": "/opt/venv/bin/python3", "logs": "/home/me/it's mine/runs/1-up"
}  # fmt: skip


def plan(layout: str = "TP2×PP2+EP", facts: SystemFacts = FACTS, **serve) -> CpuReplica:
    spec = local_spec(serve=Serve(**serve), name="moe")
    return complete(spec, Layout.parse(layout), ("/models/m", SHAPE), facts, **PLACE)


def refusal(facts: SystemFacts = FACTS, layout: str = "TP2×PP2+EP", **serve) -> Refused:
    with pytest.raises(Refused) as caught:
        check(plan(layout, facts, **serve), SHAPE, facts)
    assert caught.value.exit_code == Exit.REFUSED
    return caught.value


def test_every_blank_is_filled():
    assert plan() == CpuReplica(
        service="moe",
        nodes=(Node("host0", "127.0.0.2", 2), Node("host1", "127.0.0.3", 2)),
        model="/models/m",
        served_name="smollm2-moe",
        layout=Layout(tensor=2, pipeline=2, expert=True),
        serve=Serve(),
        context=2048,
        kv_cache=2**30,
        python="/opt/venv/bin/python3",
        scratch="/tmp/rw-1000-moe",
        logs="/home/me/it's mine/runs/1-up",
        address="127.0.0.1",
        port=8000,
        ports=Ports(ray=6379),
        threads=1,
    )


def test_what_was_written_stays():
    found = plan("TP1", replace(FACTS, cores=8), context=4096, kv_cache=2**28)
    assert (found.context, found.kv_cache, found.threads) == (4096, 2**28, 8)
    assert found.nodes == (Node("host0", "127.0.0.2", 1),)  # of two
    spec = local_spec(Model(path="/a/b/", served_name="mine"))
    assert complete(spec, Layout(), ("/a/b/", SHAPE), FACTS, **PLACE).served_name == "mine"
    spec = local_spec(Model(path="/a/b/"))
    assert complete(spec, Layout(), ("/a/b/", SHAPE), FACTS, **PLACE).served_name == "b"


def test_the_context_is_never_more_than_the_model_has():
    spec = local_spec()
    short = replace(SHAPE, max_positions=512)
    assert complete(spec, Layout(), ("/m", short), FACTS, **PLACE).context == 512
    unknown = replace(SHAPE, max_positions=0)
    assert complete(spec, Layout(), ("/m", unknown), FACTS, **PLACE).context == 2048


def test_ray_gets_a_port_that_is_free():
    assert plan(facts=replace(FACTS, ports=frozenset({6379, 6380}))).ports.ray == 6381


@pytest.mark.parametrize(
    ("layout", "hosts", "npus", "needed"),
    [
        ("TP1", 2, 2, 1),
        ("TP2", 2, 2, 1),
        ("TP4", 2, 2, 2),
        ("PP3", 2, 2, 2),
        ("DP2", 2, 2, 1),
        ("DP2×TP2", 2, 2, 2),
        ("DP3×TP2", 3, 3, 3),  # 6 ranks, and 2 hosts of 3 hold only two pairs
        ("DP2×TP4", 4, 2, 4),
        ("DP2×TP3", 4, 2, 4),  # each data rank on whole hosts of its own
    ],
)
def test_so_many_hosts_are_needed(layout, hosts, npus, needed):
    spec = local_spec(hosts=hosts, npus=npus)
    found = complete(spec, Layout.parse(layout), ("/m", SHAPE), FACTS, **PLACE)
    assert len(found.nodes) == needed


# Refusals


def test_a_deployment_that_can_run_is_not_refused():
    check(plan(), SHAPE, FACTS)
    unknown = replace(FACTS, memory_bytes=None, disk_bytes=None)
    check(plan(facts=unknown), SHAPE, unknown)


@pytest.mark.parametrize(
    ("facts", "what", "where", "hint"),
    [
        (
            {"ports": frozenset({8123})}, "port 8123 is in use", "127.0.0.1",
            "`ss -ltnp sport = :8123`",
        ),
        (
            {"disk_bytes": 100 * 2**20},
            "100.0 MiB of disk are free, and a start needs 476.8 MiB", "/tmp/rw-1000-moe", "",
        ),
        (
            {"packages": {"torch": "2.12.0+cpu"}},
            "the local cluster needs the extra `local`, which is not installed",
            "/opt/venv/bin/python3", "pip install 'ropeway[local]'",
        ),
    ],
    ids=["port", "disk", "packages"],
)  # fmt: skip
def test_what_a_start_needs_and_lacks_is_refused(facts, what, where, hint):
    error = refusal(replace(FACTS, **facts), port=8123)
    assert (error.what, error.where) == (what, where)
    assert hint in (error.hint or "")
    if "packages" in facts:
        assert error.evidence == ("missing: vllm-cpu, ray",)


def test_too_little_memory_is_refused_with_the_numbers():
    needs = plan().memory(SHAPE.weight_bytes)
    total = 4 * needs.per_rank + needs.server
    error = refusal(replace(FACTS, memory_bytes=total - 1))
    assert error.what == (
        f"TP2×PP2+EP needs about {format_bytes(total)} of memory, and"
        f" {format_bytes(total - 1)} are available"
    )
    assert (
        error.evidence[0]
        == f"4 ranks of {format_bytes(needs.per_rank)}, of which 1.0 GiB are KV cache"
    )
    enough = replace(FACTS, memory_bytes=total)
    check(plan(facts=enough), SHAPE, enough)


def test_torchvision_built_for_cuda_is_refused_beside_torch_for_cpus():
    wrong = {**PACKAGES, "torchvision": "0.27.0", "torchaudio": "2.12.0+cpu"}
    error = refusal(replace(FACTS, packages=wrong))
    assert error.what == "torchvision: built for CUDA, and the engine fails on importing them"
    assert error.evidence == ("torch 2.12.0+cpu", "torchvision 0.27.0")
    assert error.hint == "pip uninstall -y torchvision"
    matching = replace(FACTS, packages={**wrong, "torch": "2.12.0"})
    check(plan(facts=matching), SHAPE, matching)


def test_a_name_too_long_for_rays_sockets_is_refused():
    # Ray 2.60: {temp-dir}/session_{time}_{pid}/sockets/plasma_store.{number}
    session = "session_2026-11-23_21-23-08_123456_4194304"
    path = f"{scratch_of('a' * 23, 1000)}/ray/{session}/sockets/plasma_store.63"
    assert len(path) == 107, "sun_path holds 108 bytes, the last is zero"
    for length, layout, fits in ((23, "TP2", True), (24, "TP2", False), (31, "TP1", True)):
        spec = local_spec(name="a" * length)
        found = complete(spec, Layout.parse(layout), ("/m", SHAPE), FACTS, **PLACE)
        if fits:
            check(found, SHAPE, FACTS)
            continue
        with pytest.raises(Refused, match="paths of 108 bytes, and Linux allows 107") as caught:
            check(found, SHAPE, FACTS)
        assert caught.value.hint == "take a name of at most 23 letters"


# Steps


def test_steps_of_two_hosts_are_in_order():
    found = steps(plan())
    assert [(step.name, step.host) for step in found] == [
        ("take the name `moe`", "host0"),
        ("make the log folder", "host0"),
        ("write down what runs here", "host0"),
        ("make the token that Ray asks for", "host0"),
        ("start the engine: TP2×PP2+EP", "host0"),
        ("start Ray on host0", "host0"),
        ("start Ray on host1", "host1"),
    ]
    engine, head, other = (step.command for step in found[4:])
    for command, host, role in (
        (engine, "host0", "engine"), (head, "host0", "ray"), (other, "host1", "ray"),
    ):  # fmt: skip
        labels = [command.env[f"ROPEWAY_{what}"] for what in ("SERVICE", "HOST", "ROLE")]
        assert labels == ["moe", host, role]
        assert command.env["RAY_AUTH_TOKEN_PATH"] == "/tmp/rw-1000-moe/ray-token"
        assert command.env["RAY_AUTH_MODE"] == "token"
    assert engine.env["RAY_ADDRESS"] == "127.0.0.2:6379"
    assert "RAY_ADDRESS" not in head.env
    assert other.env["VLLM_HOST_IP"] == "127.0.0.3"
    assert " ".join(other.argv) == (
        "setsid --wait /opt/venv/bin/ray start --address 127.0.0.2:6379"
        ' --node-ip-address 127.0.0.3 --resources {"NPU": 2} --object-store-memory 80000000'
    )
    assert "--head" in head.argv and head.argv[head.argv.index("--port") + 1] == "6379"


def test_only_a_data_rank_larger_than_a_host_may_span_hosts():
    def strategy(layout: str) -> str | None:
        spec = local_spec(hosts=4, npus=2)
        found = complete(spec, Layout.parse(layout), ("/m", SHAPE), FACTS, **PLACE)
        engine = next(step for step in steps(found) if "engine" in step.name)
        return engine.command.env.get("VLLM_RAY_DP_PACK_STRATEGY")

    assert strategy("DP2×TP4") == "span"
    assert strategy("DP2×TP2") is None
    assert strategy("TP4") is None


def test_the_token_is_a_secret_of_64_letters(tmp_path):
    found = replace(plan(), scratch=str(tmp_path))
    [step] = [step for step in steps(found) if "token" in step.name]
    for _ in range(2):
        subprocess.run(("sh", "-c", shell_line(step.command)), check=True)
    token = tmp_path / "ray-token"
    assert re.fullmatch("[0-9a-f]{64}", token.read_text())
    assert token.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("layout", ["TP1", "TP2×PP2+EP", "DP2×TP2"])
def test_the_dry_run_is_a_script_with_each_command_once(layout):
    found = plan(layout, engine_args={"chat-template": 'it\'s "$5"\n{% x %}'}, api_key_env="KEY")
    script = dry_run(found)
    subprocess.run(("sh", "-n"), input=script.encode(), check=True)
    for step in steps(found):
        assert script.count(shell_line(step.command) + "\n") == 1
    hosts = "1 host" if layout == "TP1" else "2 hosts"
    assert script.startswith(f"# {layout} of smollm2-moe on {hosts}\n")
    assert 'VLLM_API_KEY="$KEY"' in script
    assert script.endswith("# ropeway down --name moe\n")


def test_the_key_goes_by_its_variable_only(monkeypatch):
    monkeypatch.setenv("MY_KEY", "s3cr3t")
    found = plan(api_key_env="MY_KEY")
    for command in (probe_of(found), *(step.command for step in steps(found))):
        assert "s3cr3t" not in repr(command)
    assert probe_of(found).secrets == {"VLLM_API_KEY": "MY_KEY"}


# The record


@pytest.mark.parametrize("layout", ["TP1", "DP2×TP2+EP"])
def test_a_record_reads_back_equal(layout):
    serve = {
        "kv_cache": 3 * 2**20 + 1, "layouts": [Layout.parse("TP2")], "port": 1234,
        "engine_args": {"a": [1, {"b": None}], "c": "中 'x'"}, "env": {"A": "b"},
        "api_key_env": "KEY", "address": "0.0.0.0",
    }  # fmt: skip
    found = plan(layout, **serve)
    assert from_record(as_record(found), "here") == found


BROKEN_LAYOUT = json.dumps({**json.loads(as_record(plan())), "layout": "XP9"})


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"layout": 5}', BROKEN_LAYOUT])
def test_a_broken_record_is_told_with_its_place(text):
    with pytest.raises(HostError) as caught:
        from_record(text, "/tmp/rw-1-x/deployment.json")
    assert caught.value.what == "the record of what runs here cannot be read"
    assert caught.value.where == "/tmp/rw-1-x/deployment.json"
    assert caught.value.evidence
