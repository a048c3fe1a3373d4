"""`plan` and `up` go by the same rules of flags, variables, chips and layouts."""

from dataclasses import replace
from math import inf

import pytest

from ropeway.engines.ascend_quantisation import quantisation_fault, scheme_of
from ropeway.engines.ascend_releases import rules_of
from ropeway.engines.ascend_serve import notes
from ropeway.errors import LayoutError, Refused
from ropeway.hardware import chip_named
from ropeway.launch.complete import Inputs, complete
from ropeway.launch.served_model import ServedModel
from ropeway.models.known import known
from ropeway.plan.candidate import Plan
from ropeway.plan.choice import room
from ropeway.plan.choose import choose
from ropeway.plan.request import request_for_hosts
from ropeway.report.plan import layout_reasons, plan_text
from ropeway.report.plan_json import plan_json
from ropeway.report.plan_page import render_html
from ropeway.spec.model import Layout, Spec
from test_report import shown as on_screen


def spec_of(model: str = "Qwen3-8B", chip: str = "910B4", hosts: int = 1, **serve: object) -> Spec:
    machines = [{"address": f"192.0.2.{at + 1}", "npus": 8} for at in range(hosts)]
    return Spec.model_validate(
        {
            "cluster": {"chip": chip, "nic": "eth0", "hosts": machines},
            "model": {"path": f"/data/{model}"},
            "serve": {"version": "0.23.0", "context": 8192, **serve},
        }
    )


def planned(spec: Spec) -> Plan:
    shape, chip = known(spec.model.path), chip_named(spec.cluster.chip)
    return choose(request_for_hosts(spec, shape, chip, spec.serve.version))


def started(spec: Spec):
    names = tuple(f"host{at}" for at in range(spec.cluster.host_count))
    shape = known(spec.model.path)
    return complete(spec, names, Inputs({}, {}, "image", ServedModel(shape, scheme_of(shape))))


@pytest.mark.parametrize(
    ("serve", "chip", "what", "hint"),
    [
        ({"engine_args": {"cudagraph_mode": "FULL"}}, "910B4", "cudagraph_mode",
         "write `compilation-config: {cudagraph_mode: …}`"),
        ({"engine_args": {"num_speculative_tokens": 1}}, "910B4", "num_speculative_tokens",
         "write `speculative-config: {num_speculative_tokens: …}`"),
        ({"engine_args": {"kv_role": "kv_both"}}, "910B4", "kv_role",
         "write `kv-transfer-config: {kv_role: …}`"),
        ({"engine_args": {"enable_flashcomm1": True}}, "910B4", "enable_flashcomm1",
         "write `additional-config: {enable_flashcomm1: …}`"),
        ({"engine_args": {"fuse_muls_add": True}}, "910B4", "fuse_muls_add",
         "write `additional-config: {ascend_compilation_config: {fuse_muls_add: …}}`"),
        ({"engine_args": {"torchair_graph_config": {}}}, "910B4", "torchair_graph_config",
         "ACL graphs took over"),
        ({"engine_args": {"VLLM_USE_V1": 1}}, "910B4", "VLLM_USE_V1",
         "`VLLM_USE_V1` belongs under `serve.env`"),
        ({"engine_args": {"rope-scaling": {"rope_type": "yarn", "factor": 2.0}}}, "910B4",
         "rope-scaling", "hf-overrides"),
        ({"engine_args": {"additional-config": {"cudagraph_mode": "FULL"}}}, "910B4",
         "cudagraph_mode", "write `compilation-config: {cudagraph_mode: …}`"),
        ({"engine_args": {"additional-config": {"max_num_seqs": 8}}}, "910B4", "max_num_seqs",
         "`serve.max_sequences`"),
        ({"engine_args": {"additional-config": {"no_such_key": 8}}}, "910B4", "no_such_key",
         "remove it"),
        ({"env": {"VLLM_ASCEND_NO_SUCH": "1"}}, "910B4", "VLLM_ASCEND_NO_SUCH", "did you mean"),
        ({"engine_args": {"lora-modules": ["sql=/data/sql"]}}, "910B4", "LoRA is off",
         "enable-lora: true"),
        ({"engine_args": {"enable-lora": True, "lora-modules": ["/data/sql"]}}, "910B4",
         "does not name an adapter", "lora-modules: [sql="),
        ({"engine_args": {"enable-lora": True, "lora-modules": ["sql=./sql"]}}, "910B4",
         "`./sql` is not an absolute path", "from the root"),
        ({"engine_args": {"chat-template": "~/chat.jinja"}}, "910B4",
         "`~/chat.jinja` is not an absolute path", "from the root"),
        ({"engine_args": {"speculative-config": "{method: mtp"}}, "910B4",
         "`speculative-config` is not a mapping", "write `speculative-config: {"),
        ({"engine_args": {"speculative_config": {"cudagraph_mode": "FULL"}}}, "910B4",
         "`cudagraph_mode` is not a key of", "write `compilation-config: {cudagraph_mode: …}`"),
        ({"engine_args": {"speculative-config": {"method": "eagle3",
                                                 "num_speculative_tokens": 1}}}, "910B4",
         "`eagle3` needs one", "`mtp`, `ngram`"),
        ({"engine_args": {"compilation-config": {"enable_npugraph_ex": True}}}, "910B4",
         "`enable_npugraph_ex` is not a key of",
         "`additional-config: {ascend_compilation_config: {enable_npugraph_ex: …}}`"),
        *(({"engine_args": {"speculative-config": {"method": "mtp", "num_speculative_tokens": n}}},
           "910B4", "`num_speculative_tokens` must be", "1 to 5") for n in ("x", 10**30, 0, 1.5)),
        *(({"engine_args": {"hf-overrides": {"rope_scaling": {
            "rope_type": "yarn", "factor": factor, "original_max_position_embeddings": 32768}}},
            "context": 40960}, "910B4", "`factor` must be a number", "without quotes")
          for factor in ("4.0", -4, inf)),
        *(({"engine_args": {name: value}}, "910B4", f"`{name}` is not a mapping", f"write `{name}")
          for name, value in (("speculative-config", 3), ("hf-overrides", 5),
                              ("kv-transfer-config", "1"), ("compilation-config", 3),
                              ("limit-mm-per-prompt", "abc"), ("media-io-kwargs", 1))),
        ({"engine_args": {"additional-config": {"ascend_compilation_config": 5}}}, "910B4",
         "has no mapping in `ascend_compilation_config`", "additional-config"),
        *(({"engine_args": {"kv-transfer-config": config}}, "910B4", "`kv_role` must be one of",
           "`kv_producer`") for config in ({"kv_role": 7}, {"kv_connector": "MooncakeConnectorV1"},
                                           {"kv_role": "producer", "kv_connector": None})),
        *(({"env": {"HCCL_BUFFSIZE": size}}, chip, "more than an NPU has the memory for", "'200'")
          for size, chip in (("99999999", "910B4"), ("32768", "910B3"), ("131072", "950DT"))),
        ({"engine_args": {"hf-overrides": True}}, "910B4", "`hf-overrides` needs", "give a value"),
        ({"engine_args": {"quantization": ["gptq"]}}, "910B4", "one value, not a list", "give one"),
        ({"engine_args": {"quantization": ""}}, "910B4", "`quantization` needs a", "remove it"),
        ({"engine_args": {"lora-modules": [["a=b"]]}}, "910B4", '`["a=b"]` does not name', "sql="),
        ({"env": {"HCCL_BUFFSIZE": "lots"}}, "910B4", "`HCCL_BUFFSIZE` must be", "remove it"),
        *(({"env": {name: "9" * 5000}}, "910B4", f"`{name}` must be a whole number", "remove it")
          for name in ("HCCL_BUFFSIZE", "HCCL_CONNECT_TIMEOUT")),
        ({"env": {"VLLM_ASCEND_ENABLE_NZ": "9" * 5000}, "version": "0.32.0rc1"}, "910B4",
         "`VLLM_ASCEND_ENABLE_NZ` must be a number", "weight_nz_mode"),
        *(({"engine_args": {"max-num-batched-tokens": value}}, "910B4",
           "`max-num-batched-tokens` must be a whole number above 0, not", "give a value")
          for value in ("9" * 5000, 10**300, -1, 1e300)),
        ({"engine_args": {"speculative-config": {"num_speculative_tokens": "9" * 5000}}}, "910B4",
         "`num_speculative_tokens` must be", "1 to 5"),
        ({"env": {"HCCL_CONNECT_TIMEOUT": "-1"}}, "910B4", "`HCCL_CONNECT_TIMEOUT`", "remove it"),
        ({"engine_args": {"runner": "poling"}}, "910B4", "cannot be `poling`", "`pooling`"),
        ({"engine_args": {"kv-cache-dtype": "bfloat16"}}, "310P3", "not in bfloat16", "remove it"),
        ({"dtype": "bfloat16"}, "310P3", "float16 alone, not in bfloat16", "remove it"),
        ({"dtype": "float32"}, "310P3", "float16 alone, not in float32", "remove it"),
        ({"kv_cache": "4GiB", "version": "0.11.0"}, "910B4", "no effect", "serve.memory"),
    ],
)  # fmt: skip
def test_what_up_refuses_is_not_planned(serve, chip, what, hint):
    spec = spec_of(chip=chip, layout="TP1", **serve)
    with pytest.raises(Refused) as of_up:
        started(spec)
    with pytest.raises(Refused) as of_plan:
        planned(spec)
    assert of_up.value.as_json() == of_plan.value.as_json()
    assert what in of_up.value.what and hint in (of_up.value.hint or "")


@pytest.mark.parametrize(
    ("model", "chip", "asked", "what"),
    [
        ("Qwen3-32B", "910B3", "fp8", "`fp8` quantisation is not supported on this chip"),
        ("Qwen3-32B", "910B3", "awq", "`awq` quantisation is not supported on NPUs"),
        ("Qwen3-32B", "950DT", "awq", "`awq` quantisation is not supported on NPUs"),
        ("Qwen3-32B-w8a8", "910B3", "awq", "`quantization: awq` contradicts the weights"),
        ("Qwen3-32B-w8a8", "910B3", "compressed-tensors", "contradicts the weights"),
        ("Qwen3-32B-FP8", "910B3", "fp8", "`fp8` quantisation is not supported on this chip"),
    ],
)
def test_a_quantisation_that_is_asked_for_is_judged_as_one_that_a_name_has(
    model, chip, asked, what
):
    spec = spec_of(model, chip, layout="TP8", engine_args={"quantization": asked})
    for verb in (started, planned):
        with pytest.raises(Refused, match=what) as refused:
            verb(spec)
        if "FP8" not in model:
            assert "remove `quantization`" in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("model", "chip", "asked"),
    [
        ("Qwen3-32B-w8a8", "910B3", "ascend"),
        ("Qwen3-32B-quantized.w8a8", "910B3", "compressed-tensors"),
        ("Qwen3-32B", "910B3", "ascend"),  # a name does not say what the files are
        ("Qwen3-32B-FP8", "950DT", "fp8"),
        ("DeepSeek-V3-FP8", "950DT", "deepseek_v4_fp8"),
    ],
)
def test_a_quantisation_that_the_weights_have_may_be_asked_for(model, chip, asked):
    shape, family = known(model), chip_named(chip).family
    assert quantisation_fault(scheme_of(shape), shape, "0.23.0", family, asked) is None


def test_hosts_that_show_plain_weights_say_that_no_quantisation_of_modelslim_is_there():
    fault = quantisation_fault("none", known("Qwen3-32B"), "0.23.0", "A2", "ascend")
    assert fault is not None and "ModelSlim" in fault.reason


@pytest.mark.parametrize(
    ("serve", "chip"),
    [
        ({"engine_args": {"chat-template": "/data/chat.jinja"}}, "910B4"),
        ({"engine_args": {"chat-template": "{{ messages }}", "download-dir": "./x"}}, "910B4"),
        ({"engine_args": {"enable-lora": True, "lora_modules": ["a=/data/a"]}}, "910B4"),
        ({"engine_args": {"enable-lora": True,
                          "lora-modules": {"name": "a", "path": "/data/a"}}}, "910B4"),
        ({"engine_args": {"compilation-config": {"cudagraph_mode": "FULL"}}}, "910B4"),
        *(({"engine_args": {"compilation-config": level}, "version": "0.9.1"}, "910B4")
          for level in (3, "3")),
        ({"engine_args": {"hf-overrides": {"method": "x"}}}, "910B4"),
        *(({"engine_args": {"limit-mm-per-prompt": value}}, "910B4")
          for value in ({"image": 2}, '{"image": 2}', "image=2")),
        ({"engine_args": {"additional-config": {"eplb_config": None}}}, "910B4"),
        ({"engine_args": {"kv-transfer-config": {"kv_connector": None}}}, "910B4"),
        ({"env": {"HCCL_BUFFSIZE": "1024", "HCCL_CONNECT_TIMEOUT": "600"}}, "910B4"),
        ({"dtype": "float16"}, "310P3"),
        ({"version": "v0.23.0", "release_like": "v0.23.0"}, "910B4"),
        ({}, "310P3"),
        ({"dtype": "bfloat16"}, "910B4"),
    ],
)  # fmt: skip
def test_what_runs_is_refused_by_neither(serve, chip):
    spec = spec_of(chip=chip, layout="TP1", **serve)
    assert planned(spec).candidates
    assert started(spec).replicas


def test_what_up_notes_of_flags_is_a_doubt_of_the_plan():
    adapter = {"enable-lora": True, "lora-modules": ["a=org/a"]}
    spec = spec_of("Qwen3-0.6B", "310P3", layout="TP1", engine_args=adapter)
    said = tuple(notes(spec.serve, rules_of("0.23.0"), "310P"))
    assert any("float16" in note for note in said) and any("`org/a`" in note for note in said)
    assert set(said) <= set(planned(spec).doubts)
    assert set(said) <= set(started(spec).notes)


def test_a_layout_that_was_reported_to_fail_is_chosen_only_where_no_other_fits():
    lora = {"engine_args": {"enable-lora": True, "lora-modules": ["sql=/data/sql"]}}
    plan = planned(spec_of(**lora))
    assert plan.chosen.layout.tensor == 1 and not plan.chosen.faults
    assert plan.candidates[-1].faults, "TP8 fits too"
    assert "more fit, but were reported to fail" in plan.why
    assert planned(spec_of()).chosen.layout.tensor > 1, "without LoRA"
    asked = replace(plan.request, layout=Layout.parse("TP4"))
    only = choose(asked)
    (fault,) = only.chosen.faults
    assert (
        "#16586" in fault
        and fault in only.doubts
        and fault in started(spec_of(layout="TP4", **lora)).notes
    )


def test_a_layout_that_was_reported_to_fail_stands_apart():
    """It is marked with the report, is no part of the front, and nothing is compared with it."""
    plan = planned(spec_of(engine_args={"enable-lora": True}))
    failing = [item for item in plan.candidates if item.faults]
    assert failing == list(plan.candidates[-len(failing) :])
    assert not any(item.on_front for item in failing)
    assert not {item.layout for item in failing} & {item.layout for item in plan.front}
    everything = on_screen(plan_text(plan, verbose=True), 120)
    assert f"✗ {failing[0].layout}" in everything and "✗ reported to fail: LoRA" in everything
    assert "#16586" in everything and "✗" not in on_screen(plan_text(plan), 120)
    assert "reported to fail; rank" in layout_reasons(plan, str(failing[0].layout))[0]
    assert "✗" in render_html(plan, when="")
    row = plan_json(plan)["candidates"][-1]
    assert row["faults"] == list(failing[-1].faults) and not row["on_front"]
    size = next(value.why for value in plan.values if value.key == "tensor")
    assert "#16586" in size and "tokens/s" not in size


def test_how_hosts_are_joined_is_what_up_does():
    """`mp` needs `--nnodes`, which 0.11 has not; #10910 is about Ray, which 0.19 does not use."""
    spec = spec_of(hosts=2, layout="TP16", version="0.11.0", backend="mp")
    with pytest.raises(Refused, match="cannot join"):
        started(spec)
    request = request_for_hosts(spec, known("Qwen3-32B"), chip_named("910B4"), "0.11.0")
    reasons = {str(item.layout): item.reason for item in choose(request).rejected}
    assert "cannot join" in reasons["TP16"]
    for backend, said in ((None, False), ("ray", True)):
        spec = spec_of("Qwen3-32B", hosts=2, layout="TP8×PP2", version="0.19.1rc1", backend=backend)
        candidates = {str(item.layout): item.notes for item in planned(spec).candidates}
        assert any("#10910" in note for note in candidates["TP8×PP2"]) is said
        assert any("#10910" in note for note in started(spec).notes) is said


def test_the_way_out_of_weights_that_are_not_loaded_is_a_name_that_is_planned():
    with pytest.raises(Refused, match="awq") as error:
        planned(spec_of("Qwen3-32B-AWQ"))
    hint = error.value.hint or ""
    assert "Qwen3-32B-W8A8`" in hint and "AWQ" not in hint
    assert planned(spec_of("Qwen3-32B-W8A8", layout="TP4")).chosen


@pytest.mark.parametrize(
    ("model", "chip", "serve", "words"),
    [
        ("Qwen3-8B", "910B4", {"engine_args": {"speculative-config": {"method": "mtp"}}},
         "its config.json names none"),
        ("Qwen3-8B", "910B4", {"engine_args": {"kv-cache-dtype": "fp8"}}, "#8102"),
        *(("Qwen3-8B", "910B4", {"engine_args": {"kv-cache-dtype": one}}, "takes auto, bfloat16")
          for one in (0, "abc")),
        ("Qwen3-8B", "910B4", {"engine_args": {"speculative-config": {
            "method": "eagle3", "model": "/data/eagle"}}}, "/data/eagle, are not counted"),
        ("Qwen3-8B", "310P3", {"version": "0.13.0"}, "eager mode alone"),
        ("Qwen3-Omni-30B-A3B-Instruct", "910B3", {"context": None, "layout": "TP2"},
         "is not known here: memory is counted"),
    ],
)  # fmt: skip
def test_what_may_not_run_is_said_by_both(model, chip, serve, words):
    spec = spec_of(model, chip, **{"layout": "TP1", **serve})
    shape, part = known(spec.model.path), chip_named(chip)
    request = request_for_hosts(spec, shape, part, spec.serve.version)
    plan = choose(replace(request, layout=spec.serve.layout))
    assert any(words in doubt for doubt in plan.doubts)
    assert any(words in note for note in started(spec).notes)


def test_what_draws_from_known_layers_or_chips_is_not_doubted():
    mtp = {"engine_args": {"speculative-config": {"method": "mtp", "num_speculative_tokens": 1}}}
    notes_of = started(spec_of("GLM-4.5-w8a8", "910B3", layout="TP8", **mtp)).notes
    assert not any("config.json names none" in note for note in notes_of)
    fp8 = {"engine_args": {"kv-cache-dtype": "fp8"}}
    assert not any("#8102" in n for n in started(spec_of(chip="950DT", layout="TP1", **fp8)).notes)


def test_float32_takes_twice_the_memory():
    narrow, wide = (planned(spec_of("Qwen3-4B", layout="TP1", dtype=one)).candidates
                    for one in ("auto", "float32"))  # fmt: skip
    held = [{str(item.layout): item.memory for item in items} for items in (narrow, wide)]
    assert held[1]["TP1"].weights == pytest.approx(2 * held[0]["TP1"].weights, rel=0.01)


def test_a_cache_of_fixed_size_that_leaves_little_is_tight():
    spec = spec_of(layout="TP1", kv_cache="12.6GiB", max_sequences=16)
    found = room(spec, known("Qwen3-8B"), chip_named("910B4"), "0.23.0")
    assert found.fits and found.tight


@pytest.mark.parametrize(("written", "tokens"), [("8k", 8000), ("8K", 8192), ("1.5k", 1500),
                                                 ("4096", 4096)])  # fmt: skip
def test_tokens_of_a_step_are_read_as_vllm_reads_them(written, tokens):
    spec = spec_of(engine_args={"max-num-batched-tokens": written})
    assert planned(spec).request.max_batched_tokens == tokens


def test_of_context_sizes_that_never_fit_the_layout_of_the_spec_is_named():
    plan = planned(
        spec_of("Qwen3-32B", layout="TP4", engine_args={"decode-context-parallel-size": 3})
    )
    assert plan.chosen is None
    reasons = [item.reason for item in plan.rejected if str(item.layout) == "TP4×DCP3"]
    assert reasons == ["decode context parallel 3 does not divide tensor parallel 4"]
    assert "TP4×DCP3" in on_screen(plan_text(plan), 120)


def test_sizes_of_finegrained_tensor_parallel_divide_data_parallel():
    def spec(layout: str, size: int) -> Spec:
        config = {"finegrained_tp_config": {"lmhead_tensor_parallel_size": size}}
        given = {"engine_args": {"additional-config": config}, "layout": layout}
        return spec_of("Qwen3-30B-A3B", "910B3", **given)

    for layout, size, runs in (("DP8+EP", 4, True), ("DP8+EP", 3, False), ("TP8", 8, False)):
        asked = spec(layout, size)
        named = planned(asked).rejected
        reasons = [item.reason for item in named if item.layout == asked.serve.layout]
        assert ("finegrained_tp_config" not in str(reasons)) is runs
        if runs:
            assert started(asked).replicas
            continue
        with pytest.raises(LayoutError) as error:
            started(asked)
        assert "does not divide data parallel" in str(error.value.evidence)
