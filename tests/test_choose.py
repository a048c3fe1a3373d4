"""The choice: what holds whatever the forecasts say, refusals, and the spec that comes of it."""

import re
from dataclasses import replace

import pytest

from plan_requests import SPEC, cluster, request
from ropeway.engines.ascend_releases import order
from ropeway.errors import LayoutError, Refused
from ropeway.hardware import chip_named
from ropeway.plan.candidate import Plan
from ropeway.plan.choose import choose
from ropeway.plan.estimate import estimate
from ropeway.plan.fit import search_of
from ropeway.plan.layout import working
from ropeway.plan.load import Load
from ropeway.plan.machine import ascend, traits
from ropeway.plan.question import Question
from ropeway.plan.reports import unreported
from ropeway.plan.writing import written
from ropeway.report.plan_words import no_answer
from ropeway.spec.cluster import Cluster
from ropeway.spec.model import Layout, parse_spec


@pytest.fixture(scope="module")
def blog() -> Plan:
    return choose(request())


def reason(plan: Plan, layout: str) -> str:
    (rejected,) = [item for item in plan.rejected if str(item.layout) == layout]
    return f"{rejected.kind}: {rejected.reason}"


def value(plan: Plan, key: str) -> tuple[object, str, str]:
    (row,) = [row for row in plan.values if row.key == key]
    return row.value, row.why, row.source


def test_every_layout_that_can_run_is_a_candidate_or_rejected(blog):
    layouts = [item.layout for item in (*blog.candidates, *blog.rejected)]
    assert set(working(blog.request.shape, blog.request.cluster)) <= set(layouts)
    assert len(layouts) == len(set(layouts))
    assert blog.searched == 148
    assert all(item.reason for item in blog.rejected)


def test_what_failed_in_the_blog_is_rejected_with_its_reason(blog):
    assert reason(blog, "TP8×PP2+EP").startswith("engine: ")
    assert "#3529" in reason(blog, "TP8×PP2+EP")
    assert reason(blog, "TP1").startswith("memory: 57.")
    assert "MoeDistributeDispatch" in reason(blog, "DP2×TP4×PP2")


def test_hosts_and_memory_of_a_candidate():
    plan = choose(request(replicas=1))
    by_name = {str(item.layout): item for item in plan.candidates}
    assert {name: by_name[name].hosts for name in ("TP8", "TP16", "DP2×TP8", "TP8×PP2")} == {
        "TP8": 1, "TP16": 2, "DP2×TP8": 2, "TP8×PP2": 2,
    }  # fmt: skip
    assert by_name["TP8"].fraction == 0.9
    assert by_name["TP8"].max_sequences == 256
    assert by_name["DP2×TP8"].max_sequences == 128
    assert by_name["DP3×TP2"].max_sequences == 128  # 86 each


def test_the_best_is_first_and_nothing_on_the_front_is_beaten(blog):
    outputs = [item.forecast.output_tokens_per_s for item in blog.candidates]
    assert outputs[0] >= 0.98 * max(outputs)
    assert blog.chosen == blog.candidates[0]
    front = {item.layout for item in blog.front}
    for item in blog.candidates:
        beaten = any(
            other.forecast.output_tokens_per_s >= item.forecast.output_tokens_per_s
            and other.forecast.tpot_s <= item.forecast.tpot_s
            and other.forecast != item.forecast
            for other in blog.candidates
        )
        assert item.on_front == (item.layout in front)
        assert not (item.on_front and beaten)


def test_a_release_that_is_too_old_is_said_to_be_the_reason():
    """The needs are those of the named model, not of the one whose dimensions it has."""
    old = choose(request("Kimi-K2.5", 2, "910C", "0.13.0"))
    assert old.chosen is None and no_answer(old).startswith("vLLM-Ascend 0.13.0 runs no layout")
    assert old.missing[0].startswith("0.13.0 is older than 0.17.0rc1, first release with Kimi-K2.5")
    assert choose(request("Kimi-K2-Thinking", 2, "910C", "0.13.0")).chosen


def test_a_release_is_named_once_however_it_was_written():
    said = unreported(Layout.parse("TP8"), 1, experts=False, family="A2", version="0.99.0")
    named = re.findall(r"\d+\.[\d.rc]+\d", str(said).partition(" with ")[2])
    assert len({order(one) for one in named}) == len(named) == 4


def test_one_host_and_one_sequence_are_not_many():
    said = " ".join(choose(request("Qwen3-30B-A3B", 1, cluster=cluster(1))).missing)
    assert "hosts of 1 NPU " in said


@pytest.mark.parametrize(
    ("model", "chip"), [("DeepSeek-R1-W8A8", "910B3"), ("Qwen3-30B-A3B", "910B4")]
)
def test_the_next_in_rank_is_not_said_to_be_the_next_best_where_it_is_not(model, chip):
    plan = choose(replace(request(model), chip=chip_named(chip)))
    first, second, *rest = [item for item in plan.candidates if not item.faults]
    _, why, _ = value(plan, "serve.layout")
    better = max(item.forecast.output_tokens_per_s for item in rest)
    equal = "where 1% counts as equal" in why
    assert equal == (better > second.forecast.output_tokens_per_s)
    assert f"{second.name} with" in why
    assert first == plan.chosen


def test_a_single_layout_that_fits_is_the_only_one():
    alone = choose(request("Qwen2.5-7B-Instruct", 1, cluster=cluster(1)))
    assert len(alone.candidates) == 1
    assert value(alone, "serve.layout")[1].endswith(", the only one that fits")


def test_weights_that_would_fit_are_named_as_one_asks_for_them_where_the_model_is_published():
    query = request("Qwen3-235B-A22B")
    (line,) = [line for line in choose(query).missing if "w8a8" in line]
    assert line.startswith("with w8a8 weights (`--model Qwen3-235B-A22B-W8A8`) ")
    ours = choose(replace(query, model_name="/data/ours"))
    assert not any("--model" in line for line in ours.missing)
    assert any(line.startswith("with w8a8 weights ") for line in ours.missing)


def test_values_have_reasons_that_can_be_checked(blog):
    layout, why, source = value(blog, "serve.layout")
    assert layout == str(blog.chosen.layout)
    sound = [item for item in blog.candidates if not item.faults]
    assert f"of {len(sound)} that fit" in why
    assert f"{len(blog.candidates) - len(sound)} more fit, but were reported to fail" in why
    assert f"next {blog.candidates[1].name} " in why
    best = max(item.forecast.output_tokens_per_s for item in sound)
    assert ("within 1%" in why) == (blog.chosen.forecast.output_tokens_per_s < best)
    assert source == "planner"
    share, why, source = value(blog, "serve.memory")
    assert (share, source) == (0.9, "default")
    assert why.startswith("26.5 of the 29.5 GiB that the driver leaves of 32.0: ")
    parts = [float(part.split()[0]) for part in why.partition(": ")[2].split(" + ")]
    assert sum(parts) == pytest.approx(26.5, abs=0.2)
    context, why, source = value(blog, "serve.context")
    assert (context, source) == (2048, "planner")
    assert "1,024 + 256 tokens" in why
    version, _, source = value(blog, "serve.version")
    assert (version, source) == ("0.11.0rc0", "spec")
    assert value(blog, "cluster.chip")[1].startswith("32 GiB, 0.8 TB/s, 246 TFLOP/s in bf16")
    assert "tokens/s" in value(blog, "tensor")[1]
    assert all(row.key and row.why and row.source for row in blog.values)


def test_one_engine_on_each_host_is_a_choice_and_its_figures_are_those_of_all(blog):
    """Over two hosts, one layout is slower than engines within one host each."""
    replicas = blog.chosen.replicas
    assert (replicas > 1, blog.chosen.hosts, blog.chosen.npus) == (True, 2, 16)
    part = replace(
        request(replicas=1, layout=blog.chosen.layout),
        load=Load(1024, 256, clients=256 // replicas),
    )
    one = choose(part).chosen.forecast
    assert blog.chosen.forecast.output_tokens_per_s == pytest.approx(
        replicas * one.output_tokens_per_s
    )
    assert blog.chosen.forecast.tpot_s == pytest.approx(one.tpot_s)
    best_single = choose(request(replicas=1)).chosen.forecast
    assert blog.chosen.forecast.output_tokens_per_s > 1.05 * best_single.output_tokens_per_s
    number, why, source = value(blog, "serve.replicas")
    assert (number, source) == (replicas, "planner")
    assert f"room for {replicas} replicas" in why
    assert "the best single engine" in why


def test_replicas_that_a_request_fixes_are_kept_or_refused():
    two = choose(request(replicas=2, layout=Layout.parse("TP8")))
    assert (two.chosen.replicas, two.chosen.name) == (2, "2 replicas of TP8")
    with pytest.raises(LayoutError) as caught:
        choose(request(replicas=2, layout=Layout.parse("TP16")))
    assert caught.value.what == ("2 replicas of TP16 take 32 NPUs, and there is room for 1")
    assert all(item.replicas == 2 for item in choose(request(replicas=2)).candidates)


def test_a_job_has_as_many_clients_as_give_the_most_throughput():
    """No number of clients that a user could name gives more than the planner's."""
    free = choose(request(free_clients=True))
    for clients in (64, 256, 512, 1024, 2048, 4096):
        fixed = choose(request(load=Load(1024, 256, clients=clients)))
        assert free.chosen.forecast.output_tokens_per_s >= (
            0.98 * fixed.chosen.forecast.output_tokens_per_s
        )
    number, why, source = value(free, "workload.clients")
    assert number == free.chosen.clients > 256
    assert (source, "throughput" in why) == ("planner", True)
    bounded = choose(request(free_clients=True, tpot_s=0.1, ttft_s=2.0)).chosen
    assert bounded.forecast.tpot_s <= 0.1
    assert bounded.forecast.ttft_s <= 2.0
    assert bounded.clients < number


@pytest.mark.parametrize(
    ("layout", "version", "words"),
    [
        ("TP8", "0.11.0rc0", ""),
        ("TP8", "0.11.0rc2", ""),
        ("TP8×PP2", "0.11.0rc0", ""),
        ("TP8×PP2+EP", "0.23.0", "nobody has published a measurement of TP×PP+EP for a mixture of"),
        ("TP4×PP2", "0.23.0", "experts within one host on A2"),
        ("DP2×TP8+EP", "0.23.0", ""),
        ("DP2×TP8+EP", "0.18.0", "with vLLM-Ascend 0.23.0, 0.27.1, not with 0.18.0"),
    ],
)
def test_a_choice_that_nobody_has_measured_says_so_once(layout, version, words):
    plan = choose(request(version=version, replicas=1, layout=Layout.parse(layout)))
    said = [line for line in plan.doubts if "measure" in line and "support matrix" not in line]
    said = [line for line in said if "looked for" not in line]
    assert len(said) == bool(words)
    assert words in " ".join(said)


def test_more_than_anybody_has_measured_and_more_than_programs_may_open_is_said():
    usual = choose(request("Qwen3-8B", version="0.18.0", load=Load(128, 128, clients=256)))
    assert not usual.beyond_measured
    assert not any("at once in a DP rank" in line or "ulimit" in line for line in usual.doubts)
    job = request("Qwen3-8B", version="0.18.0", load=Load(128, 128, clients=256))
    plan = choose(replace(job, free_clients=True, job_prompts=3_000_000))
    running, clients = plan.chosen.forecast.running, plan.chosen.clients
    assert (running > 256, plan.beyond_measured) == (True, True)
    (far,) = [line for line in plan.doubts if "at once in a DP rank" in line]
    assert (
        f"more than 256 sequences at once in a DP rank on A2, and these are {running:,.0f}" in far
    )
    (files,) = [line for line in plan.doubts if "ulimit" in line]
    assert files.startswith(f"each of {clients:,} clients keeps a connection open")


def test_what_one_router_cannot_pass_on_is_said():
    few = choose(request("Qwen3-8B", version="0.18.0", load=Load(1024, 256, clients=64)))
    assert not any("router passes on" in line for line in few.doubts)
    load = Load(64, 16, clients=8192)
    many = choose(request("Qwen3-0.6B", hosts=8, chip="910B3", version="0.18.0", load=load))
    assert many.chosen.replicas > 1
    assert any("streamed tokens/s" in line for line in many.doubts)


def test_the_same_question_has_the_same_answer(blog):
    assert choose(request()) == blog


def test_a_bound_on_the_time_of_a_token_is_kept_by_running_fewer():
    free = choose(request(version="0.23.0"))
    bound = free.chosen.forecast.tpot_s / 2
    plan = choose(request(version="0.23.0", tpot_s=bound, objective="latency"))
    assert plan.chosen is not None
    assert all(item.forecast.tpot_s <= bound for item in plan.candidates)
    assert any(item.kind == "bound" for item in plan.rejected)
    assert plan.chosen.max_sequences & (plan.chosen.max_sequences - 1) == 0
    best = max(item.forecast.output_tokens_per_s for item in plan.candidates)
    assert plan.chosen.forecast.output_tokens_per_s >= 0.98 * best
    unbound = {item.layout: item.max_sequences for item in free.candidates}
    fewer = [item for item in plan.candidates if item.max_sequences < unbound[item.layout]]
    assert len({item.max_sequences for item in fewer}) > 2
    for item in fewer:
        twice = replace(plan.request, layout=item.layout, max_sequences=2 * item.max_sequences)
        assert choose(twice).chosen is None
    slow = next(item for item in plan.rejected if item.kind == "bound")
    assert f"more than the {bound * 1e3:,.0f} ms" in slow.reason


def test_bounds_that_nothing_keeps():
    plan = choose(request(tpot_s=1e-6))
    assert plan.chosen is None
    assert plan.candidates == plan.front == plan.values == ()
    slow = [item for item in plan.rejected if item.kind == "bound"]
    assert plan.missing[0].startswith(f"{len(slow)} layouts would fit")
    nearest = min(slow, key=lambda item: item.shortfall)
    assert f"{nearest.layout}: {nearest.reason}" in plan.missing[0]


def test_for_cost_hosts_count():
    plan = choose(request(objective="cost", price_per_host_hour=20.0, job_prompts=1_000_000))
    costs = [item.cost.per_million_tokens for item in plan.candidates if item.cost]
    assert costs[0] <= 1.02 * min(costs)
    chosen = plan.chosen
    rate = chosen.forecast.output_tokens_per_s
    assert chosen.cost.per_hour == 20.0 * chosen.hosts
    assert chosen.cost.per_million_tokens == pytest.approx(20.0 * chosen.hosts / 3600 / rate * 1e6)
    job_s = plan.request.job_s(chosen.forecast)
    assert job_s == pytest.approx(256e6 / rate)
    assert chosen.cost.job_price == pytest.approx(job_s / 3600 * chosen.cost.per_hour)
    assert "CNY per million tokens" in value(plan, "serve.layout")[1]
    unpriced = choose(request(objective="cost"))
    assert unpriced.chosen.layout == chosen.layout
    assert unpriced.chosen.cost is None


def test_for_latency_without_a_bound_the_whole_answer_counts():
    plan = choose(request(objective="latency", load=Load(1024, 256, clients=1)))
    answer = [item.forecast.ttft_s + 255 * item.forecast.tpot_s for item in plan.candidates]
    assert answer[0] <= 1.02 * min(answer)
    assert "s for an answer, " in value(plan, "serve.layout")[1]


def test_of_equals_the_smaller_wins():
    """One client is served as fast by one replica as by two."""
    plan = choose(
        request("Qwen3-32B", chip="910B3", version="0.18.0", load=Load(512, 64, clients=1))
    )
    assert plan.chosen.layout.data == 1
    assert reason(plan, "DP2").startswith("bound: 2 DP ranks for 1 client")


def test_a_load_at_a_rate():
    plan = choose(request(version="0.18.0", load=Load(1024, 256, rate=0.5)))
    assert plan.chosen is not None
    assert plan.chosen.forecast.requests_per_s == pytest.approx(0.5, rel=0.1)
    assert "0.5 requests/s" in value(plan, "serve.max_sequences")[1]


def test_a_rate_that_256_sequences_cannot_serve_gets_more():
    one = Layout.parse("TP8")
    query = request("Qwen3-8B", chip="910B3", version="0.18.0", layout=one)
    query = replace(query, load=Load(64, 512, rate=1e6))
    plan = choose(query)
    assert plan.chosen.max_sequences == 1024
    few = choose(replace(query, max_sequences=256))
    assert few.chosen.forecast.output_tokens_per_s < plan.chosen.forecast.output_tokens_per_s
    assert choose(replace(query, load=Load(64, 512, rate=0.1))).chosen.max_sequences == 256


def test_fixed_values_are_kept_and_said_to_be_asked():
    plan = choose(request(memory=0.8, max_sequences=16, context=8192))
    assert {item.fraction for item in plan.candidates} == {0.8}
    assert {item.max_sequences for item in plan.candidates} == {16}
    most, _, source = value(plan, "serve.max_sequences")
    assert (most, source) == (16, "spec")
    assert value(plan, "serve.context")[0] == 8192
    assert value(plan, "serve.memory")[2] == "spec"


def test_more_memory_is_taken_where_the_cache_is_too_small():
    """Qwen3-32B on four 32 GB NPUs: what 0.9 holds of 256 clients is less than 0.95 holds."""
    eager = traits("0.18.0", "eager")
    query = request("Qwen3-32B", hosts=1, layout=Layout.parse("TP4"), traits=eager, replicas=1)
    plan = choose(query)
    assert plan.chosen.fraction == 0.95
    assert "would hold fewer sequences" in value(plan, "serve.memory")[1]
    few = choose(replace(query, load=Load(128, 128, clients=8)))
    assert few.chosen.fraction == 0.9


@pytest.mark.parametrize(("version", "tokens"), [("0.11.0rc0", "8,192"), ("0.11.0rc1", "2,048")])
def test_prompts_were_not_cut_until_0_11_0rc0(version, tokens):
    plan = choose(request(version=version, context=8192, layout=Layout.parse("TP8")))
    assert value(plan, "activations")[1] == f"at the peak of a step of {tokens} tokens"


def test_the_local_cluster_has_its_cache_and_no_engine_limits():
    query = request("SmolLM2-135M", version="0.18.0", load=Load(128, 64, clients=32))
    machine = ascend(query.chip, query.traits)
    cluster = Cluster.model_validate({"local": {"hosts": 2, "npus": 2}})
    query = replace(query, chip=None, machine=machine, cluster=cluster, kv_cache=2**30)
    plan = choose(query)
    names = {str(item.layout) for item in plan.candidates}
    assert {"TP1", "PP2", "DP2", "DP4"} <= names
    one = next(item for item in plan.candidates if str(item.layout) == "TP1")
    assert one.memory.kv_tokens == 2**30 // (128 * 23_040) * 128


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"context": 300_000}, "300,000 tokens is longer than the model's 262,144"),
        ({"context": 1024}, "a request takes 1,280 tokens, and the context is 1,024"),
        ({"load": Load(262_144, 1, clients=1)}, "takes 262,145 tokens, and the model has 262,144"),
    ],
)
def test_a_context_that_cannot_be(more, words):
    with pytest.raises(Refused) as caught:
        choose(request(**more))
    assert words in caught.value.what
    assert caught.value.exit_code == 2


def test_a_layout_that_the_release_cannot_run():
    with pytest.raises(LayoutError) as caught:
        choose(request(layout=Layout.parse("TP8xPP2+EP")))
    assert "vLLM-Ascend 0.11.0rc0" in caught.value.what
    assert "507014" in caught.value.evidence[0]
    assert caught.value.hint.startswith("take 0.12.0rc1 or newer; take another layout")
    assert choose(request(layout=Layout.parse("TP8xPP2+EP"), version="0.12.0rc1")).chosen


def test_nothing_fits_and_what_would():
    """DeepSeek-V3 has 671 GB in 8 bits, and 16 NPUs of 32 GB have 512 GB."""
    query = request("DeepSeek-V3-W8A8", version="0.18.0", context=4096)
    plan = choose(query)
    assert plan.chosen is None
    assert choose(replace(query, cluster=cluster(8, 8, 8, 8))).chosen is not None
    assert all(item.kind in ("memory", "engine", "shape") for item in plan.rejected)
    nearest, *others = plan.missing
    assert "TP16: 40.2 weights" in nearest
    assert any(
        line.startswith("with w4a8 weights (`--model DeepSeek-V3-W4A8`) ") for line in others
    )
    assert any(line.startswith("on 4 hosts of 8 NPUs ") for line in others)


def test_a_context_too_long_for_the_cache():
    query = request("Qwen3-32B", hosts=1, version="0.18.0", layout=Layout.parse("TP2"))
    query = replace(query, cluster=cluster(2), context=40_960, load=Load(512, 64, clients=1))
    query = replace(query, chip=chip_named("910B4"), hbm_bytes=40 * 2**30)
    plan = choose(query)
    assert plan.chosen is None
    assert "one sequence has 40,960" in plan.rejected[0].reason
    (line,) = [line for line in plan.missing if "a context of" in line]
    tokens = int(re.search(r"([\d,]+) tokens", line)[1].replace(",", ""))
    assert choose(replace(query, context=tokens - 128)).chosen is not None
    assert choose(replace(query, context=tokens + 256)).chosen is None


def test_the_choice_is_written_as_by_hand(blog):
    after = written(parse_spec(SPEC, "f"), blog)
    chosen = blog.chosen
    by_hand = (
        f"layout: {chosen.layout}\n  context: 2048\n  memory: {chosen.fraction}\n"
        f"  max_sequences: {chosen.max_sequences}\n  replicas: {chosen.replicas}\n"
        "  api_key_env: ROPEWAY_API_KEY\n  #"
    )
    assert after == parse_spec(SPEC.replace("layout: TP8", by_hand), "f")
    assert written(after, blog) == after


def test_a_cache_in_bytes_is_not_joined_by_a_fraction():
    spec = parse_spec(SPEC.replace("serve:\n", "serve:\n  kv_cache: 4GiB\n"), "f")
    plan = choose(request(kv_cache=4 * 2**30, layout=Layout.parse("TP8")))
    assert plan.chosen.memory.kv_cache == 4 * 2**30
    assert not any(row.key == "serve.memory" for row in plan.values)
    assert written(spec, plan).serve.memory is None
    assert written(spec, plan).serve.kv_cache == 4 * 2**30


def test_there_is_nothing_to_write_when_nothing_fits():
    plan = choose(request("DeepSeek-V3-W8A8", version="0.18.0"))
    with pytest.raises(Refused) as caught:
        written(parse_spec(SPEC, "f"), plan)
    assert caught.value.evidence == plan.missing


def test_hosts_of_unequal_sizes():
    query = request(cluster=cluster(4, 8), layout=Layout.parse("TP8"))
    assert search_of(query).hosts(query.layout) == 1
    assert choose(query).chosen.replicas == 1  # there is no room for a second


@pytest.mark.parametrize(
    "name", ["Qwen3-32B", "gpt-oss-120b-W8A8", "DeepSeek-V3.2-W8A8", "Qwen3-Next-80B-A3B-Instruct"]
)
def test_the_forecast_is_that_of_the_candidate_as_it_would_be_asked(name):
    """No candidate is forecast with more cache or sequences than it has."""
    query = request(
        name, hosts=2, chip="910B3", version="0.18.0", load=Load(4096, 512, clients=512)
    )
    plan = choose(query)
    for item in plan.candidates[:5]:
        assert item.memory.fits
        assert item.forecast.running <= item.max_sequences
        free = estimate(
            Question(
                shape=query.shape, layout=item.layout, machine=ascend(query.chip, query.traits),
                load=query.load.share(item.replicas), npus_per_host=8,
                max_sequences=item.max_sequences, replicas=item.replicas,
                kv_tokens=None, max_batched_tokens=2048,
            )
        )  # fmt: skip
        assert item.forecast.output_tokens_per_s <= free.output_tokens_per_s * 1.0001


def test_all_of_4096_npus_is_searched():
    query = request("Qwen3-30B-A3B", hosts=512, version="0.18.0", load=Load(512, 128, clients=8192))
    plan = choose(query)
    assert plan.searched == len(working(query.shape, query.cluster)) > 2500
    assert plan.chosen is not None
