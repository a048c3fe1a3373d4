"""Which parallel layouts a model can run in on a cluster, and the nearest to one that it cannot.

The rules are vLLM's own, read in vLLM 0.32.0; each function names the place. Only certain failures
are refused: memory is not considered, nor what config.json alone does not say (vision heads, shared
experts, layers that must stay in the first stage).
"""

from collections.abc import Iterator
from math import ceil, log2

from ropeway.engines.placement import HostSizes, data_ranks_that_fit, host_sizes, hosts_needed
from ropeway.errors import LayoutError
from ropeway.models.shape import ModelShape
from ropeway.phrases import Phrase, count, joined, phrase
from ropeway.plan.shards import VOCAB_PADDING
from ropeway.spec.cluster import Cluster
from ropeway.spec.model import Layout

# `model_type` of families whose block refuses more tensor ranks than experts, with or without
# expert parallel: Qwen2MoeSparseMoeBlock, Qwen3MoeSparseMoeBlock, Qwen3NextSparseMoeBlock and
# MiniMaxM2MoE in vllm/model_executor/models. Mixtral and DeepSeek do not.
_TENSOR_WITHIN_EXPERTS = frozenset(
    ("minimax_m2", "qwen2_moe", "qwen3_5_moe", "qwen3_moe", "qwen3_next", "qwen3_vl_moe")
)

# `working` tries every pipeline and data size up to here, and rounder ones beyond.
_EVERY_SIZE_TO = 16
_LARGEST_SIZE = 65_536  # of spec.Count


def check(layout: Layout, shape: ModelShape, cluster: Cluster, model_name: str = "") -> None:
    """Raise LayoutError unless `layout` can run: all reasons, and the nearest that can."""
    reasons = problems(layout, shape, cluster)
    if not reasons:
        return
    names = joined((f"`{name}`" for name in nearest(layout, shape, cluster)), ", ")
    hint = phrase("nearest that work: {names}", names=names)
    if not names:
        hint = phrase("none works with these sizes of context parallelism (PCP, DCP)")
    raise LayoutError(
        phrase(
            "layout `{layout}` cannot run {model} on {cluster}"
            if model_name
            else "layout `{layout}` cannot run this model on {cluster}",
            layout=layout,
            model=model_name,
            cluster=_cluster_words(cluster),
        ),
        evidence=reasons,
        hint=hint,
    )


def problems(layout: Layout, shape: ModelShape, cluster: Cluster) -> tuple[str, ...]:
    """Return every reason why `layout` cannot run, each with its numbers.

    One NPU (`TP1`) never has a problem.
    """
    return (*_shape_problems(layout, shape), *_npu_problems(layout, cluster))


def working(
    shape: ModelShape, cluster: Cluster, contexts: tuple[int, int] = (1, 1)
) -> tuple[Layout, ...]:
    """Return the layouts that can run, those with the fewest NPUs first.

    All have the sizes of context parallelism (prefill, decode) that are given.

    Of equal size: `TP4`, `TP2×PP2`, `PP4`, `DP2×TP2`, `DP4`, and those with EP after all without.

    Complete while no pipeline or data size is above 16. Beyond that, so that 1,000 hosts do not
    give 100,000 layouts: 24, 32, 48, 64 … and whatever takes all layers or all NPUs.
    """
    fitting = _that_fit(shape, cluster, contexts)
    able = (item for item in fitting if not any(_shape_problems(item, shape)))
    return tuple(sorted(able, key=_order))


def nearest(
    layout: Layout, shape: ModelShape, cluster: Cluster, number: int = 3
) -> tuple[Layout, ...]:
    """Return the `number` layouts nearest to `layout` that can run, itself first when it can.

    Near means, in this order: as many NPUs (by the factor between the two), the same kinds of
    parallelism, small factors between the sizes, fewer NPUs. All but `layout` are of `working`.
    EP over a single rank, which does nothing, comes last.
    """
    able = working(shape, cluster, layout.contexts)
    if layout not in able and not problems(layout, shape, cluster):
        able = (layout, *able)
    return tuple(sorted(able, key=lambda item: _distance(layout, item))[:number])


def hosts_of(layout: Layout, cluster: Cluster) -> int:
    """Return on how many hosts the ranks live; the cluster must have room for them."""
    number = hosts_needed(layout, host_sizes_of(cluster))
    assert number is not None
    return number


def _shape_problems(layout: Layout, shape: ModelShape) -> Iterator[str]:
    yield from _tensor_problems(layout, shape)
    yield from _context_problems(layout, shape)
    # get_pp_indices (vllm/distributed/utils.py) gives layers // stages to each and spreads the
    # rest, so uneven stages are fine, but more stages than layers leave some empty.
    if layout.pipeline > shape.layers:
        yield phrase(
            "pipeline parallel {pipeline} is deeper than the model's {layers} layers",
            pipeline=layout.pipeline,
            layers=shape.layers,
        )
    yield from _expert_problems(layout, shape)


def _tensor_problems(layout: Layout, shape: ModelShape) -> Iterator[str]:
    """Yield what tensor parallel does not divide evenly.

    Heads: ModelConfig.verify_with_parallel_config (vllm/config/model.py). KV heads:
    QKVParallelLinear (layers/linear.py); tensor ranks beyond the KV heads hold copies. A compressed
    latent (MLA) is one KV head for all (ModelConfig.get_num_kv_heads). Dense width:
    MergedColumnParallelLinear. Vocabulary: VocabParallelEmbedding pads it to a multiple of 64 and
    divides that. Expert width is in `_expert_problems`.
    """
    tensor = layout.tensor
    if shape.heads % tensor:
        yield phrase(
            "tensor parallel {tensor} does not divide {heads} attention heads",
            tensor=tensor,
            heads=shape.heads,
        )
    many, few = max(tensor, shape.kv_heads), min(tensor, shape.kv_heads)
    if many % few and not shape.has_latent_cache:
        yield phrase(
            "tensor parallel {tensor} and {heads} KV heads: neither divides the other, "
            "so the KV heads can be neither split nor copied evenly",
            tensor=tensor,
            heads=shape.kv_heads,
        )
    if not shape.experts and shape.intermediate_size % tensor:
        yield phrase(
            "tensor parallel {tensor} does not divide the feed-forward width {width}",
            tensor=tensor,
            width=shape.intermediate_size,
        )
    padded = ceil(shape.vocab_size / VOCAB_PADDING) * VOCAB_PADDING
    if padded % tensor:
        yield phrase(
            "tensor parallel {tensor} does not divide the vocabulary of {tokens:,} tokens "
            "(padded to {padded:,})",
            tensor=tensor,
            tokens=shape.vocab_size,
            padded=padded,
        )


def _context_problems(layout: Layout, shape: ModelShape) -> Iterator[str]:
    """Yield why decode context parallel cannot deal out the cache over tensor ranks.

    A latent is on every rank; of KV heads only the copies are (ParallelConfig and
    ModelConfig.verify_with_parallel_config of vLLM 0.12 to 0.32; with prefill context parallel,
    0.32 has other rules, and no release of vLLM-Ascend was built on it).
    """
    decode, tensor = layout.decode_context, layout.tensor
    if decode == 1:
        return
    if tensor % decode:
        yield phrase(
            "decode context parallel {decode} does not divide tensor parallel {tensor}",
            decode=decode,
            tensor=tensor,
        )
    elif not shape.has_latent_cache and (tensor // shape.kv_heads) % decode:
        yield phrase(
            "decode context parallel {decode} does not divide the number of copies of a KV head, "
            "which is {copies} (tensor parallel {tensor}, KV heads: {heads})",
            decode=decode,
            copies=tensor // shape.kv_heads,
            heads=shape.kv_heads,
            tensor=tensor,
        )
    elif not shape.has_latent_cache and (shape.heads // shape.kv_heads) % decode:
        yield phrase(
            "decode context parallel {decode} does not divide the {heads} query heads of a KV head",
            decode=decode,
            heads=shape.heads // shape.kv_heads,
        )


def _expert_problems(layout: Layout, shape: ModelShape) -> Iterator[str]:
    """Yield the problems of experts, which go whole to ranks (EP) or are each cut into slices.

    FusedMoEParallelConfig.make (layers/fused_moe/config.py): either way over tensor × data ranks,
    within one pipeline stage. Slices: FusedMoEConfig asserts that the width divides. Whole:
    determine_expert_map (expert_map_manager.py) spreads them unevenly where it must, so only a rank
    without an expert is refused. EP on a dense model: ModelConfig._verify_with_expert_parallelism.
    """
    if not shape.experts:
        if layout.expert:
            yield phrase("expert parallel needs a mixture of experts; this model is dense")
        return
    ranks = layout.expert_ranks
    sizes = {"ranks": ranks, "sizes": _product(layout, "tensor", "data")}
    if layout.expert and ranks > shape.experts:
        yield phrase(
            "expert parallel over {ranks} ranks ({sizes}) leaves ranks without an expert: the "
            "model has {experts}",
            **sizes,
            experts=shape.experts,
        )
    if not layout.expert and shape.expert_size % ranks:
        yield phrase(
            "without expert parallel each expert is cut into {ranks} slices ({sizes}), which does "
            "not divide its width {width}",
            **sizes,
            width=shape.expert_size,
        )
    within = shape.model_type in _TENSOR_WITHIN_EXPERTS
    if within and not layout.expert and layout.tensor > shape.experts:
        yield phrase(
            "tensor parallel {tensor} is more than the model's {experts} experts, which vLLM "
            "refuses for `{family}`",
            tensor=layout.tensor,
            experts=shape.experts,
            family=shape.model_type,
        )


def _npu_problems(layout: Layout, cluster: Cluster) -> Iterator[str]:
    """Yield which ranks find no NPU; the ranks of one DP rank need theirs together."""
    total = cluster.total_npus
    if layout.npus > total:
        yield phrase(
            "{sizes} is {ranks} ranks, and the cluster has {npus}",
            sizes=_product(layout, "data", "tensor", "pipeline"),
            ranks=layout.npus,
            npus=_npus(total),
        )
        return
    world_size = layout.world_size
    room = data_ranks_that_fit(world_size, host_sizes_of(cluster))
    if layout.data > 1 and layout.data > room:
        yield phrase(
            "each of {data} DP ranks takes {npus} NPUs ({sizes}) on one host, or in equal parts on "
            "hosts of its own; {cluster} have room for {room}",
            data=layout.data,
            sizes=_product(layout, "tensor", "pipeline"),
            npus=world_size,
            cluster=_cluster_words(cluster),
            room=room,
        )


def host_sizes_of(cluster: Cluster) -> HostSizes:
    """Return how many hosts there are of each size, the largest first."""
    if cluster.local:
        return [(cluster.local.npus, cluster.local.hosts)]
    return host_sizes(host.npus for host in cluster.hosts or ())


def _product(layout: Layout, *keys: str) -> Phrase:
    """Return `tensor 8 × pipeline 2`, and the prefill context ranks, which multiply all of them."""
    sizes = {
        "data": phrase("data {n}", n=layout.data),
        "tensor": phrase("tensor {n}", n=layout.tensor),
        "pipeline": phrase("pipeline {n}", n=layout.pipeline),
    }
    factors = [sizes[key] for key in keys]
    if layout.prefill_context > 1:
        factors.append(phrase("prefill context {n}", n=layout.prefill_context))
    return joined(factors, " × ")


def _cluster_words(cluster: Cluster) -> Phrase:
    """Return `2 hosts of 8 NPUs`, or of unequal hosts `3 hosts of 4 to 8 NPUs (20 in all)`."""
    sizes = host_sizes_of(cluster)
    hosts = count(cluster.host_count, "{n:,} host", "{n:,} hosts")
    if len(sizes) == 1:
        return phrase("{hosts} of {npus}", hosts=hosts, npus=_npus(sizes[0][0]))
    return phrase(
        "{hosts} of {fewest} to {most} NPUs ({total} in all)",
        hosts=hosts,
        fewest=sizes[-1][0],
        most=sizes[0][0],
        total=cluster.total_npus,
    )


def _npus(number: int) -> Phrase:
    return count(number, "{n} NPU", "{n} NPUs")


def _that_fit(shape: ModelShape, cluster: Cluster, contexts: tuple[int, int]) -> Iterator[Layout]:
    """Yield every layout that has enough NPUs, of the sizes that `working` promises."""
    prefill, decode = contexts
    total, hosts = cluster.total_npus // prefill, host_sizes_of(cluster)
    spreads = (False, True) if shape.experts else (False,)
    for tensor in range(1, min(shape.heads, total) + 1):
        if shape.heads % tensor:
            continue
        for pipeline in _sizes(min(shape.layers, total // tensor)):
            rank = tensor * pipeline * prefill
            for data in _sizes(max(1, data_ranks_that_fit(rank, hosts))):
                for expert in spreads:
                    yield Layout(
                        tensor=tensor,
                        pipeline=pipeline,
                        data=data,
                        expert=expert,
                        prefill_context=prefill,
                        decode_context=decode,
                    )


def _sizes(largest: int) -> list[int]:
    """Return 1 to 16, then 24, 32, 48, 64 …, and the largest itself."""
    largest = min(largest, _LARGEST_SIZE)
    rounder = [size for step in range(4, 16) for size in (3 * 2 ** (step - 1), 2 ** (step + 1))]
    sizes = {*range(1, _EVERY_SIZE_TO + 1), *rounder, largest}
    return sorted(size for size in sizes if size <= largest)


def _order(layout: Layout) -> tuple[int, ...]:
    return (layout.npus, layout.expert, layout.data, layout.pipeline)


def _distance(layout: Layout, other: Layout) -> tuple[float, ...]:
    """Return a sort key, smallest for the nearest and unique for each `other`."""
    sizes = [*zip(_grid(layout), _grid(other), strict=True)]
    kinds = [(here > 1, there > 1) for here, there in sizes]
    return (
        other != layout,
        other.expert and other.expert_ranks == 1,
        # Rounded, because equal factors must compare equal, whichever logarithms they came from.
        round(abs(log2(other.npus / layout.npus)), 9),
        sum(here != there for here, there in (*kinds, (layout.expert, other.expert))),
        round(sum(abs(log2(there / here)) for here, there in sizes), 9),
        *_order(other),
    )


def _grid(layout: Layout) -> tuple[int, int, int]:
    return layout.tensor, layout.pipeline, layout.data
