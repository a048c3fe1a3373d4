"""The spec as text: it prints as it reads; the sample; `ropeway init`; values put into it."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from json_documents import read_document
from plan_requests import SPEC
from ropeway.cli.init import init
from ropeway.cli.main import exit_code
from ropeway.errors import Exit, Refused
from ropeway.outside import UNSEEN
from ropeway.spec.cluster import Cluster, Local, RemoteHost
from ropeway.spec.editing import Edit, apply_edits, reasoned_keys
from ropeway.spec.errors import schema_keys
from ropeway.spec.model import (
    Layout,
    Model,
    Serve,
    Spec,
    Workload,
    dump_spec,
    load_spec,
    local_spec,
    parse_spec,
)
from ropeway.spec.samples import filled, hosts_sample_text, sample_text
from ropeway.spec.secret_shapes import is_secret_name

SIZES = st.integers(1, 65_536)
LAYOUTS = st.builds(Layout, tensor=SIZES, pipeline=SIZES, data=SIZES, expert=st.booleans())


@given(LAYOUTS)
def test_every_layout_is_read_back_from_its_name(layout: Layout) -> None:
    assert Layout.parse(str(layout)) == layout
    assert Layout.parse(str(layout).lower().replace("×", "x")) == layout
    assert layout.npus == layout.tensor * layout.pipeline * layout.data


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=9).filter(
    lambda text: not UNSEEN.search(text)
)
SCALAR = st.none() | st.booleans() | st.integers() | TEXT | st.floats(-1e9, 1e9)
VALUE = SCALAR | st.lists(SCALAR, max_size=3) | st.dictionaries(TEXT, SCALAR, max_size=2)
ENGINE_ARGS = st.dictionaries(st.from_regex(r"flag-[a-z]{1,6}", fullmatch=True), VALUE, max_size=3)
NAMES = st.from_regex(r"[A-Z_][A-Z0-9_]{0,5}", fullmatch=True)
ENV = st.dictionaries(NAMES.filter(lambda name: not is_secret_name(name)), TEXT, max_size=3)
NPUS = st.integers(1, 64)
HOSTS = st.lists(
    st.builds(
        RemoteHost,
        address=st.sampled_from(["a", "10.0.0.1", "::1", "h_1.example.com", "no", "b-1"]),
        npus=NPUS,
        user=st.none() | st.sampled_from(["root", "me.too", "1e5"]),
        port=st.none() | st.integers(1, 65_535),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda host: host.address,
).map(tuple)
SPECS = st.builds(
    Spec,
    name=st.from_regex(r"[a-z0-9][a-z0-9-]{0,30}", fullmatch=True),
    cluster=st.builds(Cluster, local=st.builds(Local, hosts=NPUS, npus=NPUS))
    | st.builds(Cluster, hosts=HOSTS),
    model=st.builds(Model, name=st.sampled_from(["smollm2", "smollm2-moe"]))
    | st.builds(
        Model, path=st.sampled_from(["m", "/数据/m", "~", "1", "no"]), served_name=st.just("x")
    ),
    serve=st.builds(
        Serve,
        engine=st.sampled_from([None, "vllm-cpu"]),
        layout=LAYOUTS,
        layouts=st.lists(LAYOUTS, max_size=3, unique=True).map(tuple),
        context=st.none() | st.integers(256, 10**8),
        dtype=st.sampled_from(["auto", "bfloat16", "float16", "float32"]),
        kv_cache=st.none() | st.integers(2**20, 2**50),
        port=st.integers(1, 65_535),
        api_key_env=st.none() | st.just("KEY"),
        engine_args=ENGINE_ARGS,
        env=ENV,
    ),
    workload=st.builds(
        Workload,
        clients=st.integers(1, 65_536),
        input_tokens=st.integers(1, 128),
        output_tokens=st.integers(1, 128),
        seed=st.integers(0, 2**63 - 1),
        temperature=st.floats(0, 2),
    ),
)


@given(SPECS)
def test_what_is_dumped_is_parsed_back(spec: Spec) -> None:
    assert parse_spec(dump_spec(spec), "f") == spec
    assert Spec.model_validate(json.loads(json.dumps(spec.as_json()))) == spec


def test_json_shows_layouts_by_name_and_leaves_blanks_out() -> None:
    serve = Serve(layout=Layout(tensor=2, expert=True), kv_cache=3 * 2**29)
    shown = local_spec(serve=serve).as_json()["serve"]
    assert isinstance(shown, dict)
    assert (shown["layout"], shown["kv_cache"]) == ("TP2+EP", "1536MiB")
    assert "context" not in shown


def test_the_sample_loads_its_layouts_fit_its_cluster_and_its_lines_a_terminal() -> None:
    spec = parse_spec(sample_text(), "sample.yaml")
    assert spec.cluster.is_local
    assert str(spec.serve.layout) == "TP2×PP2+EP"
    for layout in (spec.serve.layout, *spec.serve.layouts):
        assert layout.npus <= spec.cluster.total_npus
    assert max(map(len, sample_text().splitlines())) <= 100


def test_the_sample_for_hosts_loads_with_its_further_keys_and_without() -> None:
    text = hosts_sample_text()
    assert max(map(len, text.splitlines())) <= 100
    spec = parse_spec(text, "sample-hosts.yaml")
    assert (spec.engine, spec.cluster.host_count, spec.cluster.total_npus) == ("vllm-ascend", 2, 16)
    assert "layout" not in spec.serve.model_fields_set, "the plan chooses it"
    keys = text.partition("\n\n")[2]
    every = re.sub(r"^( *)# ( *\w+:( |$).*)$", r"\1\2", keys, flags=re.MULTILINE)
    assert parse_spec(every, "sample-hosts.yaml").serve.layout.npus == 16


def test_the_samples_further_keys_load_in_place_of_what_they_replace() -> None:
    text = sample_text()
    for replaced in ("name: smollm2-moe", "layout: TP2", "kv_cache"):
        text = re.sub(rf"^ *{replaced}.*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"^( +)# ( *\w+:( |$).*)$", r"\1\2", text, flags=re.MULTILINE)
    spec = parse_spec(text, "sample.yaml")
    assert (spec.model.path, spec.model.served_name) == ("/data/my-model", "my-model")
    assert spec.serve.layout == Layout(tensor=2, pipeline=2, expert=True)
    assert (spec.serve.memory, spec.serve.api_key_env) == (0.9, "ROPEWAY_KEY")


def test_the_samples_explain_every_key_of_the_schema() -> None:
    shown: set[str] = set()
    section = ""
    for line in (sample_text() + hosts_sample_text()).splitlines():
        if top := re.match(r"(?:# )?(cluster|model|runtime|serve|workload|name):", line):
            section = str(top[1])
            shown.add(section)
        elif below := re.match(r"[ #-]*(\w+):( |$)", line):
            shown.add(f"{section}.{below[1]}")
    for mapping, keys in schema_keys(Spec).items():
        if mapping == "serve.layouts":
            continue  # written as `serve.layout` is
        for key in keys:
            name = f"{mapping.split('.')[0]}.{key}" if mapping else key
            assert name in shown, f"neither sample mentions {name}"


@given(HOSTS, st.none() | st.sampled_from(["/data/Qwen3-30B-A3B", "/m/", "/data/它"]))
def test_a_filled_sample_says_what_it_was_given(hosts: list[RemoteHost], path: str | None) -> None:
    cluster = Cluster(hosts=tuple(hosts), nic="enp67s0f5", chip="910B3")
    spec = parse_spec(filled(cluster, path), "filled")
    assert spec.cluster == cluster
    assert spec.model.path == (path or "/data/Qwen3-30B-A3B")
    assert not path or spec.name in ("qwen3-30b-a3b", "m", "my-service")


def test_init_writes_a_sample_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(init, [])
    assert result.exit_code == 0
    assert result.output == "wrote ropeway.yaml; bring it up with `ropeway up`\n"
    assert load_spec(tmp_path / "ropeway.yaml").model.name == "smollm2-moe"


def test_init_keeps_a_file_that_is_there_unless_forced(tmp_path: Path) -> None:
    file = tmp_path / "my spec.yaml"
    file.write_text("mine")
    refused = CliRunner().invoke(init, [str(file)])
    assert isinstance(refused.exception, Refused)
    assert refused.exception.exit_code == Exit.REFUSED
    assert file.read_text() == "mine"
    forced = CliRunner().invoke(init, [str(file), "--force"])
    assert forced.output == f"wrote {file}; bring it up with `ropeway up --config '{file}'`\n"
    assert file.read_text(encoding="utf-8") == sample_text()


def test_init_prints_one_json_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "r.yaml"
    assert exit_code(["init", str(file), "--json"]) == 0
    document = read_document(capsys.readouterr().out)
    assert (document["verb"], document["ok"], document["file"]) == ("init", True, str(file))


def test_init_refuses_a_place_where_it_cannot_write(tmp_path: Path) -> None:
    file = tmp_path / "none" / "r.yaml"
    result = CliRunner().invoke(init, [str(file)])
    assert isinstance(result.exception, Refused)
    assert result.exception.what == f"cannot write `{file}`: no such file or directory"


EDITS = (
    Edit(("serve", "layout"), "DP2×TP8", "two hosts " * 20),
    Edit(("serve", "memory"), 0.9, "the engine's own"),
    Edit(("serve", "kv_cache"), None),
    Edit(("serve", "context"), 4096),
)
LAPTOP = "cluster: {local: {hosts: 2, npus: 2}}\nmodel: {name: smollm2}\n"


@pytest.mark.parametrize(
    "text",
    [
        sample_text(),
        SPEC,
        LAPTOP,
        LAPTOP.rstrip("\n"),
        SPEC.replace("\n", "\r\n"),
        LAPTOP + "serve: {kv_cache: 1GiB, layout: TP2}\n",
        LAPTOP + "serve: {layout: TP2, kv_cache: 1GiB}",
        LAPTOP + "serve: {}\n",
        LAPTOP + "serve:\n  # all of it blank\nworkload:\n  clients: 3\n",
        LAPTOP + "serve:\n  kv_cache: 1GiB\n",
        LAPTOP + "serve:\n    layout:\n        tensor: 2   # two\n        # more\n\n    port: 1\n",
        LAPTOP + "serve:\n  port: 1\n  context:\n  kv_cache: >\n    1GiB\n",
        '{"cluster": {"local": {"hosts": 2, "npus": 2}}, "model": {"name": "smollm2"}}',
        "serve: &here\n  'layout': \"TP2\"\n" + LAPTOP,
    ],
)
def test_values_can_be_put_into_a_spec_however_it_is_written(text):
    before, after = parse_spec(text, "before"), apply_edits(text, EDITS)
    serve = parse_spec(after, "after").serve
    assert (str(serve.layout), serve.memory, serve.context) == ("DP2×TP8", 0.9, 4096)
    assert serve.kv_cache is None
    others = {"layout", "memory", "context", "kv_cache"}
    assert serve.model_dump(exclude=others) == before.serve.model_dump(exclude=others)
    assert apply_edits(after, EDITS) == after
    comments = [line for line in text.splitlines() if line.lstrip().startswith("#")]
    assert [line for line in comments if line.strip() not in after] == []
    assert all(len(line) <= 100 for line in after.splitlines() if "{" not in line)


@pytest.mark.parametrize(
    ("braces", "block"),
    [
        ("{port: 1, env: {A: b, C: '{'}}", "  port: 1\n  env: {A: b, C: '{'}\n"),
        ('{"port":1 ,\n  env: {A: b},}', '  "port": 1\n  env: {A: b}\n'),
        ("{}", ""),
        # entries that cannot be cut out, and so stay
        ("{port: 1,  # ours\n  env: {A: b}}", None),
        ("{env: {A: &a b}, served_name: *a}", None),
        ("&here {port: 1}", None),
    ],
)
def test_a_section_in_braces_becomes_a_block_where_its_keys_have_reasons(braces, block):
    text = f"{LAPTOP}serve: {braces}  # mine\nworkload: {{clients: 3}}  # theirs\n"
    after = apply_edits(text, EDITS)
    assert "workload: {clients: 3}  # theirs\n" in after
    assert "serve: {" in apply_edits(text, [Edit(("serve", "context"), 4096)]) or "&" in braces
    if block is None:
        assert reasoned_keys(after) == set()
        return
    assert reasoned_keys(after) == {("serve", "layout"), ("serve", "memory")}
    assert "serve:  # mine\n  # plan: two hosts" in after
    assert f"  context: 4096\n{block}workload:" in after


def test_keys_that_a_plan_wrote_are_known_by_the_reason_above_them():
    text = apply_edits(SPEC, EDITS)
    # `context` was given no reason, so it counts as written by hand
    assert reasoned_keys(text) == {("serve", "layout"), ("serve", "memory")}
    assert reasoned_keys(SPEC) == set()
    assert reasoned_keys(text.replace("  # plan: the engine's own\n", "")) == {("serve", "layout")}


def test_a_new_reason_takes_the_place_of_the_old_one():
    text = apply_edits(SPEC, [Edit(("serve", "layout"), "TP8", "faster")])
    again = apply_edits(text, [Edit(("serve", "layout"), "TP2", "cheaper")])
    assert "  # plan: cheaper\n  layout: TP2          # what we had\n" in again
    assert "faster" not in again
    assert all(line in again for line in re.findall(r"#.*|x-note: .*", SPEC))


def test_a_spec_that_cannot_be_written_whole_leaves_the_old_one(tmp_path, monkeypatch):
    old = tmp_path / "ropeway.yaml"
    old.write_text("name: mine\n")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    assert exit_code(["init", "--force", str(old)]) == 2
    assert old.read_text() == "name: mine\n"
    assert list(tmp_path.iterdir()) == [old]
