"""Which parallel layouts a vLLM-Ascend release cannot run, and which nobody was seen to run.

A table: from release to release, on which chips, for which layouts, why, and who says so. `#N` is
an issue or pull request of vllm-project/vllm-ascend, `notes of` a release are in its
docs/source/user_guide/release_notes.md. Nothing here was verified on NPU hardware by us.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from ropeway.engines.ascend_releases import MODEL_NEEDS, RELEASES, order
from ropeway.models import ModelShape
from ropeway.spec.model import Layout

_PIPELINE_GUIDE = "vllm-ascend docs/source/user_guide/feature_guide/pipeline_parallel.md"
_SUPPORT_MATRIX = "vllm-ascend docs/source/user_guide/support_matrix/supported_models.md"
_COMMUNICATION = "vllm-ascend vllm_ascend/ascend_forward_context.py"

# `model_type` of families with a tick under "Pipeline Parallel" in the support matrix, or with a
# recipe that runs it (Qwen3-VL-30B-A3B on two NPUs, and over two hosts in docs/benchmarks.md).
_SEEN_IN_PIPELINE = frozenset(
    ("deepseek_v3", "deepseek_v32", "glm_moe_dsa", "kimi_k2", "qwen3_vl_moe")
)
# Experts of one rank that MC2 can take on A2, and ranks of an expert group from which it is used.
_MC2_EXPERTS = 24
_MC2_RANKS = 16


@dataclass(frozen=True, slots=True)
class Case:
    """What a row looks at.

    hosts    how many the layout spans
    graph    eager or not
    backend  what joins hosts and places ranks: Ray, or vLLM itself (`mp`)
    """

    layout: Layout
    shape: ModelShape
    family: str
    hosts: int
    graph: str = "full"
    backend: str = "ray"

    @property
    def expert_ranks(self) -> int:
        """Ranks over which the experts of one pipeline stage go."""
        return self.layout.tensor * self.layout.data

    @property
    def experts_each(self) -> int:
        """Whole experts of a layer on one rank."""
        return self.shape.experts // self.expert_ranks


@dataclass(frozen=True, slots=True)
class Limit:
    """A row: `reason` holds for releases from `since` and before `until`, where `applies`.

    refuses  it cannot run; otherwise it is not known to
    """

    reason: str
    source: str
    applies: Callable[[Case], bool]
    since: str = ""
    until: str = ""
    refuses: bool = True

    def covers(self, version: str) -> bool:
        """Whether a release is among those meant."""
        era = order(version)
        return not (
            (self.since and era < order(self.since)) or (self.until and era >= order(self.until))
        )


def _many(case: Case) -> bool:
    return case.layout.expert and case.expert_ranks > 1


LIMITS = (
    Limit(
        "pipeline parallel is not in the V1 engine of this release",
        "notes of v0.9.1 and v0.10.0rc1 (#1800)",
        lambda case: case.layout.pipeline > 1,
        until="0.9.2rc1",
    ),
    Limit(
        "pipeline parallel does not work with Ray and graph mode in this release",
        "notes of v0.9.2rc1 (#1751, #1754)",
        lambda case: case.layout.pipeline > 1 and case.graph != "eager" and case.backend == "ray",
        since="0.9.2rc1",
        until="0.10.0rc1",
    ),
    # MC2 is chosen when tensor × pipeline × data is 16 or more, but the experts of one stage have
    # fewer ranks than it can work with.
    Limit(
        "pipeline with expert parallel: MC2 is chosen by the ranks of all stages, and the experts "
        "of one stage have fewer than the 16 it needs; the start ends in error 507014",
        "#3529; fixed by #4054, in v0.12.0rc1",
        lambda case: (
            _many(case)
            and case.family == "A2"
            and case.layout.pipeline > 1
            and case.layout.npus >= _MC2_RANKS > case.expert_ranks
        ),
        since="0.10.2rc1",
        until="0.12.0rc1",
    ),
    Limit(
        "expert parallel does not work with Ray in this release",
        "notes of v0.11.0rc2 (#4123)",
        lambda case: _many(case) and case.hosts > 1 and case.backend == "ray",
        since="0.11.0rc1",
        until="0.11.0rc3",
    ),
    Limit(
        "more than 24 experts on a rank, which MC2 cannot dispatch and is chosen all the same",
        "#7635; fixed by #7364, in v0.18.0rc1",
        lambda case: (
            _many(case)
            and case.family == "A2"
            and case.expert_ranks >= _MC2_RANKS
            and case.experts_each > _MC2_EXPERTS
        ),
        since="0.10.2rc1",
        until="0.18.0rc1",
    ),
    Limit(
        "pipeline and data parallel together, of a mixture of experts, over RoCE between hosts: "
        "MoeDistributeDispatch cannot",
        f"{_PIPELINE_GUIDE}, compatibility and limitations",
        lambda case: (
            case.shape.experts > 0
            and case.hosts > 1
            and case.layout.pipeline > 1
            and case.layout.data > 1
            and case.family != "A3"
        ),
    ),
    Limit(
        "tensor parallel of 16 or more leaves Qwen3-Next heads that FIA does not take",
        "notes of v0.18.0rc1 (#7729)",
        lambda case: case.shape.model_type == "qwen3_next" and case.layout.tensor >= 16,
    ),
    Limit(
        "expert parallel does not work for Qwen3-Next in this release",
        "notes of v0.10.2rc1",
        lambda case: _many(case) and case.shape.model_type == "qwen3_next",
        since="0.10.2rc1",
        until="0.11.0rc0",
    ),
)

NOTES = (
    Limit(
        "no report of this family in pipeline parallel: its row of the support matrix is blank",
        _SUPPORT_MATRIX,
        lambda case: (
            case.layout.pipeline > 1 and case.shape.model_type not in _SEEN_IN_PIPELINE
        ),
        refuses=False,
    ),
    Limit(
        "pipeline with expert parallel: read from the code only, no report that it runs",
        _COMMUNICATION,
        lambda case: _many(case) and case.layout.pipeline > 1,
        until="0.18.0rc1",
        refuses=False,
    ),
    Limit(
        "expert parallel under Ray on one host: broken with Ray in this release, use `mp`",
        "notes of v0.11.0rc2 (#4123)",
        lambda case: _many(case) and case.hosts == 1 and case.backend == "ray",
        since="0.11.0rc1",
        until="0.11.0rc3",
        refuses=False,
    ),
    Limit(
        "data with expert parallel over two hosts: starts that failed were reported, without "
        "expert parallel it came up",
        "#4250, #4260, #3378, #3800",
        lambda case: _many(case) and case.hosts > 1 and case.layout.data > 1,
        since="0.11.0rc0",
        until="0.11.0rc2",
        refuses=False,
    ),
    Limit(
        "pipeline or data parallel under Ray over several hosts: an open report that neither "
        "starts while tensor parallel does",
        "#10910",
        lambda case: (
            case.hosts > 1
            and (case.layout.pipeline > 1 or case.layout.data > 1)
            and case.backend == "ray"
        ),
        since="0.19.1rc1",
        until="0.20.2rc1",
        refuses=False,
    ),
    Limit(
        "tensor parallel over more than two hosts: no public measurement of it",
        "looked for in vllm-ascend's issues, benchmarks and tutorials",
        lambda case: case.layout.tensor > 16 and case.family == "A2",
        refuses=False,
    ),
    Limit(
        "each expert cut into slices of fewer than 16 columns, less than the matrix unit takes at "
        "once: no report of that",
        "CANN: the cube unit multiplies 16×16×16",
        lambda case: (
            case.shape.experts > 0
            and not case.layout.expert
            and case.shape.expert_size < 16 * case.expert_ranks
        ),
        refuses=False,
    ),
    Limit(
        "data with expert parallel: too few streams to capture graphs; run it eager",
        "notes of v0.10.0rc1 (#2229)",
        lambda case: _many(case) and case.layout.data > 1,
        since="0.10.0rc1",
        until="0.10.1rc1",
        refuses=False,
    ),
    Limit(
        "a latent cache in NPU graph mode wants 32, 64 or 128 heads on a rank",
        "vllm-ascend docs/source/faqs.md",
        lambda case: (
            case.shape.has_latent_cache
            and case.shape.heads % case.layout.tensor == 0
            and case.shape.heads // case.layout.tensor not in (32, 64, 128)
        ),
        until="0.12.0rc1",
        refuses=False,
    ),
)  # fmt: skip


def limits(
    layout: Layout,
    shape: ModelShape,
    version: str,
    family: str,
    hosts: int,
    *,
    graph: str = "full",
    backend: str = "ray",
) -> tuple[str, ...]:
    """Why a release cannot run a layout, each with its source; empty when nothing is against it."""
    case = Case(layout, shape, family, hosts, graph, backend)
    return (*_too_old(shape, version), *_found(LIMITS, case, version))


def runs_from(
    layout: Layout,
    shape: ModelShape,
    version: str,
    family: str,
    hosts: int,
    *,
    backend: str = "ray",
) -> str:
    """The first release after `version` that nothing is known against; "" when there is none."""
    later = (row.version for row in RELEASES if order(row.version) > order(version))
    return next(
        (one for one in later if not limits(layout, shape, one, family, hosts, backend=backend)), ""
    )


def notes(
    layout: Layout,
    shape: ModelShape,
    version: str,
    family: str,
    hosts: int,
    *,
    backend: str = "ray",
) -> tuple[str, ...]:
    """What makes it doubtful that a release runs a layout which `limits` lets pass."""
    case = Case(layout, shape, family, hosts, backend=backend)
    return tuple(_found(NOTES, case, version))


def _found(rows: tuple[Limit, ...], case: Case, version: str) -> Iterator[str]:
    for row in _of_release(rows, version):
        if row.applies(case):
            yield f"{row.reason} ({row.source})"


@lru_cache
def _of_release(rows: tuple[Limit, ...], version: str) -> tuple[Limit, ...]:
    return tuple(row for row in rows if row.covers(version))


def _too_old(shape: ModelShape, version: str) -> Iterator[str]:
    for need in MODEL_NEEDS:
        if shape.model_type in need.model_types and order(version) < order(need.release):
            yield f"{version} is older than {need.release}, {need.why} ({need.source})"
