"""Files of the hosts that flags and variables point into: found, mounted, and looked for."""

import json

import pytest

from ropeway.engines.named_paths import named_paths
from ropeway.errors import CheckFailed
from ropeway.launch.checks import check_named_paths, missing_paths
from ropeway.launch.docker import Mount
from ropeway.launch.rollout import Rollout
from test_launch_commands import service_of, spec_of


@pytest.mark.parametrize(
    ("engine_args", "found"),
    [
        ({"lora-modules": ["a=/data/lora/a", "b=/data/lora/b"]}, ["/data/lora/a", "/data/lora/b"]),
        ({"lora-modules": "a=/data/lora/a"}, ["/data/lora/a"]),
        ({"lora-modules": [json.dumps({"name": "a", "path": "/data/a"})]}, ["/data/a"]),
        ({"lora_modules": [{"name": "a", "path": "/data/a"}]}, ["/data/a"]),
        ({"speculative-config": {"model": "/data/eagle/", "method": "eagle3"}}, ["/data/eagle"]),
        ({"speculative_config": '{"model": "/data/eagle"}'}, ["/data/eagle"]),
        ({"speculative-config.model": "/data/eagle"}, ["/data/eagle"]),
        ({"chat-template": "/data/t.jinja"}, ["/data/t.jinja"]),
        ({"chat-template": "{{ messages }} /not/one"}, []),
        ({"tokenizer": "/data/my model"}, ["/data/my model"]),
        ({"hf-config-path": "/data/c", "hf-overrides": {"a": "b/c"}}, ["/data/c"]),
        ({"allowed-local-media-path": "/data/media"}, ["/data/media"]),
        ({"allowed-local-media-path": "/"}, []),
        ({"additional-config": {"eplb_config": {"expert_map_path": "/data/m.json"}}},
         ["/data/m.json"]),
        ({"additional-config": {"eplb_config": {"expert_map_record_path": "/data/m.json"}}}, []),
        ({"download-dir": "/data/new", "root-path": "/api", "uds": "/data/s"}, []),
        ({"disable-access-log-for-endpoints": "/health,/metrics"}, []),
    ],
)  # fmt: skip
def test_whatever_is_written_as_a_path_and_read_is_found(engine_args, found):
    assert [one.path for one in named_paths(engine_args, {})] == found


def test_variables_that_name_a_file_count_too():
    env = {
        "VLLM_LOGGING_CONFIG_PATH": "/data/log.json",
        "MOONCAKE_CONFIG_PATH": "/data/mooncake.json",
        "VLLM_CACHE_ROOT": "/data/cache",
        "VLLM_TORCH_PROFILER_DIR": "/data/profile",
        "HF_HOME": "/data/hf",
        "SSL_CERT_FILE": "nas:/export/ca.pem",
        "ANY_CONFIG": '{"url": "http://h:1/x", "file": "/data/in.json"}',
    }
    found = [one.path for one in named_paths({}, env)]
    assert found == ["/data/log.json", "/data/mooncake.json", "/data/in.json"]


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("PYTHONPATH", "/data/a:/data/b", ["/data/a", "/data/b"]),
        ("PYTHONPATH", "$PYTHONPATH:/data/a/:/vllm-workspace/vllm:", ["/data/a"]),
        ("PYTHONPATH", ":.:src:/data/my code", ["/data/my code"]),
        ("LD_LIBRARY_PATH", "/usr/local/lib:/data/lib:${LD_LIBRARY_PATH}", ["/data/lib"]),
        ("ASCEND_CUSTOM_OPP_PATH", "/data/opp:/data/opp2", ["/data/opp", "/data/opp2"]),
        ("LD_PRELOAD", "/data/a.so /data/b.so:/usr/lib/libjemalloc.so.2",
         ["/data/a.so", "/data/b.so"]),
        ("VLLM_CACHE_PATH", "/data/a:/data/b", []),
    ],
)  # fmt: skip
def test_variables_that_list_paths_name_each(name, text, found):
    assert [one.path for one in named_paths({}, {name: text})] == found


ARGS = {
    "enable-lora": True,
    "lora-modules": ["a=/data/lora/a"],
    "tokenizer": "/data/tokenizer",
    "hf-config-path": "/data/Qwen3-VL-30B-A3B-Instruct/config.json",
    "tool-parser-plugin": "/vllm-workspace/plugin.py",
}


def test_they_are_mounted_read_only_where_they_are_needed():
    rollout = Rollout(service_of(spec_of(layout="TP16", engine_args=ARGS)))
    head, follower = (
        {mount for mount in container.mounts if mount.source in ("/data/lora/a", "/data/tokenizer")}
        for container in rollout.containers
    )
    tokenizer = Mount("/data/tokenizer", "/data/tokenizer", True)
    assert head == {tokenizer, Mount("/data/lora/a", "/data/lora/a", True)}
    assert follower == head  # every rank reads adapters, though only the server has the flag
    sources = [mount.source for one in rollout.containers for mount in one.mounts]
    assert not any("plugin" in source or "config.json" in source for source in sources)


def test_a_mount_of_the_spec_that_has_them_is_enough():
    spec = spec_of('runtime: {mounts: ["/data/lora:ro"]}\n', layout="TP8", engine_args=ARGS)
    (container,) = Rollout(service_of(spec)).containers
    assert "/data/lora/a" not in [mount.source for mount in container.mounts]


def test_what_is_missing_where_it_is_needed_is_refused_with_the_hosts():
    rollout = Rollout(service_of(spec_of(layout="TP16", engine_args=ARGS)))
    first, second = (site.name for site in rollout.service.sites)
    everything = frozenset(("/data/lora/a", "/data/tokenizer"))
    check_named_paths(rollout, {first: everything, second: everything})
    check_named_paths(rollout, {})  # nobody said
    assert missing_paths(rollout, {first: everything, second: frozenset()})[0][1] == [second]
    with pytest.raises(CheckFailed) as error:
        check_named_paths(rollout, {first: frozenset(("/data/tokenizer",)), second: everything})
    assert error.value.evidence == (
        f"/data/lora/a (serve.engine_args, lora-modules): not on {first}",
    )
