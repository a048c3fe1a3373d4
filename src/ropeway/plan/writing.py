"""A plan put into a spec: the new values, and the edits of the file that holds them."""

from ropeway.engines.ascend_releases import image_tag
from ropeway.errors import Refused
from ropeway.phrases import phrase
from ropeway.plan.candidate import Candidate, Plan
from ropeway.plan.fit import search_of
from ropeway.spec.editing import Edit, reasoned_keys
from ropeway.spec.file import section_of
from ropeway.spec.model import REQUESTS_PER_CLIENT, Serve, Spec, Workload, dump_spec, parse_spec

_OURS = ("planner", "default")  # sources of values that the user did not set
_REPLANNED = {
    "serve": ("context", "memory", "max_sequences", "replicas"),
    "workload": ("clients",),
}
# Names the variable that holds the key, where replicas on several hosts need one.
_KEY_VARIABLE = "ROPEWAY_API_KEY"
_KEY_WORDS = phrase(
    "replicas on several hosts are reached over the network, so they need a key: "
    "export this variable before `ropeway up`"
)


def without_planned(spec: Spec, text: str) -> Spec:
    """Return the spec without the values that an earlier plan put into its text."""
    planned = reasoned_keys(text)
    kept: dict[str, object] = {}
    for section, keys in _REPLANNED.items():
        old: Serve | Workload = getattr(spec, section)
        blank = {key for key in keys if (section, key) in planned}
        # Made anew, so that a key which is gone does not count as set.
        kept[section] = type(old).model_validate(old.model_dump(exclude_unset=True, exclude=blank))
    return spec.model_copy(update=kept)


def written(spec: Spec, plan: Plan) -> Spec:
    """Return the spec with the choice in it, as if written by hand. Raises Refused without one."""
    chosen = plan.chosen
    if chosen is None:
        raise Refused(
            phrase("there is no choice to write: nothing fits"), evidence=plan.missing or ()
        )
    update: dict[str, object] = {
        "layout": chosen.layout,
        "replicas": chosen.replicas,
        "context": search_of(plan.request).context,
        "max_sequences": chosen.max_sequences,
    }
    if spec.serve.kv_cache is None and chosen.fraction:
        update["memory"] = chosen.fraction
    if plan.request.chip is not None and image_tag(spec.runtime.image or "") is None:
        engine = plan.request.traits
        update["version"] = engine.asked or engine.version
        if plan.request.sources.get("serve.release_like", "").startswith("--"):
            update["release_like"] = engine.version
    if needs_key(spec.serve, chosen):
        update["api_key_env"] = _KEY_VARIABLE
    made: dict[str, object] = {"serve": spec.serve.model_copy(update=update)}
    if plan.request.free_clients and chosen.clients is not None:
        made["workload"] = _with_clients(spec.workload, chosen.clients)
    return parse_spec(dump_spec(spec.model_copy(update=made)), "the plan")


def _with_clients(workload: Workload, clients: int) -> Workload:
    """Return the workload with so many clients; two requests for each stay two for each."""
    update = {"clients": clients}
    if workload.requests == REQUESTS_PER_CLIENT * workload.clients:
        update["requests"] = REQUESTS_PER_CLIENT * clients
    return workload.model_copy(update=update)


def needs_key(serve: Serve, chosen: Candidate) -> bool:
    """Return whether engines would listen where other hosts reach them, without a key."""
    return chosen.replicas > 1 and chosen.hosts > 1 and serve.api_key_env is None


def edits(before: Spec, after: Spec, plan: Plan) -> list[Edit]:
    """Return an edit for every key that the plan chose or changed, each with its reason."""
    reasons = {value.key: value for value in plan.values if value.source in _OURS}
    result = []
    for section in ("cluster", "serve", "workload"):
        old, new = section_of(before, section), section_of(after, section)
        for key in dict.fromkeys((*new, *old)):
            reason = reasons.get(f"{section}.{key}") if key in new else None
            if reason or old.get(key) != new.get(key):
                why = reason.why if reason else _KEY_WORDS if key == "api_key_env" else ""
                result.append(Edit((section, key), new.get(key), why))
    return result
