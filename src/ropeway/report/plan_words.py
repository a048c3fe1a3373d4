"""What a plan's screen, page and document say alike: what was asked, what forecasts are worth."""

from ropeway.phrases import Phrase, count, phrase
from ropeway.plan.candidate import Plan, PlanRequest
from ropeway.report.figures import milliseconds, percent, rate
from ropeway.report.line import one_line

_LABEL = phrase("predicted; not verified on NPU hardware")
_LOCAL_LABEL = phrase("predicted from constants measured on this machine")


def request_words(request: PlanRequest) -> tuple[Phrase, tuple[Phrase, ...]]:
    """Return what is planned, `Qwen3-32B on 2 hosts × 8 910B4`, and for what, part by part."""
    cluster, load = request.cluster, request.load
    values = {
        "model": one_line(request.model_name),
        "hosts": count(cluster.host_count, "{n:,} host", "{n:,} hosts"),
        "chip": request.chip.name if request.chip else "virtual NPUs",
    }
    each, total = cluster.npus_per_host, cluster.total_npus
    what = phrase("{model} on {hosts} × {npus} {chip}", npus=each, **values)
    if cluster.host_count * each != total:
        what = phrase("{model} on {hosts} with {npus} {chip} in all", npus=total, **values)
    parts = [phrase("with {file}", file=one_line(request.spec_file))] if request.spec_file else []
    if request.chip:
        version, graph = request.traits.version, request.traits.graph
        if asked := request.traits.asked:
            version = phrase("{asked} (taken as {version})", asked=asked, version=version)
        parts.append(phrase("vLLM-Ascend {version}, graph {graph}", version=version, graph=graph))
    if request.free_clients:
        arrivals = phrase("as many clients as suit")
    elif load.clients is None:
        arrivals = phrase("{rate} requests per second", rate=rate(load.rate))
    else:
        arrivals = phrase("{n:,} clients", n=load.clients)
    words = "{arrivals}, {inputs:,} tokens in"
    if not request.reads_only:
        words = "{arrivals}, {inputs:,} tokens in, {outputs:,} out"
    parts.append(
        phrase(words, arrivals=arrivals, inputs=load.input_tokens, outputs=load.output_tokens)
    )
    if request.task != "generate":
        parts.insert(-1, request.task_words)
    if request.job_prompts:
        parts.append(phrase("averaged over a job of {n:,} prompts", n=request.job_prompts))
    if request.context:
        parts.append(phrase("context {n:,}", n=request.context))
    parts.append(phrase("objective: {objective}", objective=phrase(request.objective)))
    if request.tpot_s is not None:
        parts.append(phrase("at most {time} per token", time=milliseconds(request.tpot_s * 1000)))
    if request.ttft_s is not None:
        time = milliseconds(request.ttft_s * 1000)
        parts.append(phrase("at most {time} to the first token", time=time))
    return what, tuple(parts)


def no_answer(plan: Plan) -> str:
    """Say that there is no choice, and of whom it is."""
    if not plan.rejected:
        return phrase("there is no layout")
    if plan.release_runs_none:
        release = plan.request.traits.version
        return phrase("vLLM-Ascend {release} runs no layout of this model here", release=release)
    return phrase("nothing fits the request")


def honesty(plan: Plan) -> str:
    """Return the label of every forecast."""
    return _LABEL if plan.request.chip else _LOCAL_LABEL


def typical_error(plan: Plan) -> str:
    """Say how far measurements were from forecasts like the chosen: what its interval means."""
    if plan.chosen is None or plan.request.chip is None:
        return ""
    if plan.beyond_measured:
        return phrase("beyond all measurements: how many would lie in these ranges is not known")
    forecast = plan.chosen.forecast
    below = percent(1 - forecast.output_low / forecast.output_tokens_per_s)
    above = percent(forecast.output_high / forecast.output_tokens_per_s - 1)
    return phrase("80% of measurements: -{below} to +{above}", below=below, above=above)
