"""What a forecast is for: a model in a layout on a machine, and its load."""

from dataclasses import dataclass

from ropeway.models.shape import ModelShape
from ropeway.plan.load import Load
from ropeway.plan.machine import Machine
from ropeway.spec.model import Layout


@dataclass(frozen=True, slots=True)
class MeasurementSetup:
    """How a measurement was taken, where one is to be predicted.

    source   the document it was published in
    method   of speculative decoding
    split    other NPUs read the prompts (disaggregated prefill); these only generate
    readers  the layout of those others, where it is known
    """

    source: str = ""
    method: str = ""
    split: bool = False
    readers: Layout | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be estimated.

    npus_per_host       decides which ranks share a host
    max_sequences       running at once, in one data-parallel rank
    kv_tokens           that the cache of one data-parallel rank holds; None is no limit
    max_batched_tokens  of one step, prompt tokens included
    kv_bits             of a cached number
    setup               of a measurement that is to be predicted
    replicas            engines that each have such a load; the forecast is of all together
    factor              by which every step takes longer than the arithmetic says
    """

    shape: ModelShape
    layout: Layout
    machine: Machine
    load: Load
    npus_per_host: int = 8
    max_sequences: int = 256
    kv_tokens: int | None = None
    max_batched_tokens: int = 8192
    kv_bits: float = 16
    setup: MeasurementSetup = MeasurementSetup()
    replicas: int = 1
    factor: float = 1.0
