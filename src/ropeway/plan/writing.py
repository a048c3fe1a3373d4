"""A plan put into a spec: the new values, and the edits of the file that holds them."""

from ropeway.errors import Refused
from ropeway.plan.candidate import Plan
from ropeway.plan.fit import search_of
from ropeway.spec.editing import Edit, planned_keys
from ropeway.spec.model import Spec, dump_spec, parse_spec

_OURS = ("planner", "default")  # sources of values that the user did not set
_REPLANNED = ("context", "memory", "max_sequences")


def without_planned(spec: Spec, text: str) -> Spec:
    """Return the spec without the values that an earlier plan put into its text."""
    planned = planned_keys(text)
    blanks = {key: None for key in _REPLANNED if ("serve", key) in planned}
    return spec.model_copy(update={"serve": spec.serve.model_copy(update=blanks)})


def written(spec: Spec, plan: Plan) -> Spec:
    """Return the spec with the choice in it, as if written by hand. Raises Refused without one."""
    chosen = plan.chosen
    if chosen is None:
        raise Refused("there is no choice to write: nothing fits", evidence=plan.missing or ())
    update: dict[str, object] = {
        "layout": chosen.layout,
        "context": search_of(plan.request).context,
        "max_sequences": chosen.max_sequences,
    }
    if spec.serve.kv_cache is None and chosen.fraction:
        update["memory"] = chosen.fraction
    if plan.request.chip is not None:
        update["version"] = plan.request.traits.version
    serve = spec.serve.model_copy(update=update)
    return parse_spec(dump_spec(spec.model_copy(update={"serve": serve})), "the plan")


def edits(before: Spec, after: Spec, plan: Plan) -> list[Edit]:
    """Return an edit for every key that the plan chose or changed, each with its reason."""
    reasons = {value.key: value for value in plan.values if value.source in _OURS}
    result = []
    for section in ("cluster", "serve", "workload"):
        old, new = section_of(before, section), section_of(after, section)
        for key in dict.fromkeys((*new, *old)):
            reason = reasons.get(f"{section}.{key}") if key in new else None
            if reason or old.get(key) != new.get(key):
                result.append(Edit((section, key), new.get(key), reason.why if reason else ""))
    return result


def changes(before: Spec, edits: list[Edit]) -> list[dict[str, object]]:
    """Return key, old and new value of every edit that changes something."""
    rows = []
    for edit in edits:
        section, key = edit.path
        old = section_of(before, section).get(key)
        if old != edit.value:
            rows.append({"key": f"{section}.{key}", "before": old, "after": edit.value})
    return rows


def section_of(spec: Spec, name: str) -> dict[str, object]:
    """Return a section of the spec as plain data."""
    section = spec.as_json()[name]
    assert isinstance(section, dict)
    return section
