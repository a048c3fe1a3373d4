"""One side of a service in which other NPUs read the prompts than generate.

Read in vllm-ascend (distributed/kv_transfer, August 2026): a connector acts on requests that a
proxy has marked (`kv_transfer_params`) and on no others, so that each side answers a plain request,
such as `up`'s for its first token, by itself.
"""

from collections.abc import Mapping

from ropeway.phrases import Phrase, phrase
from ropeway.spec.engine_flags import flag_settings

_FLAG = "kv-transfer-config"
_SIDES = {
    "kv_producer": phrase("reads the prompts"),
    "kv_consumer": phrase("generates the answers"),
}
# Of the examples of vllm-ascend; connectors that send layer by layer ask the decode side first.
_FOLDER = "examples/disaggregated_prefill_v1"
_PROXY = f"{_FOLDER}/load_balance_proxy_server_example.py"
_LAYERWISE_PROXY = f"{_FOLDER}/load_balance_proxy_layerwise_server_example.py"


def kv_role(engine_args: Mapping[str, object]) -> str:
    """Return the engine's role, `kv_producer`, `kv_consumer` or `kv_both`; empty for none."""
    role = flag_settings(engine_args, _FLAG).get("kv_role")
    return role if isinstance(role, str) else ""


def role_notes(engine_args: Mapping[str, object]) -> tuple[Phrase, ...]:
    """Say what such an engine is, and what Ropeway does not start for it."""
    role, given = kv_role(engine_args), flag_settings(engine_args, _FLAG)
    if role in _SIDES:
        layerwise = "Layerwise" in str(given)
        return (
            phrase(
                "`{role}`: one side of a disaggregated service, which {does}. Ropeway starts each"
                " side as a service of its own and no proxy before them; vllm-ascend has one:"
                " {proxy}",
                role=role,
                does=_SIDES[role],
                proxy=_LAYERWISE_PROXY if layerwise else _PROXY,
            ),
        )
    if role == "kv_both":
        return (
            phrase(
                "`{role}`: a whole engine that shares its cache through {connector}; what that"
                " connects to is yours to start",
                role=role,
                connector=given.get("kv_connector"),
            ),
        )
    return ()
