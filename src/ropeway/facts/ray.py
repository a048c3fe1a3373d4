"""What Ray says of its cluster: nodes, resources, failures.

The layouts are those of Ray's sources: `format_info_string` of autoscaler/_private/util.py from 1.x
(Healthy, Usage, Demands) to 2.60 (Active, Idle, Total Usage, Pending Demands),
`ClusterStatusFormatter` of autoscaler/v2/utils.py, and util/state/state_cli.py.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ropeway.facts.base import Output, Reading, ToolError
from ropeway.facts.printed import (
    at,
    decimal,
    documents,
    flag_at,
    line_at,
    printed,
    read_table,
    refusal,
    seen,
    text_at,
)

# Where Ray is in a container, these are asked inside it.
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "ray-status": ("ray", "status"),
    "ray-nodes": ("ray", "list", "nodes", "--format", "json"),
}

Unit = Literal["count", "bytes"]


@dataclass(frozen=True)
class Resource:
    """What the cluster, or a node, has of something: `CPU`, `NPU`, `memory`, …

    used      None where the output tells only what there is
    reserved  part of `total` that placement groups hold, and what is used of that part
    """

    name: str
    used: float | None
    total: float
    unit: Unit = "count"
    reserved: float | None = None
    reserved_used: float | None = None


@dataclass(frozen=True)
class NodeGroup:
    """Nodes of one type; without an autoscaler every node is a type of its own, `node_<id>`."""

    count: int
    name: str


@dataclass(frozen=True)
class NodeUsage:
    """One node, with `ray status -v` only."""

    name: str
    id: str | None
    resources: tuple[Resource, ...]
    activity: tuple[str, ...]


@dataclass(frozen=True)
class RayStatus:
    """`ray status`. The cluster has `active` and `idle` nodes; a lost one is a failure.

    time  of Ray's own clock, as printed
    """

    time: str | None
    active: tuple[NodeGroup, ...]
    idle: tuple[NodeGroup, ...]
    pending: tuple[str, ...]
    failures: tuple[str, ...]
    resources: tuple[Resource, ...]
    demands: tuple[str, ...]
    constraints: tuple[str, ...]
    nodes: tuple[NodeUsage, ...]


@dataclass(frozen=True)
class RayNode:
    """One row of `ray list nodes`; `state` is ALIVE or DEAD."""

    id: str
    address: str | None
    head: bool | None
    state: str | None
    message: str | None
    resources: tuple[Resource, ...]


@dataclass(frozen=True)
class RayNodes:
    """Every node that Ray remembers, dead ones among them."""

    nodes: tuple[RayNode, ...]


def parse_ray_status(text: str) -> Reading[RayStatus]:
    """Read `ray status`, with -v or without. That no cluster runs is an error of the tool."""
    out = printed(text, "ray")
    draft = _Draft()
    for line in out.lines:
        if not draft.read(line):
            draft.unread.append(line)
    if not draft.known:
        said = _NO_CLUSTER.search(text[:200_000])
        if said:
            return Reading.failed(ToolError("failed", line_at(text, said.start())), text)
        return refusal(text)
    return Reading.of(draft.done(), tuple(draft.unread), cut=out.cut or not draft.resources)


def parse_ray_nodes(text: str) -> Reading[RayNodes]:
    """Read `ray list nodes`: JSON, YAML (`--detail`) or the table."""
    found = documents(text, "ray")
    items = [
        item for value in found.values for item in (value if isinstance(value, list) else [value])
    ]
    nodes = [node for item in items if (node := _node(item))]
    if nodes:
        return Reading.of(RayNodes(tuple(nodes)), found.unread, cut=found.cut)
    out = printed(text, "ray")
    rows, unread = _table_rows(out.lines)
    nodes = [node for row in rows or _yaml_rows(out.lines) if (node := _node(row))]
    if nodes:
        # YAML ends with `...`, which is no elision.
        return Reading.of(RayNodes(tuple(nodes)), unread, cut=out.cut and bool(rows))
    said = _NO_CLUSTER.search(text[:200_000])
    if said:
        return Reading.failed(ToolError("failed", line_at(text, said.start())), text)
    return refusal(text)


@dataclass
class _Draft:
    """A RayStatus while its lines are read, section by section."""

    known: bool = False
    section: str = ""
    time: str | None = None
    resources: list[Resource] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    _groups: dict[str, list[NodeGroup]] = field(default_factory=dict)
    _texts: dict[str, list[str]] = field(default_factory=dict)
    _nodes: list[dict[str, Any]] = field(default_factory=list)

    def read(self, line: str) -> bool:
        """Whether the line was understood."""
        plain = line.strip()
        banner = _BANNER.match(plain)
        node = _NODE.match(plain)
        title = _SECTIONS.get(plain.rstrip(" :").lower()) if ":" in plain else None
        if banner:
            self.known, self.time = True, banner[1].strip() or None
        elif node:
            self._nodes.append({"name": node[1], "id": None, "resources": [], "activity": []})
            self.section = "node"
        elif title:
            self.known, self.section = True, title
        elif plain in ("Node status", "Resources") or _IGNORED.match(plain):
            pass
        else:
            return self._read_entry(plain)
        return True

    def done(self) -> RayStatus:
        return RayStatus(
            time=self.time,
            active=tuple(self._groups.get("active", ())),
            idle=tuple(self._groups.get("idle", ())),
            pending=tuple(self._texts.get("pending", ())),
            failures=tuple(self._texts.get("failures", ())),
            resources=tuple(self.resources),
            demands=tuple(self._texts.get("demands", ())),
            constraints=tuple(self._texts.get("constraints", ())),
            nodes=tuple(
                NodeUsage(n["name"], n["id"], tuple(n["resources"]), tuple(n["activity"]))
                for n in self._nodes
            ),
        )

    def _read_entry(self, plain: str) -> bool:
        if _NONE.fullmatch(plain):
            return self.known
        inside = self._nodes[-1] if self._nodes else None
        if self.section in ("active", "idle"):
            group = _GROUP.fullmatch(plain)
            if group:
                self._groups.setdefault(self.section, []).append(NodeGroup(int(group[1]), group[2]))
            return group is not None
        if self.section == "usage":
            resource = _resource(plain)
            if resource:
                (inside["resources"] if inside else self.resources).append(resource)
            return resource is not None
        if self.section == "activity" and inside:
            inside["activity"].append(plain)
            return True
        if self.section == "node" and inside:
            key, _, value = plain.partition(":")
            inside["id"] = value.strip() if key == "Id" else inside["id"]
            return key in ("Id", "Idle")
        if self.section in ("pending", "failures", "demands", "constraints"):
            self._texts.setdefault(self.section, []).append(plain)
            return True
        return False


def _resource(line: str) -> Resource | None:
    """`2.0/16.0 NPU (2.0 used of 2.0 reserved in placement groups)`, `0B/3.91TiB memory`."""
    found = _RESOURCE.match(_SPLIT_NUMBER.sub(r"\1.\2", line))
    if not found:
        return None
    unit = found[4] or found[2]
    used, total = _amount(found[1], found[2] or unit), _amount(found[3], unit)
    if total is None:
        return None
    reserved = _RESERVED.search(found[6] or "")
    return Resource(
        name=found[5],
        used=used,
        total=total,
        unit="bytes" if unit else "count",
        reserved=_amount(reserved[3], reserved[4]) if reserved else None,
        reserved_used=_amount(reserved[1], reserved[2]) if reserved else None,
    )


def _amount(number: str, unit: str | None) -> float | None:
    value = decimal(number.partition("e")[0])
    if value is None:
        return None
    if unit:
        return float(round(value * _FACTORS[unit]))
    return 0.0 if "e-" in number else value


def _node(item: object) -> RayNode | None:
    identity = text_at(item, "node_id")
    if not identity:
        return None
    head = at(item, "is_head_node")
    resources = at(item, "resources_total")
    named = resources if isinstance(resources, Mapping) else {}
    return RayNode(
        id=identity,
        address=text_at(item, "node_ip"),
        head=flag_at(item, "is_head_node")
        if not isinstance(head, str)
        else {"true": True, "false": False}.get(head.lower()),
        state=text_at(item, "state"),
        message=text_at(item, "state_message"),
        resources=tuple(
            resource
            for name, value in named.items()
            if not str(name).startswith("node:")  # Ray adds one for each address
            if (resource := _total(str(name), value))
        ),
    )


def _total(name: str, value: object) -> Resource | None:
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) > _MOST):
        return None
    if isinstance(value, int | float):
        # The plain API gives bytes as a number, the command line as text.
        return Resource(name, None, float(value), "bytes" if name in _MEMORIES else "count")
    found = _QUANTITY.fullmatch(value.strip()) if isinstance(value, str) else None
    total = _amount(found[1], found[2]) if found else None
    if not found or total is None:
        return None
    return Resource(name, None, total, "bytes" if found[2] or name in _MEMORIES else "count")


def _yaml_rows(lines: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """`ray list nodes --detail`: a YAML list of maps, each with the maps resources and labels."""
    row: dict[str, Any] = {}
    inner: dict[str, str] | None = None
    for line in lines:
        found = _YAML.match(line)
        if not found:
            continue
        dash, key, value = found[1], found[2], found[3].strip().strip("'\"")
        value = value.removeprefix("null")
        if key == "node_id":
            if row:
                yield row
            row = {}
        if key in ("resources_total", "labels"):
            inner = row[key] = {}
        elif inner is not None and (key not in _NODE_KEYS) and not dash:
            inner[key] = value
        else:
            inner = None
            row[key] = value
    if row:
        yield row


def _table_rows(lines: tuple[str, ...]) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """A row begins with its number, which has no column; the last cells go on in further lines."""
    start = next((n for n, line in enumerate(lines) if "NODE_ID" in line), len(lines))
    body = [_ROW_NUMBER.sub(lambda found: " " * len(found[0]), line) for line in lines[start:]]
    table, unread = read_table(body, ("NODE_ID",), alone=True)
    rows: list[dict[str, Any]] = []
    for cells in table or []:
        entry = {key.lower(): value for key, value in cells.items()}
        identity = _NODE_ID.search(entry.get("node_id", ""))
        if identity:
            rows.append({**entry, "node_id": identity[1], "resources_total": {}})
        key, colon, value = entry.get("resources_total", "").rpartition(": ")
        if rows and colon:
            rows[-1]["resources_total"][key] = value
    return rows, unread


_FACTORS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50}
_MOST = 10**18
_MEMORIES = frozenset(("memory", "object_store_memory"))
_NODE_KEYS = frozenset(
    ("node_id", "node_ip", "is_head_node", "state", "state_message", "node_name",
     "resources_total", "labels", "start_time_ms", "end_time_ms"),
)  # fmt: skip
_SECTIONS = {
    "active": "active",
    "healthy": "active",
    "idle": "idle",
    "pending": "pending",
    "recent failures": "failures",
    "usage": "usage",
    "total usage": "usage",
    "demands": "demands",
    "total demands": "demands",
    "pending demands": "demands",
    "constraints": "constraints",
    "total constraints": "constraints",
    "from request_resources": "constraints",
    "activity": "activity",
}
_BANNER = re.compile(r"=+ ?(?:Autoscaler|Cluster) status ?:([^=]{0,60})=*$")
_NODE = re.compile(r"Node: (\S.{0,200})$")
_IGNORED = re.compile(
    r"[-=]{4,}$|GCS request time|Node Provider non_terminated|Autoscaler iteration time"
    r"|[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:,.]{8,15}\s.{0,60}(?:INFO|WARNING)"
)
_NONE = re.compile(r"\((?:no [^()]{1,60}|none|no request_resources\(\) constraints)\s*\)")
_GROUP = re.compile(r"([0-9]{1,6}) (\S.{0,200})")
_NUMBER = r"([0-9]{1,15}(?:\.[0-9]{1,20})?(?:e-?[0-9]{1,3})?)"
_BYTES_UNIT = r"([KMGTP]iB|B)"
_SPLIT_NUMBER = re.compile(r"([0-9])\. ([0-9])")
_RESOURCE = re.compile(
    rf"{_NUMBER} ?{_BYTES_UNIT}? ?/ ?{_NUMBER} ?{_BYTES_UNIT}? ?([^\s()/]{{1,100}})"
    r"(?: \(([^()]{1,120})\))?$"
)
_RESERVED = re.compile(rf"{_NUMBER} ?{_BYTES_UNIT}? used of {_NUMBER} ?{_BYTES_UNIT}? ?reserved")
_QUANTITY = re.compile(rf"{_NUMBER} ?{_BYTES_UNIT}?")
_YAML = re.compile(r"\s*(- +)?([\w:./-]{1,100}): ?(.*)$")
_NODE_ID = re.compile(r"^([0-9a-f]{28,64})$")
_ROW_NUMBER = re.compile(r"^ *[0-9]{1,5} +(?=[0-9a-f]{28})")
_NO_CLUSTER = re.compile(
    r"Could not find any running Ray instance|No cluster status\.|Ray cluster is not found"
    r"|Failed to connect to GCS|Unable to connect to GCS|Failed to get cluster|Ray version mismatch"
    r"|Found multiple active Ray instances|Failed to connect to API server"
)
_STATUS_LINE = re.compile(
    r"^[> \t]*=+ ?(?:Autoscaler|Cluster) status ?:|^[> \t]*Node status\s*$", re.MULTILINE
)
_NODES_LINE = re.compile(
    r"^[> \t]*NODE_ID +NODE_IP +IS_HEAD_NODE|\bis_head_node\"?: ", re.MULTILINE
)
OUTPUTS: tuple[Output[Any], ...] = (
    Output(
        "ray-status", "ray status", parse_ray_status, lambda text: seen(text, 0.95, _STATUS_LINE)
    ),
    Output(
        "ray-nodes", "ray list nodes", parse_ray_nodes, lambda text: seen(text, 0.95, _NODES_LINE)
    ),
)
