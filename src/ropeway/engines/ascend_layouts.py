"""Which parallel layouts a release of vLLM-Ascend cannot run, or was never reported to run.

Each row of the tables says for which releases, chips and layouts it holds, why, and by which
source. `#N` is an issue or pull request of vllm-project/vllm-ascend, `notes of` a release are in
its docs/source/user_guide/release_notes.md. Nothing here was verified on NPU hardware by us.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from ropeway.engines.ascend_backends import RAY_SPAN_SINCE
from ropeway.engines.ascend_releases import MODEL_NEEDS, later_than, order
from ropeway.models.shape import ModelShape
from ropeway.phrases import phrase
from ropeway.spec.model import Layout

_PIPELINE_GUIDE = "vllm-ascend docs/source/user_guide/feature_guide/pipeline_parallel.md"
_SUPPORT_MATRIX = "vllm-ascend docs/source/user_guide/support_matrix/supported_models.md"
_COMMUNICATION = "vllm-ascend vllm_ascend/ascend_forward_context.py"

# `model_type` of families with a tick under "Pipeline Parallel" in the support matrix, or with a
# recipe that runs it (Qwen3-VL-30B-A3B on two NPUs, and over two hosts in docs/benchmarks.md).
_RUN_IN_PIPELINE = frozenset(
    ("deepseek_v3", "deepseek_v32", "glm_moe_dsa", "kimi_k2", "qwen3_vl_moe")
)
# Experts of one rank that MC2 can take on A2, and ranks of an expert group from which it is used.
_MC2_EXPERTS = 24
_MC2_RANKS = 16

FINEGRAINED = "finegrained-"
"""What the feature of a size in `finegrained_tp_config` begins with."""


@dataclass(frozen=True, slots=True)
class Case:
    """A layout of a model on some chips.

    hosts    how many the layout spans
    graph    the graph mode: `eager`, `piecewise` or `full`
    backend  what joins hosts and places ranks: Ray, or vLLM itself (`mp`)
    features what else the flags ask for, as ascend_flags.features names it
    """

    layout: Layout
    shape: ModelShape
    family: str
    hosts: int
    graph: str = "full"
    backend: str = "ray"
    features: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Limit:
    """A row: `reason` holds for releases from `since` and before `until`, where it `applies`.

    fails  people met it: the planner takes such a layout only where no other fits
    """

    reason: str
    source: str
    applies: Callable[[Case], bool]
    since: str = ""
    until: str = ""
    fails: bool = False

    def covers(self, version: str) -> bool:
        """Whether the row holds for this release."""
        era = order(version)
        return not (
            (self.since and era < order(self.since)) or (self.until and era >= order(self.until))
        )


def _spreads_experts(case: Case) -> bool:
    return case.layout.expert and case.layout.expert_ranks > 1


def _finegrained_sizes(case: Case) -> Iterator[int]:
    names = (name for name in case.features if name.startswith(FINEGRAINED))
    return (int(name.removeprefix(FINEGRAINED)) for name in names)


LIMITS = (
    Limit(
        "this release has no context parallelism",
        "vllm_ascend/ of v0.11.0; in the code since v0.12.0rc1",
        lambda case: case.layout.contexts != (1, 1),
        until="0.12.0rc1",
    ),
    Limit(
        "prefill context parallel cannot be combined with data parallel in this release",
        "vllm_ascend/platform.py of v0.22.1rc1 to v0.24.0rc1",
        lambda case: case.layout.prefill_context > 1 and case.layout.data > 1,
        since="0.22.1rc1",
        until="0.25.1rc1",
    ),
    Limit(
        "prefill context parallel is refused by this release",
        "vllm_ascend/platform.py of v0.25.1rc1, _validate_parallel_config",
        lambda case: case.layout.prefill_context > 1,
        since="0.25.1rc1",
        until="0.30.0rc1",
    ),
    Limit(
        "with sparse attention, decode context parallel must be as large as tensor parallel in "
        "this release",
        "vllm_ascend/platform.py of v0.23.0rc1",
        lambda case: (
            case.layout.decode_context not in (1, case.layout.tensor) and case.shape.is_indexed
        ),
        since="0.23.0rc1",
    ),
    Limit(
        "neither Ray nor vLLM itself places data-parallel ranks that are larger than a host in "
        "this release",
        "vLLM's v1/engine/utils.py (create_dp_placement_groups) and envs.py; ascend_backends.py",
        lambda case: case.hosts > case.layout.data > 1,
        until=RAY_SPAN_SINCE,
    ),
    Limit(
        "the V1 engine of this release has no pipeline parallelism",
        "notes of v0.9.1 and v0.10.0rc1 (#1800)",
        lambda case: case.layout.pipeline > 1,
        until="0.9.2rc1",
    ),
    Limit(
        "pipeline parallelism does not work with Ray and graph mode in this release",
        "notes of v0.9.2rc1 (#1751, #1754)",
        lambda case: case.layout.pipeline > 1 and case.graph != "eager" and case.backend == "ray",
        since="0.9.2rc1",
        until="0.10.0rc1",
    ),
    # MC2 is chosen when tensor × pipeline × data is 16 or more, but the experts of one stage are on
    # fewer ranks than it supports.
    Limit(
        "pipeline with expert parallelism: MC2 is chosen by the ranks of all stages, and one stage "
        "has fewer than the 16 that it needs; the start ends in error 507014",
        "#3529; fixed by #4054, in v0.12.0rc1",
        lambda case: (
            _spreads_experts(case)
            and case.family == "A2"
            and case.layout.pipeline > 1
            and case.layout.npus >= _MC2_RANKS > case.layout.expert_ranks
        ),
        since="0.10.2rc1",
        until="0.12.0rc1",
    ),
    Limit(
        "expert parallelism does not work with Ray in this release",
        "notes of v0.11.0rc2 (#4123)",
        lambda case: _spreads_experts(case) and case.hosts > 1 and case.backend == "ray",
        since="0.11.0rc1",
        until="0.11.0rc3",
    ),
    Limit(
        "more than 24 experts on a rank: MC2 cannot dispatch that, and is chosen nevertheless",
        "#7635; fixed by #7364, in v0.18.0rc1",
        lambda case: (
            _spreads_experts(case)
            and case.family == "A2"
            and case.layout.expert_ranks >= _MC2_RANKS
            and case.shape.experts // case.layout.expert_ranks > _MC2_EXPERTS
        ),
        since="0.10.2rc1",
        until="0.18.0rc1",
    ),
    Limit(
        "pipeline with data parallelism of an MoE over RoCE between hosts: MoeDistributeDispatch "
        "does not support it",
        _PIPELINE_GUIDE,
        lambda case: (
            case.shape.experts > 0
            and case.hosts > 1
            and case.layout.pipeline > 1
            and case.layout.data > 1
            and case.family != "A3"
        ),
    ),
    Limit(
        "with tensor parallelism of 16 or more, FIA does not take the heads of Qwen3-Next",
        "notes of v0.18.0rc1 (#7729)",
        lambda case: case.shape.model_type == "qwen3_next" and case.layout.tensor >= 16,
    ),
    Limit(
        "expert parallelism does not work for Qwen3-Next in this release",
        "notes of v0.10.2rc1",
        lambda case: _spreads_experts(case) and case.shape.model_type == "qwen3_next",
        since="0.10.2rc1",
        until="0.11.0rc0",
    ),
    Limit(
        "tensor parallelism does not divide the heads of the vision encoder; `mm-encoder-tp-mode: "
        "data` in `serve.engine_args` gives each NPU a whole one",
        "vLLM, model_executor/models/glm4_1v.py and qwen2_5_vl.py; vllm-project/vllm #24004",
        lambda case: (
            "whole-encoder" not in case.features
            and any((one.heads or 0) % case.layout.tensor for one in case.shape.encoders)
        ),
    ),
    Limit(
        "a size in `finegrained_tp_config` does not divide data parallel",
        "vllm_ascend/ascend_config.py: FinegrainedTPConfig",
        lambda case: any(case.layout.data % size for size in _finegrained_sizes(case)),
        since="0.12.0rc1",
    ),
    Limit(
        "pipeline with prefill context parallelism is not supported in this release",
        "notes of v0.23.0rc1 and v0.23.0",
        lambda case: case.layout.pipeline > 1 and case.layout.prefill_context > 1,
        since="0.23.0rc1",
        until="0.24.0rc1",
    ),
)

NOTES = (
    Limit(
        "whether tensor parallelism divides the heads of the vision encoder is not known: with "
        "`mm-encoder-tp-mode: data` in `serve.engine_args` each NPU has a whole one",
        "vLLM, model_executor/models; its config.json, or what was published of it",
        lambda case: (
            "whole-encoder" not in case.features
            and case.layout.tensor > 1
            and any(one.heads is None for one in case.shape.encoders)
        ),
    ),
    Limit(
        "context parallelism: its room in the cache is counted, its speed is not, and no "
        "measurement was compared",
        "vllm-ascend docs/source/user_guide/feature_guide/context_parallel.md",
        lambda case: case.layout.contexts != (1, 1),
    ),
    Limit(
        "the model's own layers are to draft tokens (MTP), and its config.json names none",
        "vLLM, config/speculative.py",
        lambda case: "mtp" in case.features and not case.shape.mtp,
    ),
    Limit(
        "310P runs in eager mode alone in this release: `enforce-eager: true` in "
        "`serve.engine_args`",
        "vllm-ascend docs/source/tutorials/single_node_300i.md of v0.11.0; notes of v0.14.0rc1",
        lambda case: case.family == "310P" and case.graph != "eager",
        since="0.11.0rc0",
        until="0.15.0rc1",
    ),
    Limit(
        "prefill context parallel: how this release shares the cache is not known to us",
        "vllm-ascend's code was read up to v0.26.0rc1",
        lambda case: case.layout.prefill_context > 1,
        since="0.30.0rc1",
    ),
    Limit(
        "Qwen3-Next with tensor parallelism of 8 or more runs out of memory in this release, while "
        "TP4 comes up: reported many times, reproduced by maintainers",
        "#3627, #4379, #6572",
        lambda case: case.shape.model_type == "qwen3_next" and case.layout.tensor >= 8,
        since="0.11.0rc0",
        until="0.20.2rc1",
        fails=True,
    ),
    Limit(
        "LoRA with tensor parallelism: the start was reported to crash (`hidden in should be "
        "smaller than hidden out`) or the NPUs to hang, no fix is known; TP1 runs",
        "#16586, #10562",
        lambda case: "lora" in case.features and case.layout.tensor > 1,
        since="0.21.0rc1",
        fails=True,
    ),
    Limit(
        "LoRA of Llama may fail with mismatched dimensions (einsum) in this release",
        "notes of v0.22.1rc1 (#10577)",
        lambda case: "lora" in case.features and case.shape.model_type == "llama",
        since="0.22.1rc1",
        until="0.23.0rc1",
    ),
    Limit(
        "GLM-5 with expert parallelism and full graphs may fail in MoeDistributeDispatchV2: no "
        "expert parallelism, piecewise graphs or eager mode avoid it",
        "notes of v0.21.0rc1 (#9503)",
        lambda case: (
            _spreads_experts(case)
            and case.shape.model_type == "glm_moe_dsa"
            and case.graph == "full"
        ),
        since="0.21.0rc1",
        until="0.22.1rc1",
        fails=True,
    ),
    Limit(
        "GLM-5 as W4A8: with MC2 answers may be wrong",
        "notes of v0.21.0rc1 (#9395)",
        lambda case: (
            _spreads_experts(case)
            and case.shape.model_type == "glm_moe_dsa"
            and case.shape.precision.scheme.startswith("w4a8")
        ),
        since="0.21.0rc1",
        until="0.22.1rc1",
        fails=True,
    ),
    Limit(
        "Qwen3.6 as MoE may end with speculative decoding (`numAcceptedTokens exceeds varlen "
        "segment length`)",
        "notes of v0.21.0rc1 (#9956)",
        lambda case: (
            "speculative" in case.features and case.shape.model_type == "qwen3_5_moe"
        ),
        since="0.21.0rc1",
        until="0.22.1rc1",
    ),
    Limit(
        "MiniMax-M2 over two hosts may hang or crash after 10 to 20 minutes of load",
        "notes of v0.22.1rc1 (#10591)",
        lambda case: case.shape.model_type == "minimax_m2" and case.hosts > 1,
        since="0.22.1rc1",
        until="0.23.0rc1",
        fails=True,
    ),
    Limit(
        "Kimi-K2.5 with MC2 on one A3 host may run out of memory with this release's CANN 9.0.0",
        "notes of v0.22.1rc1 (#10963)",
        lambda case: (
            _spreads_experts(case)
            and case.shape.model_type == "kimi_k25"
            and case.family == "A3"
            and case.hosts == 1
        ),
        since="0.22.1rc1",
        until="0.23.0rc1",
        fails=True,
    ),
    Limit(
        "DeepSeek-V4-Pro on A3 and 950: memory in use may grow until the service ends",
        "notes of v0.23.0rc1 and v0.23.0 (#12345)",
        lambda case: case.shape.model_type == "deepseek_v4" and case.family in ("A3", "950"),
        since="0.23.0rc1",
        until="0.24.0rc1",
    ),
    Limit(
        "no report of this family with pipeline parallelism: blank in the support matrix",
        _SUPPORT_MATRIX,
        lambda case: (
            case.layout.pipeline > 1 and case.shape.model_type not in _RUN_IN_PIPELINE
        ),
    ),
    Limit(
        "pipeline with expert parallelism: known from the code alone, no report that it runs",
        _COMMUNICATION,
        lambda case: _spreads_experts(case) and case.layout.pipeline > 1,
        until="0.18.0rc1",
    ),
    Limit(
        "expert parallelism under Ray on one host: broken in this release, use `mp`",
        "notes of v0.11.0rc2 (#4123)",
        lambda case: _spreads_experts(case) and case.hosts == 1 and case.backend == "ray",
        since="0.11.0rc1",
        until="0.11.0rc3",
        fails=True,
    ),
    Limit(
        "data with expert parallelism over two hosts: there are reports of failed starts, and that "
        "it starts without expert parallelism",
        "#4250, #4260, #3378, #3800",
        lambda case: _spreads_experts(case) and case.hosts > 1 and case.layout.data > 1,
        since="0.11.0rc0",
        until="0.11.0rc2",
        fails=True,
    ),
    Limit(
        "pipeline or data parallelism under Ray over several hosts: an open report that neither "
        "starts while tensor parallelism does",
        "#10910",
        lambda case: (
            case.hosts > 1
            and (case.layout.pipeline > 1 or case.layout.data > 1)
            and case.backend == "ray"
        ),
        since="0.19.1rc1",
        until="0.20.2rc1",
        fails=True,
    ),
    Limit(
        "tensor parallelism over more than two hosts: no public measurement",
        "looked for in vllm-ascend's issues, benchmarks and tutorials",
        lambda case: case.layout.tensor > 16 and case.family == "A2",
    ),
    Limit(
        "each expert is split into fewer than 16 columns, less than the matrix unit takes at once: "
        "no report that it runs",
        "CANN: the cube unit multiplies 16×16×16",
        lambda case: (
            case.shape.experts > 0
            and not case.layout.expert
            and case.shape.expert_size < 16 * case.layout.expert_ranks
        ),
    ),
    Limit(
        "data with expert parallelism: too few streams to capture graphs; use eager mode",
        "notes of v0.10.0rc1 (#2229)",
        lambda case: _spreads_experts(case) and case.layout.data > 1,
        since="0.10.0rc1",
        until="0.10.1rc1",
        fails=True,
    ),
    Limit(
        "a latent KV cache in NPU graph mode needs 32, 64 or 128 heads on a rank",
        "vllm-ascend docs/source/faqs.md",
        lambda case: (
            case.shape.has_latent_cache
            and case.shape.heads % case.layout.tensor == 0
            and case.shape.heads // case.layout.tensor not in (32, 64, 128)
        ),
        until="0.12.0rc1",
    ),
)  # fmt: skip


FAULTS = tuple(row for row in NOTES if row.fails)


def limits(case: Case, version: str) -> tuple[str, ...]:
    """Return why a release cannot run this, each reason with its source; empty when it may."""
    return (*_too_old(case.shape, version), *_reasons(LIMITS, case, version))


def runs_from(case: Case, version: str) -> str:
    """Return the first release after `version` without a limit against this; "" without any."""
    later = (release.version for release in later_than(version))
    return next((version for version in later if not limits(case, version)), "")


def notes(case: Case, version: str) -> tuple[str, ...]:
    """Return what makes it doubtful that a release runs what `limits` lets pass."""
    return tuple(_reasons(NOTES, case, version))


def faults(case: Case, version: str) -> tuple[str, ...]:
    """Return those notes that report a failure."""
    return tuple(_reasons(FAULTS, case, version))


def _reasons(rows: tuple[Limit, ...], case: Case, version: str) -> Iterator[str]:
    for row in _of_release(rows, version):
        if row.applies(case):
            yield phrase("{reason} ({source})", reason=row.reason, source=row.source)


@lru_cache
def _of_release(rows: tuple[Limit, ...], version: str) -> tuple[Limit, ...]:
    return tuple(row for row in rows if row.covers(version))


def _too_old(shape: ModelShape, version: str) -> Iterator[str]:
    for need in MODEL_NEEDS:
        if shape.model_type in need.model_types and order(version) < order(need.release):
            yield phrase(
                "{version} is older than {release}, {why} ({source})",
                version=version,
                release=need.release,
                why=need.why,
                source=need.source,
            )
