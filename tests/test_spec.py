"""The spec: what it accepts, and what it says about what it refuses."""

import pytest

from ropeway.errors import Exit, Refused, SpecError
from ropeway.spec.cluster import Cluster, Local, RemoteHost
from ropeway.spec.engine_args import engine_argument_flags
from ropeway.spec.errors import GIVE_KEY
from ropeway.spec.model import Layout, Model, Serve, Workload, dump_spec, local_spec, parse_spec
from ropeway.spec.types import RELEASE_HINT

SMALL = "cluster: {local: {hosts: 2, npus: 2}}\nmodel: {name: smollm2}\n"


def refusal(text: str) -> SpecError:
    with pytest.raises(SpecError) as caught:
        parse_spec(text, "f.yaml")
    return caught.value


@pytest.mark.parametrize(
    ("text", "layout", "name"),
    [
        ("TP2×PP2+EP", Layout(tensor=2, pipeline=2, expert=True), "TP2×PP2+EP"),
        ("tp2,pp2,ep", Layout(tensor=2, pipeline=2, expert=True), "TP2×PP2+EP"),
        ("tp2 dp2", Layout(tensor=2, data=2), "DP2×TP2"),
        ("TP4 + EP", Layout(tensor=4, expert=True), "TP4+EP"),
        ("ＴＰ２，ＰＰ４", Layout(tensor=2, pipeline=4), "TP2×PP4"),
        ("TP2 X PP3 * DP4", Layout(tensor=2, pipeline=3, data=4), "DP4×TP2×PP3"),
        ("tp=2,ep", Layout(tensor=2, expert=True), "TP2+EP"),
        ("EP", Layout(expert=True), "TP1+EP"),
        ("DP1×PP2", Layout(pipeline=2), "PP2"),
    ],
)
def test_a_layout_is_read_from_its_name(text: str, layout: Layout, name: str) -> None:
    assert Layout.parse(text) == layout
    assert str(layout) == name


@pytest.mark.parametrize(
    ("text", "word"),
    [
        *((text, "not a layout") for text in (
            "", "TP", "TP2×", "4", "TP2PP2", "XP2", "TP-1", "TP2.5", "TP999999",
        )),
        ("TP0", "at least 1"),
        ("PP99999", "at most 65536"),
        ("TP2×TP2", "tensor"),
        ("EP+EP", "expert"),
        ("TP4+EP4", "write `EP`"),
    ],
)  # fmt: skip
def test_what_is_not_a_layout_is_refused(text: str, word: str) -> None:
    with pytest.raises(Refused) as caught:
        Layout.parse(text)
    assert f"`{text}`" in caught.value.what
    assert word in caught.value.what


@pytest.mark.parametrize("tag", ["0.18.0-openeuler", "0.18.0-a3", "v0.18.0-310p-openeuler"])
def test_the_tag_of_an_image_is_told_apart_from_a_release(tag: str) -> None:
    with pytest.raises(Refused, match="is the tag of an image, not a release") as caught:
        parse_spec(SMALL + f"serve: {{version: {tag}}}", "f")
    hint = str(caught.value.hint)
    assert "write `0.18.0`" in hint and "`runtime.image`" in hint


def test_a_layout_may_be_written_key_by_key() -> None:
    text = SMALL + "serve: {layout: {tensor: 2, x-why: fits, expert: true}, layouts: [tp2, pp2]}"
    spec = parse_spec(text, "f")
    assert spec.serve.layout == Layout(tensor=2, expert=True)
    assert [str(layout) for layout in spec.serve.layouts] == ["TP2", "PP2"]


def test_a_small_spec_has_the_stated_defaults_and_requests_follow_the_clients() -> None:
    spec = parse_spec(SMALL, "f")
    assert spec == local_spec(Model(name="smollm2"))
    assert (spec.name, spec.engine, str(spec.serve.layout)) == ("ropeway", "vllm-cpu", "TP1")
    assert (spec.serve.address, spec.serve.port) == ("127.0.0.1", 8000)
    assert spec.serve.start_timeout == 600
    assert spec.workload == Workload(
        clients=256, requests=512, input_tokens=128, output_tokens=128, seed=0, temperature=0.0
    )
    assert Workload(clients=3).requests == 6
    assert Workload(clients=3, requests=4).requests == 4


def test_a_local_cluster_counts_its_virtual_npus() -> None:
    cluster = Cluster(local=Local(hosts=3, npus=2))
    assert (cluster.is_local, cluster.host_count) == (True, 3)
    assert (cluster.npus_per_host, cluster.total_npus) == (2, 6)


def test_a_cluster_of_unequal_hosts_has_as_many_npus_per_host_as_the_smallest() -> None:
    hosts = (RemoteHost(address="a", npus=8), RemoteHost(address="b", npus=4))
    cluster = Cluster(hosts=hosts)
    assert (cluster.is_local, cluster.host_count) == (False, 2)
    assert (cluster.npus_per_host, cluster.total_npus) == (4, 12)


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1", "::1", "fe80::1%eth0", "npu1", "npu_1", "a.b-c.example.com.", "localhost"],
)
def test_host_names_and_addresses_are_taken(address: str) -> None:
    assert RemoteHost(address=address, npus=8).address == address


@pytest.mark.parametrize(
    "address", ["10.0.0.256", "1.2.3", "-oProxy=x", "a b", "", "a..b", "é", "a." * 127]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="neither a host name nor an IP address"):
        RemoteHost(address=address, npus=8)


@pytest.mark.parametrize(
    ("text", "size"), [("1GiB", 2**30), ("4GB", 4 * 10**9), ("512 MiB", 2**29), (2**21, 2**21)]
)
def test_the_kv_cache_is_a_size(text: str | int, size: int) -> None:
    assert parse_spec(f"{SMALL}serve: {{kv_cache: {text}}}", "f").serve.kv_cache == size


def test_sections_that_are_all_comments_mean_their_defaults() -> None:
    text = SMALL + "serve:\n  # port: 1\nworkload:\n"
    assert parse_spec(text, "f") == parse_spec(SMALL, "f")
    blanks = SMALL + "serve:\n  engine_args:\n  env:\n  layouts:\n  kv_cache:\n  context:\n"
    assert parse_spec(blanks, "f") == parse_spec(SMALL, "f")


def test_own_keys_are_ignored_at_every_level_and_kept_inside_engine_arguments() -> None:
    text = """
x-note: mine
cluster: {x-a: 1, local: {x-b: 2}}
model: {name: smollm2, x-c: [3]}
serve:
  x-d: 4
  env: {x-e: 5}
  engine_args: {x-f: 6, chat-template-kwargs: {x-g: 7}}
workload: {x-h: 8}
"""
    spec = parse_spec(text, "f")
    assert spec.serve.env == {}
    assert spec.serve.engine_args == {"chat-template-kwargs": {"x-g": 7}}


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.9", "::1", "localhost", "LocalHost."])
def test_loopback_needs_no_key(address: str) -> None:
    assert Serve(address=address).api_key_env is None


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.0.0.1", "npu1"])
def test_beyond_loopback_a_key_is_needed(address: str) -> None:
    with pytest.raises(ValueError, match="api_key_env"):
        Serve(address=address)
    assert Serve(address=address, api_key_env="KEY").api_key_env == "KEY"


@pytest.mark.parametrize(
    ("line", "path", "word"),
    [
        ("name: Big", "name", '`"Big"`'),
        ("name: " + "a" * 32, "name", '`"aaaa'),
        ("name: 7", "name", "text, not `7`"),
        ("serve: {port: '8000'}", "serve.port", 'whole number, not `"8000"`'),
        ("serve: {port: 8000.0}", "serve.port", "whole number, not `8000.0`"),
        ("serve: {port: true}", "serve.port", "whole number, not `true`"),
        ("serve: {port: }", "serve.port", "whole number, not empty"),
        ("serve: {port: [1]}", "serve.port", "whole number, not a list"),
        ("serve: {port: 0}", "serve.port", "at least 1, not `0`"),
        ("serve: {port: 65536}", "serve.port", "at most 65535, not `65536`"),
        ("serve: {context: " + "9" * 99 + "}", "serve.context", "at most 100,000,000"),
        ("serve: {memory: 0}", "serve.memory", "more than 0, not `0`"),
        ("serve: {memory: 1.1}", "serve.memory", "at most 1, not `1.1`"),
        ("serve: {memory: half}", "serve.memory", 'number, not `"half"`'),
        ("serve: {kv_cache: lots}", "serve.kv_cache", "`lots`"),
        ("serve: {kv_cache: 4}", "serve.kv_cache", "4 bytes"),
        ("serve: {kv_cache: 1.5}", "serve.kv_cache", "`1.5`"),
        ("serve: {kv_cache: '" + "9" * 400 + "'}", "serve.kv_cache", "too large"),
        ("serve: {kv_cache: 1GiB, memory: 0.5}", "serve.memory", "`kv_cache`"),
        ("serve: {engine_args: {data-parallel-backend: mp}}",
         "serve.engine_args.data-parallel-backend", "`serve.layout`"),
        ("serve: {dtype: fp16}", "serve.dtype", "`auto`, `bfloat16`, `float16`"),
        ("serve: {engine: vllm-ascend}", "serve.engine", "`cluster.local`"),
        ("serve: {layout: TP0}", "serve.layout", "`TP0`"),
        ("serve: {layout: 4}", "serve.layout", "name like `TP2×PP2+EP`"),
        ("serve: {layout: {expert: yes}}", "serve.layout.expert", "true or false"),
        ("serve: {layout: {tensor: 0}}", "serve.layout.tensor", "at least 1, not `0`"),
        ("serve: {layouts: TP2}", "serve.layouts", 'list, not `"TP2"`'),
        ("serve: {layouts: [4]}", "serve.layouts[0]", "name like `TP2×PP2+EP`"),
        ("serve: {layouts: [TP2, tp2]}", "serve.layouts[1]", "TP2"),
        ("serve: {address: a b}", "serve.address", '`"a b"`'),
        ("serve: {address: 0.0.0.0}", "serve.address", "`serve.api_key_env`"),
        ("serve: {api_key_env: A-B}", "serve.api_key_env", "name of a variable"),
        ("serve: {env: {A-B: x}}", "serve.env.A-B", "environment variable"),
        ("serve: {env: {PIN: 31337}}", "serve.env.PIN", "text, not a number"),
        ("serve: {env: {MY_TOKEN: x}}", "serve.env.MY_TOKEN", "secret"),
        ("serve: {engine_args: [1]}", "serve.engine_args", "mapping, not a list"),
        ("serve: {engine_args: {--seed: 1}}", "serve.engine_args.--seed", "leading dashes"),
        ("serve: {engine_args: {a b: 1}}", "serve.engine_args.a b", "not the name of a flag"),
        ("serve: {engine_args: {a.: 1}}", "serve.engine_args.a.", "not the name of a flag"),
        (f"serve: {{engine_args: {{pcp: '{'9' * 5000}'}}}}",
         "serve.engine_args.pcp", "must be a whole number of at least 1"),
        ("serve: {engine_args: {block-size: 1, block_size: 1}}",
         "serve.engine_args.block_size", "same flag as `block-size`"),
        ("serve: {context: 200}", "serve.context", "256: 128 in, 128 out"),
        ("serve: {<<: 3}", "serve.<<", "not a key"),
        ("serve: 3", "serve", "mapping, not `3`"),
        ("workload: {seed: -1}", "workload.seed", "at least 0, not `-1`"),
        ("workload: {temperature: 2.5}", "workload.temperature", "at most 2, not `2.5`"),
        ("workload: {clients: 1e3}", "workload.clients", "whole number, not `1000.0`"),
        ("runtime: {command: podman}", "runtime", "containers"),
        (f"runtime: {{image: q/a@sha256:{'0' * 64}, mirror: m.org}}", "runtime.mirror", "digest"),
        ("workload: {rate: 0}", "workload.rate", "more than 0, not `0`"),
        ("serve: {max_sequences: 0}", "serve.max_sequences", "at least 1, not `0`"),
        ("serve: {version: latest}", "serve.version", '`"latest"`'),
        ("serve: {version: v0.11}", "serve.version", '`"0.11"`'),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_at_its_line(line: str, path: str, word: str) -> None:
    error = refusal(f"# a comment\n{SMALL}{line}\n")
    assert (error.where, error.evidence, error.exit_code) == ("f.yaml:4", (), Exit.REFUSED)
    assert error.what.startswith(f"`{path}`")
    assert word in error.what
    assert "31337" not in str(error.as_json()), "what may be a secret is not shown"


ONE = "cluster: {local: {}}\n"
PATH = "model: {path: m}\n"


@pytest.mark.parametrize(
    ("text", "line", "path"),
    [
        ("model: {name: smollm2}", 1, "cluster"),
        (ONE, 1, "model"),
        ("\nmodel: {}\n" + ONE, 2, "model"),
        (ONE + "model:\n  path: /m\n  name: smollm2", 3, "model.path"),
        (ONE + "model: {path: ''}", 2, "model.path"),
        (ONE + "model: {path: m, served_name: -x}", 2, "model.served_name"),
        (PATH + "cluster: {}", 2, "cluster"),
        (PATH + "cluster:\n  hosts: []", 3, "cluster.hosts"),
        (PATH + "cluster:\n  local: {}\n  hosts:\n  - {address: a, npus: 8}", 4, "cluster.hosts"),
        (PATH + "cluster:\n  hosts:\n  - {address: a, npus: 8}\n  - address: b\n",
         5, "cluster.hosts[1].npus"),
        (PATH + "cluster:\n  hosts:\n  - {address: a, npus: 8}\n  - npus: 8\n    address: A\n",
         6, "cluster.hosts[1].address"),
        (PATH + "cluster: {hosts: [{address: a, npus: 1, user: -x}]}",
         2, "cluster.hosts[0].user"),
        (PATH + "cluster: {hosts: [{address: a, npus: 1, devices: [0, 1]}]}",
         2, "cluster.hosts[0].devices"),
        (PATH + "cluster: {hosts: [{address: a, npus: 2, devices: [1, 1]}]}",
         2, "cluster.hosts[0].devices"),
        ("model: {name: smollm2}\ncluster:\n  local: {}\n  chip: 910B4\n", 4, "cluster.chip"),
        ("model: {name: smollm2}\ncluster:\n  local: {}\n  hbm: 32GiB\n", 4, "cluster.hbm"),
    ],
)  # fmt: skip
def test_what_is_missing_or_contradicts_is_refused_at_its_line(
    text: str, line: int, path: str
) -> None:
    error = refusal(text)
    assert (error.where, error.evidence) == (f"f.yaml:{line}", ())
    assert error.what.startswith(f"`{path}`")


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("wrokload: 3", "did you mean `workload`?"),
        ("serve: {prot: 3}", "did you mean `port`?"),
        ("serve: {kv-cache: 1GiB}", "did you mean `kv_cache`?"),
        ("serve: {max_model_len: 3}", "did you mean `context`?"),
        ("serve: {tensor-parallel-size: 3}", "did you mean `layout`?"),
        ("serve: {layout: {tp: 3}}", "did you mean `serve.layout`?"),
        ("serve: {layout: {tenser: 3}}", "did you mean `tensor`?"),
        ("serve: {layouts: [{tenser: 3}]}", "did you mean `tensor`?"),
        ("serve: {clients: 3}", "`clients` belongs under `workload`"),
        ("serve: {tensor: 3}", "`tensor` belongs under `serve.layout`"),
        ("workload: {workload: 3}", "`workload` belongs at the top level"),
        ("serve: {swap-space: 3}", "an engine's own flag goes under `serve.engine_args`"),
        ("qqq: 3", "keys here are `name`, `cluster`, `model`, `runtime`, `serve`, `workload`"),
        ("serve: {dtype: float_16}", "did you mean `float16`?"),
        ("serve: {api_key: x}", GIVE_KEY),
        ("api-key: x", GIVE_KEY),
        ("serve: {engine_args: {api-key: x}}", GIVE_KEY),
        ("serve: {engine_args: {api_key: x}}", GIVE_KEY),
        ("serve: {port: '80'}", "remove the quotes"),
        ("serve: {version: banana}", RELEASE_HINT),
        ("serve: {env: {A: 1}}", "put it in quotes"),
        ("serve: {engine_args: {port: 1}}", "set `serve.port` and remove this line"),
    ],
)
def test_a_hint_says_what_was_likely_meant(line: str, hint: str) -> None:
    assert refusal(SMALL + line).hint == hint


@pytest.mark.parametrize(
    ("cluster", "hint"),
    [
        ("{local: {}, host: [a]}", "did you mean `hosts`?"),
        ("{hosts: [{address: a, npus: 8, host: b}]}", "did you mean `address`?"),
    ],
)
def test_a_key_of_the_same_level_is_suggested_before_a_flag_of_the_engine(
    cluster: str, hint: str
) -> None:
    assert refusal(f"cluster: {cluster}\nmodel: {{path: /data/m}}\n").hint == hint


def test_a_published_name_is_no_model_of_real_hosts() -> None:
    text = "cluster: {hosts: [{address: a, npus: 8}]}\nmodel: {name: Qwen/Qwen3-30B-A3B}\n"
    error = refusal(text)
    assert "these hosts are real" in error.what
    assert "`path: /data/Qwen3-30B-A3B`" in (error.hint or "")
    error = refusal(text.replace("hosts: [{address: a, npus: 8}]", "local: {}"))
    assert "must be one of" in error.what


def test_every_fault_is_listed_at_once_in_the_order_of_the_file() -> None:
    text = """\
name: Bad
cluster: {local: {hosts: 0}}
model: {nmae: smollm2, name: smollm}
serve:
  prot: 1
  engine_args:
    port: 1
    tp: 2
workload: {clients: many}
"""
    error = refusal(text)
    places = [str(error.where), *(line.split(": ")[0] for line in error.evidence)]
    assert places == [f"f.yaml:{line}" for line in (1, 2, 3, 3, 5, 7, 8, 9)]
    assert error.evidence[3].startswith("f.yaml:5: `serve.prot`")
    assert error.evidence[3].endswith("; did you mean `port`?")


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("tensor-parallel-size", "serve.layout"), ("tensor_parallel_size", "serve.layout"),
        ("--tensor-parallel-size", "serve.layout"), ("tensor-parallel", "serve.layout"),
        ("tp", "serve.layout"), ("no-enable-expert-parallel", "serve.layout"),
        ("data-parallel-size", "serve.layout"), ("pipeline-parallel-size", "serve.layout"),
        ("max-model-len", "serve.context"), ("max_num_seqs", "serve.max_sequences"),
        ("dtype", "serve.dtype"), ("host", "serve.address"),
        ("gpu-memory-utilization", "serve.memory"), ("kv-cache-memory-bytes", "serve.kv_cache"),
        ("model", "model"), ("port", "serve.port"),
        ("served-model-name", "model.served_name"), ("served-model", "model.served_name"),
    ],
)  # fmt: skip
def test_engine_flags_with_a_key_of_their_own_are_refused(name: str, ours: str) -> None:
    error = refusal(f"{SMALL}serve:\n  engine_args:\n    {name}: s3cret\n")
    assert error.where == "f.yaml:5"
    assert error.what.startswith(f"`serve.engine_args.{name}`")
    assert error.what.endswith(f"`{ours}`")
    assert "s3cret" not in str(error.as_json())


def test_engine_flags_that_only_look_alike_pass() -> None:
    names = ("model-impl", "data-parallel-rpc-port", "kv-cache-dtype", "max-num-batched-tokens")
    assert Serve(engine_args=dict.fromkeys(names, 1)).engine_args == dict.fromkeys(names, 1)


REAL = "cluster:\n  hosts: [{address: a, npus: 8}]\n"


def test_chip_price_and_rate_of_real_hosts_whose_engine_is_that_of_ascend() -> None:
    spec = parse_spec(
        f"{REAL}  chip: Ascend 910B4 32GB\n  hbm: 32GiB\n  price_per_host_hour: 16\n"
        "  currency: CNY\nmodel: {path: m}\nworkload: {rate: 2}\n"
        "serve: {version: 0.11.0rc0, max_sequences: 128}\n",
        "f",
    )
    assert (spec.engine, spec.serve.engine) == ("vllm-ascend", None)
    assert (spec.cluster.chip, spec.cluster.hbm) == ("910B4", 32 * 2**30)
    assert (spec.cluster.price_per_host_hour, spec.cluster.currency) == (16.0, "CNY")
    assert (spec.workload.rate, spec.serve.version, spec.serve.max_sequences) == (
        2.0, "0.11.0rc0", 128,
    )  # fmt: skip
    assert parse_spec(dump_spec(spec), "f") == spec
    blank = parse_spec(SMALL, "f")
    assert (blank.cluster.chip, blank.workload.rate, blank.serve.version) == (None, None, None)
    assert not {"chip", "hbm", "price_per_host_hour", "currency"} & set(blank.cluster.model_dump())


@pytest.mark.parametrize(
    ("lines", "path", "word"),
    [
        ("  chip: 910B5\n", "cluster.chip", "unknown chip `910B5`"),
        ("  chip: 910B\n", "cluster.chip", "`910B` names a family of chips"),
        ("  hbm: 64\n", "cluster.hbm", "64 bytes"),
        ("  price_per_host_hour: 0\n", "cluster.price_per_host_hour", "more than 0"),
        ("  currency: yuan\n", "cluster.currency", '`"yuan"`'),
    ],
)
def test_what_a_plan_cannot_be_made_from(lines: str, path: str, word: str) -> None:
    error = refusal(f"{REAL}{lines}model: {{path: m}}\n")
    assert error.where == "f.yaml:3"
    assert error.what.startswith(f"`{path}`")
    assert word in error.what
    if path == "cluster.chip":
        assert "910B1, 910B2, " in str(error.hint)


@pytest.mark.parametrize(
    ("engine_args", "flags"),
    [
        ({}, []),
        ({"block-size": 64}, ["--block-size", "64"]),
        ({"block_size": 64}, ["--block_size", "64"]),
        ({"enable-foo": True, "bare": None}, ["--enable-foo", "--bare"]),
        ({"enable-foo": False}, ["--no-enable-foo"]),
        ({"ratio": 0.5}, ["--ratio", "0.5"]),
        ({"text": "two words"}, ["--text", "two words"]),
        ({"text": "-x"}, ["--text=-x"]),
        ({"number": -1}, ["--number=-1"]),
        ({"empty": ""}, ["--empty", ""]),
        ({"list": ["a", 2, {"k": 1}]}, ["--list", "a", "2", '{"k": 1}']),
        ({"json": {"名": [True, None]}}, ["--json", '{"名": [true, null]}']),
        ({"b": 1, "a": 2}, ["--b", "1", "--a", "2"]),
    ],
)
def test_engine_arguments_become_flags(engine_args: dict[str, object], flags: list[str]) -> None:
    assert engine_argument_flags(engine_args) == flags


def test_a_misspelt_key_stands_before_what_is_missing_for_it() -> None:
    error = refusal("cluster: {host: [{address: 192.168.0.1, npus: 8}]}\nmodel: {path: /m}\n")
    assert (error.what, error.hint) == (
        "`cluster.host` is not a key of the spec",
        "did you mean `hosts`?",
    )


def test_a_misspelt_section_stands_before_the_one_that_is_missing_for_it() -> None:
    error = refusal("model: {path: /m}\nclsuter:\n  hosts: [{address: 192.168.0.1, npus: 8}]\n")
    assert (error.where, error.hint) == ("f.yaml:2", "did you mean `cluster`?")
    assert error.evidence == ("f.yaml:1: `cluster` is missing",)


@pytest.mark.parametrize("character", ["\\r", "\\e", "\\x9b", "\\u202e", "\\u2028", "\\x7f"])
@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("serve.engine_args.seed", '{engine_args: {seed: "a%sb"}}'),
        ("serve.engine_args.a[1]", '{engine_args: {a: [x, "%s"]}}'),
        ("serve.engine_args.a.b", '{engine_args: {a: {b: "%s"}}}'),
        ("serve.engine_args.a", '{engine_args: {a: {"k%s": 1}}}'),
        ("serve.env.A", '{env: {A: "%s"}}'),
    ],
)
def test_a_character_that_nobody_sees_is_refused_with_its_line(character, key, line):
    error = refusal(f"{SMALL}serve: {line % character}\n")
    assert error.where == "f.yaml:3"
    assert f"`{key}`" in error.what and "nobody sees" in error.what


def test_nor_does_a_spec_take_one_that_is_made_without_a_file():
    with pytest.raises(ValueError, match="nobody sees"):
        local_spec(serve=Serve(env={"A": "a\x1bb"}))


def test_lines_and_tabs_of_a_text_are_no_such_characters():
    text = "name: t\nmodel: {name: smollm2}\ncluster: {local: {hosts: 2, npus: 2}}\n"
    spec = parse_spec(text + 'serve: {engine_args: {a: "x\\n\\ty"}}\n', "f")
    assert spec.serve.engine_args == {"a": "x\n\ty"}
