"""`ropeway plan` as a user types it: the answer, exit codes, what it writes and refuses."""

import json
import re
import resource
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from json_documents import read_document
from model_files import LLAMA, PADDED
from plan_requests import SPEC
from ropeway.cli.main import exit_code
from ropeway.hardware import chip_named
from ropeway.launch.complete import parts_of, release_for
from ropeway.plan.calibration import Calibration, write_calibration
from ropeway.plan.machine import ascend, traits
from ropeway.spec.model import Layout, load_spec
from ropeway.spec.samples import sample_text

QWEN = ("--model", "Qwen3-30B-A3B", "--chip", "910B4", "--engine-version", "0.11.0rc0")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """A folder without a spec."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(name="spec")
def _spec(tmp_path) -> Path:
    path = tmp_path / "ropeway.yaml"
    path.write_text(SPEC)
    return path


def run(capsys, *args: str) -> tuple[int, str, str]:
    code = exit_code(["plan", *args])
    output = capsys.readouterr()
    return code, output.out, output.err


def document(capsys, *args: str) -> dict:
    code, out, err = run(capsys, *args, "--json")
    assert err == ""
    return {"exit": code, **read_document(out)}


def test_from_flags_alone_the_answer_comes_first(capsys):
    code, out, err = run(capsys, *QWEN, "--hosts", "2", "--npus", "8")
    lines = [line.rstrip() for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert lines[0] == "Qwen3-30B-A3B on 2 hosts × 8 910B4"
    assert lines[1].startswith("vLLM-Ascend 0.11.0rc0, graph piecewise · 256 clients, 128 tokens")
    assert any(line.startswith("run ") for line in lines)
    assert "not verified on NPU hardware" in " ".join(out.split())


def test_the_document_agrees_with_itself(capsys):
    plan = document(capsys, *QWEN, "--hosts", "2", "--price", "60", "--prompts", "1000000")
    assert (plan["exit"], plan["schema"]) == (0, 1)
    chosen = plan["chosen"]
    assert chosen == next(item for item in plan["candidates"] if item["layout"] == chosen["layout"])
    assert chosen["on_front"]
    assert chosen["layout"] in plan["front"]
    assert chosen["memory"]["hbm_bytes"] == 32 * 2**30
    assert chosen["cost"]["price_per_hour"] == pytest.approx(60 * chosen["hosts"])
    tokens_per_s = chosen["forecast"]["output_tokens_per_s"]
    assert chosen["job_s"] == pytest.approx(1_000_000 * 128 / tokens_per_s)


def test_each_value_says_where_it_came_from(capsys, spec):
    plan = document(capsys, "--context", "2048", "--layout", "tp8", "--engine-version", "0.18.0")
    assert [item["layout"] for item in plan["candidates"]] == ["TP8"]
    assert plan["rejected"] == []
    sources = {value["key"]: value["source"] for value in plan["values"]}
    assert (sources["serve.context"], sources["serve.layout"]) == ("--context", "--layout")
    assert sources["serve.version"] == "--engine-version"
    assert sources["workload"] == f"ropeway.yaml:{line_of('clients:')}"
    spec.write_text(SPEC.replace("serve:\n", "serve:\n  replicas: 3\n"))
    assert "256 clients" in [value["value"] for value in document(capsys)["values"]], "not 255"
    more = "serve:\n  context: 4096\n  kv_cache: 2GiB\n  version: 0.23.0\n"
    spec.write_text(SPEC.replace("serve:\n  version: 0.11.0rc0\n", more))
    plan = document(capsys, "--clients", "64", "--chip", "910B3")
    sources = {value["key"]: value["source"] for value in plan["values"]}
    start = line_of("serve:")
    assert sources["serve.context"] == f"ropeway.yaml:{start + 1}"
    assert sources["serve.kv_cache"] == sources["cache"] == f"ropeway.yaml:{start + 2}"
    assert sources["serve.version"] == f"ropeway.yaml:{start + 3}"
    assert sources["serve.layout"] == "planner"
    assert sources["workload"] == f"--clients; ropeway.yaml:{line_of('clients:') + 2}"
    assert sources["cluster.chip"].startswith("--chip; ")
    _, out, _ = run(capsys, "--why", "kv_cache")
    assert "2.0 GiB" in out
    assert f"ropeway.yaml:{start + 2}" in out


def line_of(text: str) -> int:
    """Return the line of the spec that has this text."""
    return next(at for at, line in enumerate(SPEC.splitlines(), start=1) if text in line)


def test_what_an_image_says_of_its_release_is_what_is_planned(capsys, spec):
    image = "runtime: {image: quay.io/ascend/vllm-ascend:v0.18.0}\n"
    spec.write_text(image + SPEC)
    values = {value["key"]: value for value in document(capsys)["values"]}
    version = values["serve.version"]
    assert (version["value"], version["source"]) == ("0.18.0", "ropeway.yaml:1")
    spec.write_text(spec.read_text().replace("  version: 0.11.0rc0\n", ""))
    assert "serve.version" not in {row["key"] for row in document(capsys, "--write")["written"]}


def test_without_a_release_plan_takes_the_one_that_up_takes(capsys, spec):
    spec.write_text(SPEC.replace("  version: 0.11.0rc0\n", ""))
    values = {value["key"]: value for value in document(capsys)["values"]}
    version = values["serve.version"]
    assert version["value"] == release_for(load_spec(spec), {}, "").version
    assert "rc" not in version["value"]
    assert (version["why"], version["source"]) == ("the newest stable release", "default")


@pytest.mark.parametrize("flag", [("--hosts", "2"), ("--npus", "8"), ("--chip", "910B4")])
def test_a_spec_for_this_machine_has_no_part_in_a_plan_for_hosts(capsys, tmp_path, flag):
    args = (*QWEN, "--clients", "256", *flag)
    alone = document(capsys, *args)
    path = tmp_path / "ropeway.yaml"
    path.write_text(sample_text())
    beside = document(capsys, *args)
    note = "`ropeway.yaml` is for this machine; nothing of it is in this plan"
    assert beside["notes"][0] == note
    assert {**beside, "notes": beside["notes"][1:]} == alone
    for more in (("-c", "ropeway.yaml"), ("--write",)):
        code, _, err = run(capsys, *args, *more)
        assert code == 2
        assert "this spec is for this machine" in " ".join(err.split())
    assert path.read_text() == sample_text()
    code, _, err = run(capsys, *flag)
    assert code == 2
    assert "which model?" in err
    assert note in " ".join(err.split())


def test_the_first_lines_say_that_a_spec_joins_the_flags(capsys, spec):
    _, out, _ = run(capsys, "-c", str(spec), "--clients", "32")
    assert out.splitlines()[1].startswith("with ropeway.yaml · ")
    place = f"--clients; ropeway.yaml:{line_of('clients:')}"
    assert f"workload 32 clients ({place})" in " ".join(out.split())
    _, out, _ = run(capsys, *QWEN, "--hosts", "2", "-c", str(spec), "--json")
    sources = read_document(out)["request"]["sources"]
    assert sources["workload.output_tokens"].startswith("ropeway.yaml")
    spec.unlink()
    _, out, _ = run(capsys, *QWEN)
    assert "ropeway.yaml" not in out


def test_the_load_is_that_of_the_flags(capsys):
    plan = document(
        capsys, *QWEN, "--rate", "4", "--input-tokens", "1000", "--output-tokens", "200",
        "--max-tpot", "500", "--objective", "latency",
    )  # fmt: skip
    request = plan["request"]
    assert (request["load"]["rate"], request["load"]["clients"]) == (4.0, None)
    assert (request["load"]["input_tokens"], request["load"]["output_tokens"]) == (1000, 200)
    assert (request["max_tpot_s"], request["max_ttft_s"]) == (0.5, None)
    assert request["objective"] == "latency"


def test_a_model_too_large_is_no_and_says_what_is_missing(capsys):
    large = ("--model", "DeepSeek-V3-W8A8", "--chip", "910B4")
    code, out, _ = run(capsys, *large)
    assert code == 1
    assert "nothing fits" in out
    assert document(capsys, *large)["missing"]


def test_all_names_every_layout(capsys):
    _, few, _ = run(capsys, *QWEN, "--hosts", "2")
    _, out, _ = run(capsys, *QWEN, "--hosts", "2", "--all")
    plan = document(capsys, *QWEN, "--hosts", "2")
    names = [item["layout"] for item in (*plan["candidates"], *plan["rejected"])]
    assert all(name in out for name in names)
    assert not all(name in few for name in names)


@pytest.mark.usefixtures("spec")
def test_a_spec_is_enough_and_its_path_may_be_on_the_hosts(capsys):
    code, out, err = run(capsys)
    assert (code, err) == (0, "")
    assert out.splitlines()[0].startswith("Qwen3-30B-A3B on 2 hosts × 8 910B4")
    assert "CNY per million output tokens" in out
    assert "is not on this machine" in " ".join(out.split())


@pytest.mark.parametrize(
    ("layout", "replicas", "words"),
    [
        (
            "TP8",
            "",
            r"has TP8 \(ropeway\.yaml:13\), which `up` starts: [\d,]+ tokens/s; `--write` ",
        ),
        ("TP8", "replicas: 2", r"has 2 replicas of TP8 .*, which `up` starts: [\d,]+ tokens/s"),
        (
            "TP1",
            "",
            r"has TP1 \(ropeway\.yaml:13\), which the plan rejects: .* weights .*; `--write` ",
        ),
        ("TP8×PP2+EP", "", r"has TP8×PP2\+EP .*, which the plan rejects: .*#3529.*; `--write` "),
    ],
)
def test_the_specs_own_layout_is_compared_with_the_choice(capsys, spec, layout, replicas, words):
    """What `up` would start is said, with its figure, where the choice is another."""
    text = SPEC.replace("layout: TP8 ", f"layout: {layout} ")
    spec.write_text(text.replace("  # the front door", f"  {replicas}"))
    doubts = document(capsys)["doubts"]
    said = " ".join(line for line in doubts if line.startswith("the spec has"))
    assert re.search(words, said), doubts
    assert document(capsys, "--layout", "TP8")["doubts"][:1] != [said]
    run(capsys, "--write")
    assert not any(line.startswith("the spec has") for line in document(capsys)["doubts"])


def test_replicas_that_the_spec_fixes_are_said(capsys, spec):
    spec.write_text(SPEC.replace("  # the front door", "  replicas: 1"))
    _, out, _ = run(capsys)
    assert "replicas 1 (ropeway.yaml:14)" in " ".join(out.split())


def test_flags_beat_the_spec(capsys, spec):
    plan = document(
        capsys, "-c", str(spec), "--chip", "910B3", "--clients", "32", "--price", "5",
        "--currency", "EUR",
    )  # fmt: skip
    assert plan["request"]["chip"] == "910B3"
    assert plan["request"]["load"]["clients"] == 32
    assert plan["chosen"]["cost"]["currency"] == "EUR"
    more = document(capsys, "--hosts", "4")
    assert more["request"]["npus"] == 32


def test_flags_of_the_engine_that_a_spec_hands_on_count(capsys, spec):
    plain = document(capsys)
    args = "{max_num_batched_tokens: 16384, enforce-eager: true, kv-cache-dtype: fp8}"
    spec.write_text(SPEC.replace("serve:\n", f"serve:\n  engine_args: {args}\n"))
    plan = document(capsys)
    assert plan["request"]["fixed"]["max_batched_tokens"] == 16384
    assert plan["request"]["graph"] == "eager"

    def bytes_per_token(candidate):
        return candidate["memory"]["kv_cache_bytes"] / candidate["memory"]["kv_tokens"]

    wide = {item["layout"]: bytes_per_token(item) for item in plain["candidates"]}
    both = [item for item in plan["candidates"] if item["layout"] in wide]
    assert both
    for item in both:
        assert bytes_per_token(item) == pytest.approx(wide[item["layout"]] / 2, rel=0.01)


def test_why_explains_a_value_by_its_key_or_the_end_of_it(capsys):
    _, whole, _ = run(capsys, *QWEN, "--why", "serve.layout")
    _, short, _ = run(capsys, *QWEN, "--why", "layout")
    assert whole == short
    assert whole.startswith("serve.layout")
    assert "planner" in whole
    plan = document(capsys, *QWEN, "--why", "layout")
    assert plan["why"]["values"][0]["key"] == "serve.layout"


def test_why_explains_a_layout_that_was_not_taken(capsys):
    _, out, _ = run(capsys, *QWEN, "--hosts", "2", "--why", "tp8xpp2+ep")
    assert out.splitlines()[0].rstrip() == "TP8×PP2+EP"
    assert "507014" in out  # what the start ends in on this release


def test_the_page_holds_the_plan(capsys, tmp_path):
    page = tmp_path / "plan.html"
    code, _, err = run(capsys, *QWEN, "--hosts", "2", "--html", str(page))
    assert code == 0
    assert f"page: {page}" in " ".join(err.split())
    assert "Qwen3-30B-A3B on 2 hosts × 8 910B4" in page.read_text(encoding="utf-8")
    code, _, err = run(capsys, *QWEN, "--html", str(tmp_path / "no" / "plan.html"))
    assert code == 2
    assert f"cannot write `{tmp_path}/no/plan.html`: no such file" in err


def test_the_choice_goes_into_the_spec_with_its_reasons_and_all_else_stays(capsys, spec):
    spec.chmod(0o640)
    before = load_spec(spec)
    code, _, err = run(capsys, "--write")
    text, after = spec.read_text(encoding="utf-8"), load_spec(spec)
    chosen = document(capsys)["chosen"]
    assert code == 0
    assert after.serve.layout == Layout.parse(chosen["layout"])
    assert f"serve.layout: TP8 → {chosen['layout']}" in err
    assert "serve.replicas: blank → " in err  # whatever the default is
    assert stat.S_IMODE(spec.stat().st_mode) == 0o640
    assert list(spec.parent.iterdir()) == [spec]  # nothing half-written is left
    assert "# what we had" in text
    assert "  # plan: " in text.partition("  layout:")[0].splitlines()[-1]
    assert (before.cluster, before.workload) == (after.cluster, after.workload)


def test_a_job_writes_its_clients_and_what_a_plan_wrote_is_chosen_anew(capsys, spec):
    """Replicas that a hand wrote are kept; then what is written has room on the hosts."""
    spec.write_text(SPEC.replace("workload: {clients: 256, input", "workload: {input"))
    document(capsys, "--write", "--prompts", "1000000")
    first = load_spec(spec)
    chosen = document(capsys, "--prompts", "1000000")["chosen"]
    assert (first.serve.replicas, first.workload.clients) == (
        chosen["replicas"], chosen["clients"],
    )  # fmt: skip
    assert first.workload.requests == 2 * first.workload.clients
    assert first.serve.replicas > 1
    assert first.serve.api_key_env == "ROPEWAY_API_KEY"
    assert "# plan: replicas on several hosts" in spec.read_text()
    parts_of(first)  # raises Refused without room
    spec.write_text(SPEC.replace("serve:\n", "serve:\n  replicas: 4\n"))
    document(capsys, "--write")
    fixed = load_spec(spec)
    assert fixed.serve.replicas == 4
    parts_of(fixed)


def test_the_document_lists_what_was_written_and_writing_twice_changes_nothing_more(capsys, spec):
    changes = {row["key"]: row["after"] for row in document(capsys, "--write")["written"]}
    serve = load_spec(spec).as_json()["serve"]
    assert "serve.layout" in changes
    assert changes == {key: serve.get(key.removeprefix("serve.")) for key in changes}
    first = spec.read_text(encoding="utf-8")
    assert document(capsys, "--write")["written"] == []
    assert spec.read_text(encoding="utf-8") == first


def test_what_a_plan_wrote_may_be_planned_anew_and_what_a_hand_wrote_may_not(capsys, spec):
    run(capsys, "--write")
    first = load_spec(spec).serve
    spec.write_text(spec.read_text().replace("clients: 256", "clients: 16"))
    run(capsys, "--write")
    assert load_spec(spec).serve.max_sequences < first.max_sequences
    by_hand = SPEC.replace("serve:\n", "serve:\n  max_sequences: 32\n")
    spec.write_text(by_hand)
    assert document(capsys)["chosen"]["max_sequences"] == 32


@pytest.mark.parametrize(
    ("args", "code", "word"),
    [(["--max-tpot", "0.001"], 1, ""), (["--hosts", "4"], 2, "cluster")],
)
def test_without_a_choice_or_for_another_cluster_nothing_is_written(capsys, spec, args, code, word):
    ended, _, err = run(capsys, "--write", *args)
    assert ended == code
    assert word in err
    assert spec.read_text(encoding="utf-8") == SPEC


def test_a_full_disk_leaves_the_file_as_it_was(capsys, spec):
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, usual[1]))
    try:
        code, _, err = run(capsys, "--write")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert code == 1
    assert f"cannot write `{spec}`: file too large" in err
    assert spec.read_text(encoding="utf-8") == SPEC
    assert list(spec.parent.iterdir()) == [spec]


def test_a_link_stays_a_link(capsys, spec):
    real = spec.rename(spec.with_name("real.yaml"))
    spec.symlink_to("real.yaml")
    assert run(capsys, "--write")[0] == 0
    assert spec.is_symlink()
    assert "# plan: " in real.read_text()


@pytest.mark.parametrize(
    ("args", "what", "hint"),
    [
        ([], "no `--model`", "ropeway init"),
        (["--model", "Qwen3-30B-A3B"], "which chip", "--chip 910B4"),
        (["--model", "Qwen3-30B-A3B", "--chip", "H100"], "unknown chip `H100`", "910B4"),
        (["--model", "Qwen3-30B-A3", "--chip", "910B4"], "`Qwen3-30B-A3`", "did you mean"),
        (["--model", "/no/such", "--chip", "910B4"], "does not exist", ""),
        ([*QWEN, "--layout", "tp3"], "does not divide 32 attention heads", "nearest that work"),
        ([*QWEN, "--layout", "tp16"], "8", ""),
        ([*QWEN, "--layout", "two"], "is not a layout", ""),
        ([*QWEN, "--context", "1000000"], "40,960", ""),
        ([*QWEN, "--graph", "half"], "half", "piecewise"),
        ([*QWEN, "--clients", "4", "--rate", "4"], "exclude each other", "keep one"),
        (["-c", "no-such.yaml"], "no such file", "ropeway init"),
        ([*QWEN, "--write"], "there is none here", "ropeway init"),
        ([*QWEN, "--why", "layuot"], "`layuot`", "did you mean `layout`?"),
        ([*QWEN, "--engine-version", "9.9"], '`"9.9"`', ""),
    ],
)
def test_bad_input_is_refused_with_numbers_and_a_hint(capsys, args, what, hint):
    code, out, err = run(capsys, *args)
    text = " ".join(err.split())
    assert (code, out) == (2, "")
    assert what in text
    assert hint in text


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "此处没有 `ropeway.yaml`"),
        (["--model", "Qwen3-30B-A3B"], "主机使用哪种芯片"),
        ([*QWEN, "--layout", "tp3"], "并行布局 `TP3` 无法在 1 台主机（各 8 个 NPU）上运行"),
        ([*QWEN, "--hosts", "2", "--layout", "tp8xpp2+ep"], "换用其他并行布局"),
        ([*QWEN, "--context", "1000000"], "最大为 40,960"),
        ([*QWEN, "--input-tokens", "100000"], "减小 `workload.input_tokens`"),
        ([*QWEN, "--rate", "inf"], "`--rate` 的值无效：inf 不能大于 1e+12"),
        ([*QWEN, "--graph", "half"], "未知的图模式 `half`"),
        ([*QWEN, "--clients", "4", "--rate", "4"], "不能同时使用"),
        ([*QWEN, "--write"], "此处没有配置文件"),
        ([*QWEN, "--why", "layuot"], "没有名为 `layuot` 的项"),
        ([*QWEN, "--engine-version", "9.9"], '`"9.9"` 不是形如 0.11.0rc0 的版本号'),
    ],
)
def test_errors_are_in_chinese_too(capsys, args, words):
    code, out, err = run(capsys, *args, "--lang", "zh")
    assert (code, out) == (2, "")
    assert err.startswith("错误：")
    assert words in err


def test_an_unknown_architecture_is_planned_from_its_shapes_or_told_what_is_missing(
    capsys, tmp_path
):
    config = tmp_path / "config.json"
    shape = LLAMA | {"architectures": ["NobodyKnowsForCausalLM"], "model_type": "nobody_knows"}
    config.write_text(json.dumps(shape))
    plan = document(capsys, "--model", str(config), "--chip", "910B4", "--npus", "2")
    assert plan["exit"] == 0
    assert plan["request"]["architecture"] == "NobodyKnowsForCausalLM"
    del shape["num_hidden_layers"]
    config.write_text(json.dumps(shape))
    code, _, err = run(capsys, "--model", str(config), "--chip", "910B4")
    assert code == 2
    assert "num_hidden_layers" in err


@pytest.fixture(name="local")
def _local(tmp_path, monkeypatch) -> Path:
    """A spec of the local cluster whose model is here, and an empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(PADDED))
    spec = tmp_path / "ropeway.yaml"
    spec.write_text("cluster: {local: {hosts: 2, npus: 2}}\nmodel: {path: model}\n")
    return spec


@pytest.mark.usefixtures("local")
def test_a_local_cluster_needs_its_constants_first(capsys):
    code, _, err = run(capsys)
    assert code == 2
    assert "ropeway calibrate --local" in err


def test_a_local_cluster_is_planned_with_its_constants_and_claims_no_npu(capsys, local):
    machine = replace(ascend(chip_named("910B4"), traits(None)), name="laptop", shared=True)
    made = Calibration(machine, (), "smollm2-moe", "2 cores", "2026-11-27T23:00:00+00:00")
    write_calibration(made, local.parent / "cache" / "ropeway" / "calibration.json")
    page = local.parent / "page.html"
    code, out, _ = run(capsys, "--html", str(page))
    plan = document(capsys)
    text = " ".join(out.split())
    assert code == 0
    assert "model on 2 hosts × 2 virtual NPUs" in text
    assert "predicted from constants measured on this machine" in text
    assert re.search(r"constants of smollm2-moe on 2 cores, .* 2026-11-27", text)
    shown = page.read_text()
    assert "measured on this machine" in shown
    assert "public measurements" not in shown
    assert "NPU hardware" not in out + shown
    assert plan["request"]["load"]["requests"] == 512  # what `bench` would send
    assert plan["chosen"]["memory"]["kv_cache_bytes"] == 2**30
    code, _, _ = run(capsys, "--write")
    assert code == 0
    assert load_spec(local).serve.version is None
    (local.parent / "cache" / "ropeway" / "calibration.json").write_text("{")
    assert run(capsys)[0] == 2


def test_a_rate_of_next_to_nothing_has_a_plan(capsys):
    code, out, _ = run(capsys, *QWEN, "--hosts", "1", "--rate", "1e-308", "--json")
    assert (code, json.loads(out)["ok"]) == (0, True)


@pytest.mark.parametrize("model", ["MiniMax-M2", "gpt-oss-20b"])
def test_weights_that_the_chip_cannot_load_are_not_planned(capsys, model: str):
    code, _, err = run(capsys, "--model", model, "--hosts", "2", "--chip", "910B3")
    assert code == 2
    assert "quantisation is not supported" in err
    assert run(capsys, "--model", "MiniMax-M2-W8A8", "--hosts", "2", "--chip", "910B3")[0] == 0
