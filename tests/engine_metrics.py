"""What vLLM's `/metrics` says, for tests that need some: its names, in Prometheus' text format."""

from collections.abc import Iterable
from pathlib import Path

import msgspec
from fake_endpoint import FakeEndpoint

from ropeway.bench.samples import SERVER, Sample

_ENGINE = 'engine="0",model_name="m"'
BOUNDS = (0.001, 0.01, 0.1, 1.0, 10.0)


def metrics(
    running: float,
    waiting: float,
    *,
    kv: float | None = 0.5,
    tokens: float = 0,
    preemptions: float = 0,
    queries: float = 0,
    hits: float = 0,
    ttfts: Iterable[float] | None = (),
) -> str:
    """Return what one engine says; `ttfts` are those of all requests since it started."""
    lines = [
        f"vllm:num_requests_running{{{_ENGINE}}} {float(running)}",
        f"vllm:num_requests_waiting{{{_ENGINE}}} {float(waiting)}",
        f'vllm:num_requests_waiting_by_reason{{{_ENGINE},reason="capacity"}} {float(waiting)}',
        f"vllm:num_preemptions_total{{{_ENGINE}}} {float(preemptions)}",
        f"vllm:generation_tokens_total{{{_ENGINE}}} {float(tokens)}",
        f"vllm:prompt_tokens_total{{{_ENGINE}}} {float(queries)}",
        f"vllm:prefix_cache_queries_total{{{_ENGINE}}} {float(queries)}",
        f"vllm:prefix_cache_hits_total{{{_ENGINE}}} {float(hits)}",
    ]
    if kv is not None:
        lines.append(f"vllm:kv_cache_usage_perc{{{_ENGINE}}} {kv}")
    if ttfts is not None:
        lines += histogram(list(ttfts))
    return "\n".join(lines) + "\n"


def histogram(ttfts: list[float], engine: str = _ENGINE) -> list[str]:
    """Return the lines of an engine's distribution of TTFT."""
    name = "vllm:time_to_first_token_seconds"
    within = [(str(bound), sum(one <= bound for one in ttfts)) for bound in BOUNDS]
    within.append(("+Inf", len(ttfts)))
    return [
        *(f'{name}_bucket{{{engine},le="{bound}"}} {float(n)}' for bound, n in within),
        f"{name}_count{{{engine}}} {float(len(ttfts))}",
        f"{name}_sum{{{engine}}} {sum(ttfts)}",
    ]


def honest(fake: FakeEndpoint) -> str:
    """Return what a fake endpoint knows of itself, with its KV cache at three quarters."""
    served = list(fake.served)
    capacity = fake.behaviour.capacity
    return metrics(
        min(fake.present, capacity),
        max(0, fake.present - capacity),
        kv=0.75,
        tokens=sum(one.tokens for one in served),
        queries=1000 * len(served),
        ttfts=[one.first_sent - one.arrived for one in served],
    )


def kept_samples(folder: Path) -> list[Sample]:
    """Return what a run has kept of its engines."""
    lines = (folder / SERVER).read_bytes().splitlines()
    return [msgspec.json.decode(line, type=Sample) for line in lines]
