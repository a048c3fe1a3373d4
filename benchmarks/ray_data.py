"""A file of requests through Ray Data LLM, which `batch_engine.py` starts in a process of its own.

    python benchmarks/ray_data.py REQUESTS.jsonl FOLDER MODEL '{"max_num_seqs": 64, …}'

Prints one line of JSON: seconds from the first request at the engine until all rows are written,
rows, tokens of prompts and answers. Ray Data needs pandas.
"""

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray.data.llm import build_processor, vLLMEngineProcessorConfig

# The stages before and after the engine are actors that each ask for a core; Ray is told of more
# than there are, for otherwise it would wait for them for ever.
_CORES = 8
_BATCH = 32


def _request(row: dict[str, Any]) -> dict[str, Any]:
    body = row["body"]
    names = ("temperature", "max_tokens", "ignore_eos")
    return {
        "messages": body["messages"],
        "sampling_params": {name: body[name] for name in names},
    }


def _answer(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "custom_id": row["custom_id"],
        "text": row["generated_text"],
        "prompt_tokens": row["num_input_tokens"],
        "completion_tokens": row["num_generated_tokens"],
        "arrived": row["metrics"]["arrival_time"],
    }


def main() -> None:
    """Answer all rows."""
    source, folder, model, settings = sys.argv[1:]
    ray.init(
        address="local", num_cpus=_CORES, include_dashboard=False, logging_level=logging.WARNING
    )
    config = vLLMEngineProcessorConfig(
        model_source=model,
        engine_kwargs=json.loads(settings),
        batch_size=_BATCH,
        concurrency=1,
        placement_group_config={"bundles": [{"CPU": 1}]},
        log_engine_metrics=False,
    )
    rows = ray.data.read_json(source).repartition(target_num_rows_per_block=_BATCH)
    build_processor(config, preprocess=_request, postprocess=_answer)(rows).write_json(folder)
    ended = time.time()
    answers = [
        json.loads(line)
        for file in Path(folder).glob("*.json*")
        for line in file.read_text().splitlines()
    ]
    sums = {name: sum(row[name] for row in answers) for name in
            ("prompt_tokens", "completion_tokens")}  # fmt: skip
    print(
        json.dumps(
            {
                "seconds": ended - min(row["arrived"] for row in answers),
                "rows": len(answers),
                **sums,
            }
        ),
        flush=True,
    )
    ray.shutdown()


if __name__ == "__main__":
    main()
