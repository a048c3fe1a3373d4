"""vLLM-Ascend: what joins hosts, refusals, variables; the golden files have the six layouts."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_files import LLAMA
from ropeway.engines.ascend_backends import backend_for, data_ranks
from ropeway.engines.ascend_quantisation import quantisation_fault, scheme_of
from ropeway.engines.ascend_releases import RELEASES
from ropeway.engines.base import Node
from ropeway.errors import LayoutError, Refused
from ropeway.models.build import read_shape
from ropeway.models.known import known
from ropeway.models.quantisation import recognise_quantisation
from ropeway.spec.model import Layout, Serve
from serve_lines import hosts, make_replica, release

BLOG = "0.11.0rc0"
VL = known("Qwen3-VL-30B-A3B-Instruct")
DENSE = known("Qwen3-32B")


def flags(argv):
    """Return the value of each flag, "" for a bare one, and the model as `model`."""
    values, position = {"model": argv[2]}, 3
    while position < len(argv):
        name = argv[position]
        bare = position + 1 == len(argv) or argv[position + 1].startswith("--")
        assert name.startswith("--") and name not in values
        values[name] = "" if bare else argv[position + 1]
        position += 1 if bare else 2
    return values


def test_pipeline_with_experts_is_refused_until_the_release_that_mends_it():
    with pytest.raises(LayoutError) as error:
        make_replica(release(BLOG), "TP8×PP2+EP", 2).check(VL)
    assert "#3529" in error.value.evidence[0]
    assert error.value.hint is not None and "0.12.0rc1" in error.value.hint
    make_replica(release("0.12.0rc1"), "TP8×PP2+EP", 2).check(VL)


def test_an_address_of_version_six_is_bracketed():
    nodes = (Node("a", "fd00::1", 8, "eth0"), Node("b", "fd00::2", 8, "eth0"))
    replica = make_replica(release(BLOG), "TP16", 2)
    replica = replace(replica, nodes=nodes)
    assert "[fd00::1]:6379" in replica.ray_start_argv(nodes[1])


@pytest.mark.parametrize(
    ("layout", "count", "version", "required", "backend"),
    [
        ("TP8", 1, BLOG, "ray", "ray"),
        ("DP2×TP8+EP", 2, "0.9.1", None, "mp"),
        ("DP2×TP8+EP", 2, BLOG, "ray", "ray"),
        ("TP16", 2, "0.12.0rc1", "mp", "mp"),
        ("TP16", 2, "0.30.0rc2", "ray", "ray"),
        ("DP2×TP16", 4, "0.18.0", None, "mp"),
        ("DP2×TP16", 4, "0.12.0rc1", None, "ray"),
        # Eight ranks do not go evenly over three hosts; Ray takes any.
        ("TP8", 3, "0.18.0", None, "ray"),
    ],
)
def test_what_joins_the_hosts(layout, count, version, required, backend):
    assert backend_for(Layout.parse(layout), hosts(count), release(version), required) == backend


@pytest.mark.parametrize(
    ("layout", "count", "version", "required", "words"),
    [
        ("TP16", 2, BLOG, "mp", "0.12.0rc1"),
        ("TP8", 3, "0.18.0", "mp", "evenly"),
        ("DP2×TP12", 3, "0.18.0", "mp", "align"),
        ("DP2×TP8", 2, "0.10.2rc1", "ray", "resource GPU"),
        ("DP2×TP16", 4, BLOG, "ray", "0.12.0rc1 and later"),
        ("DP2×TP16", 4, BLOG, None, "0.12.0rc1 and later"),
        ("DP2×TP12", 3, "0.18.0", None, "12 NPUs a rank; hosts of 8"),
        ("DP2×TP8", 3, "0.18.0", "ray", "fewer hosts"),
        ("TP16", 1, "0.18.0", None, "node0: 8"),
    ],
)
def test_what_cannot_join_them(layout, count, version, required, words):
    with pytest.raises(Refused) as error:
        backend_for(Layout.parse(layout), hosts(count), release(version), required)
    assert words in " ".join((*error.value.evidence, str(error.value.hint)))


@given(
    st.lists(st.integers(1, 16), min_size=1, max_size=8),
    st.integers(1, 32),
    st.sampled_from((1, 2, 4, 8)),
    st.sampled_from((1, 2)),
)
def test_data_ranks_fill_hosts_without_gaps(sizes, data, tensor, pipeline):
    nodes = tuple(Node(f"n{i}", f"10.0.0.{i}", size) for i, size in enumerate(sizes))
    shares = data_ranks(Layout(tensor=tensor, pipeline=pipeline, data=data), nodes)
    room = [size // (tensor * pipeline) for size in sizes]
    fits = len(sizes) <= data <= sum(room) and 0 not in room
    assert (shares is not None) == fits
    if shares is not None:
        assert sum(shares) == data
        assert all(0 < share <= most for share, most in zip(shares, room, strict=True))
        # Moving a rank from one node to another would not make it more even.
        spare = [s for s, most in zip(shares, room, strict=True) if s < most]
        assert not spare or max(shares) - min(spare) <= 1


def test_data_parallel_over_hosts_follows_the_recipe():
    """docs/source/tutorials/multi_node.md of v0.11.0rc0: DP4 TP4 EP on two hosts."""
    replica = replace(make_replica(release(BLOG), "DP4×TP4+EP", 2), buffers=1024)
    first, second = (flags(replica.serve_argv(node)) for node in replica.nodes)
    shared = {
        "--data-parallel-size": "4",
        "--data-parallel-size-local": "2",
        "--data-parallel-address": "192.168.0.10",
        "--data-parallel-rpc-port": "13389",
        "--tensor-parallel-size": "4",
        "--enable-expert-parallel": "",
    }
    assert shared.items() <= first.items() and shared.items() <= second.items()
    assert "--headless" not in first and "--data-parallel-start-rank" not in first
    assert (second["--headless"], second["--data-parallel-start-rank"]) == ("", "2")
    assert first.keys() - second.keys() == {"--host", "--port"}
    recipe = {"OMP_PROC_BIND": "false", "OMP_NUM_THREADS": "100", "HCCL_BUFFSIZE": "1024"}
    for node in replica.nodes:
        assert recipe.items() <= replica.environment(node).items()
        assert replica.environment(node)["HCCL_SOCKET_IFNAME"] == "eth0"


@pytest.mark.parametrize(
    ("version", "layout", "count", "word"),
    [
        ("0.12.0rc1", "TP16", 2, "documented"),
        ("0.18.0", "DP2×TP16", 4, "data"),
        ("0.18.0", "TP16", 2, ""),
        ("0.18.0", "DP2×TP8", 2, ""),
    ],
)
def test_a_note_where_only_code_says_how_hosts_are_joined(version, layout, count, word):
    every = make_replica(release(version), layout, count, "mp").notes(DENSE)
    notes = [note for note in every if "--nnodes" in note]
    assert bool(notes) == bool(word)
    assert not word or word in notes[0]


def test_with_ray_only_the_head_serves():
    replica = make_replica(release(BLOG), "TP16", 2)
    with pytest.raises(ValueError, match="node1"):
        replica.serve_argv(replica.nodes[1])


def test_npus_are_counted_as_the_container_numbers_them():
    """A plain container renumbers its devices; a privileged container sees all of the host."""
    part = Node("node0", "192.168.0.10", 4, "eth0", (4, 5, 6, 7))

    def numbers(replica):
        return replica.environment(part).get("ASCEND_RT_VISIBLE_DEVICES")

    replica = make_replica(release(BLOG), "TP4", 1, "ray")
    assert numbers(replica) == "0,1,2,3"
    assert numbers(replace(replica, privileged=True)) == "4,5,6,7"
    assert numbers(make_replica(release(BLOG), "TP4", 1)) is None


def test_numbers_that_mislead_are_noted():
    replica = make_replica(release("0.23.0"), "TP4", 1, "ray", family="950")
    part = (Node("node0", "192.168.0.10", 4, "eth0", (4, 5, 6, 7)),)

    def is_noted(replica):
        return any("endpoint file" in note for note in replica.notes(DENSE))

    assert is_noted(replace(replica, nodes=part))
    assert not is_noted(replica)
    assert not is_noted(replace(replica, nodes=part, family="A3"))
    assert not is_noted(replace(replica, nodes=part, release=release("0.30.0rc2")))


@pytest.mark.parametrize("serve", [{}, {"env": {"HCCL_BUFFSIZE": "512"}}])
@pytest.mark.parametrize("buffers", [0, 300])
def test_buffers_for_dispatch_are_set_where_they_are_needed_unless_the_user_does(buffers, serve):
    replica = replace(make_replica(release("0.18.0"), "TP8+EP", 1, serve=serve), buffers=buffers)
    expected = serve["env"]["HCCL_BUFFSIZE"] if serve else str(buffers) if buffers else None
    assert replica.environment(replica.head).get("HCCL_BUFFSIZE") == expected


def test_context_parallelism_is_a_part_of_the_layout_wherever_it_is_written():
    """TP4 with PCP2 takes eight NPUs; the flags go once into the command."""
    flagged = {"prefill-context-parallel-size": 2, "decode_context_parallel_size": "4"}
    serve = Serve.model_validate({"layout": "TP4", "engine_args": flagged})
    assert serve.layout == Layout.parse("TP4×PCP2×DCP4") == Layout.parse(str(serve.layout))
    assert serve.layout.npus == 8
    named = make_replica(release("0.18.0"), "TP4×PCP2×DCP4", 1, serve={"engine_args": flagged})
    argv = named.serve_argv(named.head)
    assert [word for word in argv if "context-parallel" in word.replace("_", "-")] == [
        "--prefill-context-parallel-size",
        "--decode-context-parallel-size",
    ]


def test_environment_by_release_and_by_what_is_asked():
    def of(version, **serve):
        replica = make_replica(release(version), "TP8", 1, serve=serve)
        return replica.environment(replica.head)

    assert "PYTORCH_NPU_ALLOC_CONF" not in of("0.14.0rc1")
    asleep = {"engine_args": {"enable-sleep-mode": True}}
    assert "PYTORCH_NPU_ALLOC_CONF" not in of("0.13.0", **asleep)
    assert of("0.18.0", start_timeout=3600)["VLLM_ENGINE_READY_TIMEOUT_S"] == "3600"
    assert "VLLM_ENGINE_READY_TIMEOUT_S" not in of("0.13.0", start_timeout=3600)
    assert "VLLM_ENGINE_READY_TIMEOUT_S" not in of("0.18.0", start_timeout=300)


def test_the_users_variables_win():
    serve = {"env": {"HCCL_IF_IP": "10.9.9.9", "MY_OWN": "1"}, "start_timeout": 20_000}
    replica = make_replica(release("0.18.0"), "TP16", 2, serve=serve)
    variables = replica.environment(replica.head)
    assert (variables["HCCL_IF_IP"], variables["MY_OWN"]) == ("10.9.9.9", "1")
    assert variables["HCCL_CONNECT_TIMEOUT"] == "7200"


def test_ray_asks_for_a_token_where_it_can():
    replica = make_replica(release("0.30.0rc2"), "TP16", 2, "ray")
    assert replace(replica, ray="2.52.0").environment(replica.head)["RAY_AUTH_MODE"] == "token"
    assert "RAY_AUTH_MODE" not in replace(replica, ray="2.48.0").environment(replica.head)
    assert any("token authentication" in note for note in replica.notes(VL))


def test_how_ray_lays_out_data_ranks():
    span = make_replica(release("0.18.0"), "DP2×TP16", 4, "ray")
    assert span.environment(span.head)["VLLM_RAY_DP_PACK_STRATEGY"] == "span"
    assert "--data-parallel-size-local" not in span.serve_argv(span.head)
    even = make_replica(release("0.18.0"), "DP4×TP4+EP", 2, "ray")
    assert "VLLM_RAY_DP_PACK_STRATEGY" not in even.environment(even.head)
    nodes = (*hosts(1), Node("small", "192.168.0.99", 4, "eth0"))
    uneven = replace(even, nodes=nodes, layout=Layout.parse("DP3×TP4"))
    assert uneven.environment(uneven.head)["VLLM_RAY_DP_PACK_STRATEGY"] == "fill"


@pytest.mark.parametrize(
    "engine_args",
    [
        {"additional_config": {"enable_cpu_binding": False}},
        {"additional_config.enable_cpu_binding": False},
    ],
)
def test_variables_become_keys(engine_args):
    serve = {"env": {"VLLM_ASCEND_ENABLE_NZ": "2"}, "engine_args": engine_args}
    replica = make_replica(release("0.30.0rc2"), "TP8", 1, serve=serve)
    assert replica.settings.config == {"enable_cpu_binding": False, "weight_nz_mode": 2}
    assert "VLLM_ASCEND_ENABLE_NZ" not in replica.environment(replica.head)
    argv = replica.serve_argv(replica.head)
    assert not any("cpu_binding" in word for word in argv if word.startswith("--"))
    given = flags(argv)
    assert given["--additional-config"] == '{"enable_cpu_binding": false, "weight_nz_mode": 2}'
    assert any("weight_nz_mode" in note for note in replica.notes(VL))


@pytest.mark.parametrize(
    ("scheme", "version", "shape", "words"),
    [
        ("ascend", BLOG, VL, "0.13.0rc1"),
        ("ascend", "0.13.0", VL, ""),
        ("ascend", BLOG, DENSE, ""),
        ("compressed-tensors", BLOG, DENSE, "0.12.0rc1"),
        ("compressed-tensors", "0.12.0rc1", DENSE, ""),
        ("fp8", "0.23.0", DENSE, "weights in bfloat16"),
        ("cuda", "0.30.0rc2", DENSE, "weights in bfloat16"),
        ("awq", BLOG, DENSE, "weights in bfloat16"),
        ("none", BLOG, DENSE, ""),
        (None, BLOG, DENSE, ""),
    ],
)
def test_quantisation(scheme, version, shape, words):
    replica = make_replica(release(version), "TP8", 1, scheme=scheme)
    if not words:
        replica.check(shape)
        given = flags(replica.serve_argv(replica.head)).get("--quantization")
        assert given == ("ascend" if scheme == "ascend" else None)
        return
    with pytest.raises(Refused) as error:
        replica.check(shape)
    assert words in str(error.value.hint)


def test_fp8_is_for_the_newest_chip():
    shape = known("DeepSeek-V4-Flash")
    for scheme in ("fp8", "cuda"):
        replica = make_replica(release("0.23.0"), "TP8", 1, scheme=scheme, family="950")
        replica.check(shape)
        with pytest.raises(Refused, match="only on 950"):
            replace(replica, family="A3").check(shape)
        with pytest.raises(Refused) as error:
            replace(replica, release=release("0.21.0rc1")).check(shape)
        assert "0.22.1rc1" in str(error.value.hint)


def test_a_flag_given_by_the_user_is_not_given_twice():
    serve = {"engine_args": {"quantization": "ascend"}}
    replica = make_replica(release(BLOG), "TP8", 1, serve=serve, scheme="ascend")
    assert replica.serve_argv(replica.head).count("--quantization") == 1


def test_the_cache_in_bytes_is_refused_where_it_has_no_effect():
    serve = {"kv_cache": "8GiB"}
    with pytest.raises(Refused, match="no effect"):
        make_replica(release("0.18.0"), "TP8", 1, serve=serve).check(DENSE)
    replica = make_replica(release("0.19.1rc1"), "TP8", 1, serve=serve)
    replica.check(DENSE)
    assert flags(replica.serve_argv(replica.head))["--kv-cache-memory-bytes"] == str(8 * 2**30)


def test_an_unknown_interface_is_refused():
    replica = make_replica(release(BLOG), "TP16", 2)
    nodes = (replica.nodes[0], Node("node1", "192.168.0.11", 8))
    with pytest.raises(Refused, match="network interface") as error:
        replace(replica, nodes=nodes).check(VL)
    assert error.value.where == "node1"


def test_310p_computes_in_half_precision():
    replica = make_replica(release("0.18.0"), "TP4", 1, family="310P")
    assert flags(replica.serve_argv(replica.head))["--dtype"] == "float16"
    assert any("float16" in note for note in replica.notes(DENSE))


@pytest.mark.parametrize(
    "text", ["/data/a b", "/data/$(id)", "/data/'\"", "/data/;rm -rf", "/数据"]
)
def test_hostile_names_stay_one_argument(text):
    replica = make_replica(release(BLOG), "TP8", 1, serve={"engine_args": {"seed": text}})
    replica = replace(replica, model=text, served_name=text)
    argv = replica.serve_argv(replica.head)
    assert argv[2] == text and argv.count(text) == 3


def test_nothing_here_claims_to_be_verified():
    for row in RELEASES:
        assert "not verified on NPU hardware by us" in make_replica(row, "TP8", 1).notes(DENSE)


PACKED = {"config_groups": {"g": {"weights": {"num_bits": 4}}}, "format": "pack-quantized"}
FLOATING = {"config_groups": {"g": {"weights": {"num_bits": 8}}}, "format": "float-quantized"}


@pytest.mark.parametrize(
    ("model", "version", "family", "words"),
    [
        ("Qwen3-32B-FP8", "0.23.0", "A2", "only on 950"),
        ("Qwen3-32B-AWQ", "0.23.0", "A2", "not supported on NPUs"),
        ("Qwen3-32B-GGUF", "0.23.0", "A2", "not supported on NPUs"),
        ("gpt-oss-20b", "0.23.0", "A3", "not supported on NPUs"),
        ("gpt-oss-20b-BF16", "0.23.0", "A3", ""),
        ("Qwen3-32B-quantized.w8a8", "0.23.0", "A2", ""),
        ("Qwen3-32B-quantized.w8a8", "0.23.0", "310P", "ModelSlim only"),
        ("Qwen3-32B-quantized.w4a16", "0.23.0", "A2", "routed experts only"),
        ("Qwen3-32B-w8a8", "0.23.0", "310P", ""),
        ("Qwen3-32B-w4a8", "0.23.0", "310P", "not loaded on 310P"),
        ("Qwen3-32B-w8a8sc-310-vllm", "0.23.0", "310P", ""),
        ("Qwen3-32B-w8a8sc-310-vllm", "0.23.0", "A2", "on 310P only"),
        ("Kimi-K2-Thinking", "0.23.0", "A3", ""),
        ("Qwen3-32B", "0.23.0", "310P", ""),
    ],
)
def test_a_name_tells_what_a_chip_cannot_load(model, version, family, words):
    shape = known(model)
    fault = quantisation_fault(scheme_of(shape), shape, version, family)
    assert words in (fault.reason if fault else "") and bool(words) == (fault is not None)


@pytest.mark.parametrize(
    ("marks", "words"),
    [
        ({"quant_method": "compressed-tensors", **PACKED}, "routed experts only"),
        ({"quant_method": "compressed-tensors", **FLOATING}, "only on 950"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "not supported on NPUs"),
        ({"quant_method": "torchao"}, "not supported on NPUs"),
        (
            {"quant_method": "modelopt", "quantized_layers": {"a.q_proj": {"quant_algo": "FP8"}}}
            | {"quant_algo": "MIXED_PRECISION"},
            "not supported on NPUs",
        ),
    ],
)
def test_a_config_tells_the_same_to_plan_as_hosts_do_to_up(marks, words):
    config = LLAMA | {"quantization_config": marks}
    shape = read_shape(config)
    for scheme in (scheme_of(shape), recognise_quantisation(config).scheme):
        fault = quantisation_fault(scheme, shape, "0.23.0", "A2")
        assert fault is not None and words in fault.reason
