"""The shape of the source: which way imports go, who may touch the outside, how large it gets.

Every rule is read from the syntax trees, function bodies included: there is no lazy way round.
"""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from ropeway.cli.main import VERBS

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "ropeway"

# From the top down. A module imports only from lines below its own, from its own folder, and from
# its own line where that makes no cycle. The longest prefix of a module's name places it.
LAYERS = (
    ("cli",),
    ("sim",),
    ("report",),
    ("doctor", "plan", "launch", "weights"),
    ("facts", "diagnosis", "bench", "batch", "checkpoints"),
    ("hosts", "engines", "endpoint"),
    ("router",),
    ("spec", "models", "hardware"),
    ("units", "suggest", "outside", "streams", "durable"),
    ("phrases",),
    ("errors",),
)
# Two stems that meet only in the verbs: machines are not spoken to over HTTP, endpoints not over
# SSH; and what is decided from facts does not know who else decides.
STRANGERS = (
    (
        {"hosts", "engines", "facts", "doctor", "plan", "launch", "weights"},
        {"endpoint", "bench", "batch"},
    ),
    ({"endpoint", "bench", "batch"}, {"hosts", "engines", "facts"}),
    ({"doctor"}, {"plan", "launch", "weights"}),
    ({"plan"}, {"doctor", "launch", "weights"}),
    ({"launch"}, {"doctor", "plan", "weights"}),
    ({"weights"}, {"doctor", "plan", "launch"}),
)
# report renders results; it does not know how they came about.
REPORT_IMPORTS = {"report", "bench.comparison", "bench.figures", "bench.stats"} | {
    "bench.rounds", "bench.samples", "bench.sides",
    "bench.load_test", "bench.rungs", "bench.tuned", "bench.tuning", "endpoint.stream",
    "units", "errors", "hardware",
    "doctor.finding", "doctor.pings", "diagnosis.result", "phrases", "outside", "models.shape",
    "models.summary",
    "plan.shards", "plan.candidate", "plan.cost", "plan.memory",
    "plan.estimate", "batch.progress", "batch.rows", "batch.input.survey",
}  # fmt: skip

# Who alone may import what.
ONLY = {
    "subprocess": {"hosts"},
    "rich": {"report"},
    "jinja2": {"report"},
    "click": {"cli"},
    "aiohttp": {"endpoint.client", "batch.sending.send", "router"},
    "vllm": {"sim"},
    "torch": {"sim"},
    # the last carries shards where a cluster has it
    "ray": {"sim", "launch.programs", "batch.shards.on_ray"},
}
# Programs that run elsewhere, by themselves: their output is a log, their environment their own.
IN_CONTAINERS = {"launch.programs"}
# local: a process it starts inherits ours; the router is a process of its own, with its key in it
ENVIRONMENT = {"cli", "sim", "hosts.local", "router.__main__", *IN_CONTAINERS}
# The budget of positional parameters and the place of imports are not ours to choose where we
# stand in for the engine's own code.
SIGNATURE_OF_VLLM = {"apply_with_expert_map"}
LATE_IMPORT_FOR_VLLM = {"check_and_update_config"}
MAX_FILE, MAX_FUNCTION, MAX_POSITIONAL = 500, 60, 6

FILES = sorted(SOURCE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def name_of(path: Path) -> str:
    """`spec`, `bench.stats`; the package itself is the empty name."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


TREES = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
SHORT = pytest.mark.parametrize("module", sorted(TREES))


def imports(tree: ast.AST) -> Iterator[str]:
    """The full names of the modules that are imported, wherever that happens."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole.removeprefix("ropeway.") in TREES else str(node.module)


def own_imports(tree: ast.AST) -> set[str]:
    """Of those, our own, without the package's name."""
    names = {name for name in imports(tree) if name.split(".")[0] == "ropeway"}
    return {name.removeprefix("ropeway").removeprefix(".") for name in names} - {""}


def layer(module: str) -> int:
    """The number of the line a module stands on."""
    top = module.split(".")[0].replace("__main__", "cli")
    return next(number for number, line in enumerate(LAYERS) if top in line)


def within(module: str, names: set[str]) -> bool:
    """Whether the module is one of these, or in a folder of these."""
    return any(module == name or module.startswith(f"{name}.") for name in names)


def breaches(module: str, tree: ast.AST) -> list[str]:
    """The imports of ours that point the wrong way."""
    if not module:
        return sorted(own_imports(tree))
    wrong = []
    for target in own_imports(tree):
        upwards = layer(target) < layer(module)
        strange = any(within(module, us) and within(target, them) for us, them in STRANGERS)
        knows_too_much = within(module, {"report"}) and not within(target, REPORT_IMPORTS)
        # What two verbs need belongs to neither: to a package, or a module of cli without a verb.
        verb_to_verb = module != "cli.main" and target in {f"cli.{verb}" for verb in VERBS}
        if upwards or strange or knows_too_much or verb_to_verb:
            wrong.append(target)
    return sorted(wrong)


def outsiders(module: str, tree: ast.AST) -> list[str]:
    """Imports of what this module must leave to others, and reads of the environment."""
    wrong = []
    for target in imports(tree):
        allowed = ONLY.get(target.split(".")[0])
        if allowed is not None and not within(module, allowed):
            wrong.append(target)
    if not within(module, ENVIRONMENT):
        for node in ast.walk(tree):
            named = isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
            taken = isinstance(node, ast.alias) and node.name in ("environ", "getenv")
            if named or taken:
                wrong.append("os.environ")
    return wrong


# What a fault may end at most: one command; in the router one probe, the answer of one replica, and
# one request.
CATCHES = {"cli.main": 1, "router.probe": 1, "router.exchange": 2}


def bad_habits(module: str, tree: ast.AST) -> list[str]:
    """print() outside report, a catch for everything, one of our imports in a function."""
    habits = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
            speaks = within(module, {"report", *IN_CONTAINERS})
            habits += [] if speaks else [f"line {node.lineno}: print()"]
        if isinstance(node, ast.ExceptHandler) and catches_all(node):
            habits.append(f"line {node.lineno}: catches everything")
        if (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and node.name not in LATE_IMPORT_FOR_VLLM
            and own_imports(node)
        ):
            habits.append(f"line {node.lineno}: imports inside `{node.name}`")
    return habits


# By which a file or a word of somebody else's can run as code.
RUN_CODE = {
    "eval", "exec", "compile", "os.system", "os.popen", "yaml.load", "yaml.load_all",
    "yaml.full_load", "yaml.unsafe_load", "torch.load", "asyncio.create_subprocess_shell",
}  # fmt: skip
HOLD_CODE = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}


def code_of_others(_: str, tree: ast.AST) -> list[str]:
    """Where what somebody else wrote would run: eval(), pickle, a shell, a model's own code."""
    found = [target for target in imports(tree) if target.split(".")[0] in HOLD_CODE]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found += {ast.unparse(node.func)} & RUN_CODE
        if isinstance(node, ast.keyword) and node.arg in ("shell", "trust_remote_code"):
            found += [] if ast.unparse(node.value) == "False" else [node.arg]
    return found


def catches_all(handler: ast.ExceptHandler) -> bool:
    """Whether it swallows anything; to undo something and raise again is allowed."""
    last = handler.body[-1]
    if isinstance(last, ast.Raise) and last.exc is None:
        return False
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    names = {ast.unparse(one) if one else "everything" for one in caught}
    return bool(names & {"everything", "Exception", "BaseException"})


def too_large(tree: ast.AST) -> list[str]:
    """Functions beyond the budgets."""
    faults = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > MAX_FUNCTION:
                faults.append(f"{node.name}: {lines} lines")
            if node.name in SIGNATURE_OF_VLLM:
                continue
            given = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args)]
            if len([name for name in given if name not in ("self", "cls")]) > MAX_POSITIONAL:
                faults.append(f"{node.name}: {len(given)} positional parameters")
    return faults


@SHORT
def test_imports_point_one_way(module: str) -> None:
    assert breaches(module, TREES[module]) == []


def test_there_are_no_cycles() -> None:
    graph = {module: own_imports(tree) - {module} for module, tree in TREES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


@SHORT
def test_the_outside_is_touched_only_in_its_place(module: str) -> None:
    assert outsiders(module, TREES[module]) == []


@SHORT
def test_no_module_has_a_bad_habit(module: str) -> None:
    habits = bad_habits(module, TREES[module])
    caught = [habit for habit in habits if habit.endswith("catches everything")]
    assert len(caught) == CATCHES.get(module, 0)
    assert habits == caught


@SHORT
def test_nothing_runs_what_others_wrote(module: str) -> None:
    assert code_of_others(module, TREES[module]) == []


@pytest.mark.parametrize("module", sorted(name for name in TREES if within(name, {"cli", "bench"})))
def test_folders_of_runs_are_for_their_owner_alone(module: str) -> None:
    """Prompts, logs and commands are in them."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".mkdir"):
            assert node.args and ast.literal_eval(node.args[0]) == 0o700, f"line {node.lineno}"


@pytest.mark.parametrize("path", [*FILES, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE
    assert too_large(ast.parse(text)) == []


@pytest.mark.parametrize(
    ("rule", "module", "code"),
    [
        (breaches, "bench.run", "def f():\n    from ropeway.cli.main import run"),
        (breaches, "hosts.local", "from ropeway.endpoint import client"),
        (breaches, "endpoint.client", "import ropeway.hosts.local"),
        (breaches, "plan.memory", "from ropeway.launch.local.process_start import up"),
        (breaches, "report.text", "from ropeway.bench.run import run_bench"),
        (breaches, "units", "import ropeway.spec"),
        (breaches, "cli.demo", "from ropeway.cli.bench import bench"),
        (breaches, "endpoint.stream", "import ropeway.bench.run"),
        (outsiders, "launch.run", "def f():\n    import subprocess"),
        (outsiders, "checkpoints.fetch", "from subprocess import run"),
        (outsiders, "hosts.base", "import os\nos.environ['A']"),
        (outsiders, "hosts.base", "from os import environ"),
        (outsiders, "hosts.base", "import os\nos.getenv('A')"),
        (bad_habits, "bench.run", "print(1)"),
        (bad_habits, "bench.run", "try: f()\nexcept Exception: g()"),
        (bad_habits, "bench.run", "try: f()\nexcept (OSError, BaseException): g()"),
        (bad_habits, "bench.run", "try: f()\nexcept: g()"),
        (bad_habits, "bench.run", "def f():\n    import ropeway.spec"),
        (code_of_others, "spec.yaml", "import yaml\nyaml.load(text, yaml.FullLoader)"),
        (code_of_others, "hosts.local", "subprocess.run(line, shell=True)"),
        (code_of_others, "models.read", "def f():\n    from pickle import load"),
        (code_of_others, "models.read", "eval(text)"),
        (code_of_others, "sim.serve", "AutoConfig.from_pretrained(x, trust_remote_code=ours)"),
    ],
)
def test_each_rule_sees_a_breach(rule, module, code) -> None:
    assert rule(module, ast.parse(code)) != []


def test_undoing_and_raising_again_is_no_catch() -> None:
    code = "try: f()\nexcept BaseException:\n    undo()\n    raise"
    assert bad_habits("launch.run", ast.parse(code)) == []


def test_what_is_too_large_is_seen() -> None:
    assert too_large(ast.parse("def f():\n" + "    g()\n" * 60)) == ["f: 61 lines"]
    assert too_large(ast.parse("def f(a, b, c, d, e, f, g): g()")) != []
