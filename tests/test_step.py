"""The time of a step, against figures worked out by hand in the comments.

The model is Qwen3-30B-A3B: 48 layers, hidden 2048, 4 KV heads of 128, 128 experts of 3 × 768 × 2048
numbers of which a token visits 8; 30.5 billion numbers. On 8 × 910B4 each reads 7.6 GB a step.
"""

from dataclasses import replace

import pytest

from ropeway.hardware import chip_named
from ropeway.models.known import known
from ropeway.plan.cycle import DataRank, cycle_of
from ropeway.plan.load import Load
from ropeway.plan.machine import Machine, ascend, ideal, share_of, traits
from ropeway.plan.question import Question
from ropeway.plan.step import Batch, Costs, stage_costs
from ropeway.spec.model import Layout

MODEL = known("Qwen3-30B-A3B")
CHIP = chip_named("910B4")
PERFECT = ideal(ascend(CHIP, traits("0.11.0rc0")))
FULL_BATCH = Batch(256, 256, 0, context=1024)


def costs(layout: str, machine: Machine = PERFECT, npus_per_host: int = 8) -> Costs:
    load = Load(1, 1, clients=1)
    return stage_costs(Question(MODEL, Layout.parse(layout), machine, load, npus_per_host))[0]


def test_weights_of_eight_tensor_ranks_take_nine_and_a_half_milliseconds() -> None:
    # 61 GB / 8 less the embedding table: 7.6 GB / 0.8 TB/s = 9.5 ms. At 256 tokens all experts are
    # touched: 128 (1 - (1 - 8/128)^256) = 128.
    assert costs("TP8").times(FULL_BATCH).weights == pytest.approx(9.5e-3, rel=0.02)


def test_one_token_reads_eight_experts_of_each_layer() -> None:
    # 48 layers × 8 experts × 3 × 768 × 2048 × 2 B = 3.62 GB of experts, 48 × 18.9M × 2 = 1.81 GB
    # of attention, 151936 × 2048 × 2 = 0.62 GB of head; of each 1/8. Of 0.20 GB of K and V a rank
    # has a quarter and not an eighth (4 heads), and the router whole: 48 × 128 × 2048 × 2 = 25 MB.
    one = costs("TP8").times(Batch(1, 1, 0, context=1024)).weights
    held = (3.62e9 + 1.81e9 + 0.62e9 + 0.20e9) / 8 + 25e6
    assert one == pytest.approx(held / 0.8e12, rel=0.01)


def test_the_cache_of_256_sequences_of_1024_tokens_takes_eight_milliseconds() -> None:
    # K and V of one head (4 heads on 8 ranks): 2 × 128 × 2 bytes × 48 layers = 24.6 KB a token;
    # × 256 × 1024 = 6.44 GB / 0.8 TB/s = 8.05 ms.
    assert costs("TP8").times(FULL_BATCH).cache == pytest.approx(8.05e-3, rel=0.01)


def test_reading_and_multiplying_take_as_long_as_the_longer_one() -> None:
    # 256 tokens × 6.7 GFLOP / 8 / 245.8 TFLOP/s = 0.9 ms < 9.5 ms of reading: nothing is added.
    assert costs("TP8").times(FULL_BATCH).arithmetic == 0
    # 100 times the tokens, as prompt: 87 ms, of which 9.5 hide behind the reading; attention comes
    # on top.
    prompt = costs("TP8").times(Batch(0, 0, 25600, prompt_context=0))
    assert prompt.arithmetic + prompt.weights == pytest.approx(87e-3, rel=0.1)


def test_an_all_reduce_of_one_mebibyte_takes_nine_microseconds_of_wire() -> None:
    # 256 × 2048 × 2 bytes = 1 MiB; 2 × 7/8 of it leaves each rank over 196 GB/s: 9.36 µs. There are
    # two in each of 48 layers and one after the embedding.
    assert costs("TP8").times(FULL_BATCH).reduce == pytest.approx(97 * 9.36e-6, rel=0.01)
    # In a mesh few ranks have few links. Of two, half of 2 MiB leaves over one of 28 GB/s: 37.4 µs.
    assert costs("TP2").times(FULL_BATCH).reduce == pytest.approx(97 * 37.4e-6, rel=0.01)


def test_between_hosts_only_an_eighth_crosses_and_latency_counts() -> None:
    machine = replace(PERFECT, reduce=20e-6, between_reduce=200e-6)
    inside = costs("TP8", machine).times(FULL_BATCH).reduce
    across = costs("TP16", machine).times(FULL_BATCH).reduce
    # 2 × 1/2 of 128 KiB over 25 GB/s: 5.2 µs; the latency is 200.
    assert across - inside == pytest.approx(97 * (200e-6 + 5.2e-6), rel=0.02)


def test_a_latency_is_paid_once_for_each_reduce() -> None:
    slow = replace(PERFECT, reduce=30e-6)
    added = costs("TP8", slow).latency - costs("TP8").latency
    assert added == pytest.approx(97 * 30e-6)


def test_launching_hides_behind_the_npu_in_part() -> None:
    machine = replace(PERFECT, moe_layer=1e-3, overlap=0.5)
    times = costs("TP8", machine).times(FULL_BATCH)
    device = times.total - times.launch
    # 48 ms of launching; half of the NPU's 18 ms hides.
    assert times.launch == pytest.approx(48e-3 - 0.5 * device)


def test_a_step_larger_than_any_graph_is_launched_layer_by_layer() -> None:
    machine = replace(PERFECT, moe_layer=1e-4, eager_moe_layer=1e-3, overlap=0.0)
    graph = costs("TP8", machine).times(FULL_BATCH)
    eager = costs("TP8", machine).times(replace(FULL_BATCH, captured=False))
    assert eager.launch - graph.launch == pytest.approx(48 * 0.9e-3)


def test_the_host_has_work_for_every_sequence() -> None:
    machine = replace(PERFECT, step=4e-3, sequence=50e-6)
    assert costs("TP8", machine).times(FULL_BATCH).host == pytest.approx(4e-3 + 256 * 50e-6)


def test_ranks_of_one_pool_have_their_part_of_it() -> None:
    pool = replace(PERFECT, shared=True)
    alone = costs("TP1", share_of(pool, 1)).times(FULL_BATCH)
    four = costs("TP4", share_of(pool, 4)).times(FULL_BATCH)
    # A quarter of the weights at a quarter of the bandwidth (the router is on each rank).
    assert four.weights == pytest.approx(alone.weights, rel=0.01)


def test_ranks_of_prefill_context_share_the_pool_too() -> None:
    pool = replace(PERFECT, shared=True)
    rank = DataRank.of(Question(MODEL, Layout.parse("TP2×PCP2"), pool, LOAD))
    assert rank.machine == share_of(pool, 4)


def test_expert_ranks_wait_for_the_fullest() -> None:
    machine = replace(PERFECT, imbalance=1.5)
    even = costs("TP8+EP").times(FULL_BATCH).weights
    uneven = costs("TP8+EP", machine).times(FULL_BATCH).weights
    # Experts are 58.0 of 61 GB.
    assert uneven / even == pytest.approx(1 + 0.5 * 58.0 / 60.8, rel=0.01)


def test_eight_bit_products_run_at_the_eight_bit_rate() -> None:
    quantised = known("Qwen3-30B-A3B-W8A8")
    machine = replace(PERFECT, narrow=0.5)
    whole = Question(MODEL, Layout(tensor=8), machine, LOAD)
    (whole_costs,), (narrow,) = stage_costs(whole), stage_costs(replace(whole, shape=quantised))
    # Twice the rate, half of it reached: the same.
    assert narrow.expert_token == pytest.approx(whole_costs.expert_token)
    assert narrow.routed == pytest.approx(whole_costs.routed / 2)


def rank(layout: str, machine: Machine, load: Load) -> DataRank:
    question = Question(MODEL, Layout.parse(layout), machine, load, max_sequences=512)
    return DataRank.of(question)


LOAD = Load(400, 601, clients=256)


def test_a_cycle_is_the_steps_of_one_answer() -> None:
    machine = replace(PERFECT, step=10e-3)
    cycle = cycle_of(rank("TP8", machine, Load(1, 601, clients=64)), 64)
    step = costs("TP8", machine).times(Batch(64, 64, 0, context=1 + 601 / 2)).total
    assert cycle.seconds == pytest.approx(600 * step, rel=0.01)


def test_prompts_take_steps_from_generating() -> None:
    alone = cycle_of(rank("TP8", PERFECT, Load(1, 601, clients=256)), 256).seconds
    both = cycle_of(rank("TP8", PERFECT, LOAD), 256).seconds
    # Each of 600 steps sees 399 tokens more: 256 × 399 × 24.6 KB / 0.8 TB/s = 3.14 ms. The prompts'
    # 102,400 tokens multiply while weights are read, but all of them go through 97 reduces, 37 ns
    # each: 0.36 s.
    assert both - alone == pytest.approx(600 * 3.14e-3 + 0.36, rel=0.1)


def test_a_pipeline_of_equal_stages_takes_two_passes_for_a_step() -> None:
    machine = replace(PERFECT, step=10e-3)
    whole = cycle_of(rank("TP8", machine, LOAD), 256)
    half = cycle_of(rank("TP8×PP2", machine, LOAD), 256)
    # Two micro-batches in turn through half the layers: as long as one pass of all, and each
    # reads the weights once and pays the host's step.
    assert half.passes == 2
    assert cycle_of(rank("TP8×PP2", machine, LOAD), 1).passes == 2, "one of them idle"
    assert half.seconds == pytest.approx(whole.seconds + 600 * 10e-3, rel=0.1)


def test_blocking_sends_lengthen_a_pipeline_only() -> None:
    blocked = replace(PERFECT, blocked=0.8)
    free = cycle_of(rank("TP8×PP2", PERFECT, LOAD), 256).seconds
    held = cycle_of(rank("TP8×PP2", blocked, LOAD), 256).seconds
    assert held / free == pytest.approx(1 + 0.8 / 2)
    assert cycle_of(rank("TP8", blocked, LOAD), 256) == cycle_of(rank("TP8", PERFECT, LOAD), 256)


def test_replicas_that_share_experts_wait_for_each_others_prompts() -> None:
    machine = replace(PERFECT, mixed_moe_layer=2e-3, overlap=0.0)
    long = Load(400, 2001, rate=1.0)
    one = cycle_of(rank("TP8", machine, long), 16)
    two = cycle_of(rank("DP2×TP8", machine, long), 16)
    # 16 prompts in 2,000 steps: 16 steps with a prompt, nearly 32 with one of either.
    assert one.mixed_steps == pytest.approx(16, rel=0.01)
    assert two.mixed_steps == pytest.approx(32, rel=0.02)


def test_clients_in_step_share_the_steps_that_read_prompts() -> None:
    # 256 prompts of 400 tokens fill 12.5 steps of 8192; at random they would come in
    # 600 (1 - e^(-256/600)) = 208; clients that began together lie between: √(12.5 × 208) = 51.
    assert cycle_of(rank("TP8", PERFECT, LOAD), 256).mixed_steps == pytest.approx(51, rel=0.01)
