"""Prints, as JSON, what Hugging Face transformers answers: run as a program, a fresh process.

usage: reference.py MODEL_DIRECTORY DTYPE NEW_TOKENS < {"prompts": [[token, ...], ...] or texts}
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    directory, dtype, count = sys.argv[1], getattr(torch, sys.argv[2]), int(sys.argv[3])
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
    answers = []
    for text in json.load(sys.stdin):
        messages = [{"role": "user", "content": text}]
        prompt = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True
        )["input_ids"]
        tokens, margins = list(prompt), []
        with torch.no_grad():
            found = model(torch.tensor([prompt]))
            rows = found.logits[0].float().log_softmax(-1)
            given = [rows[at, token].item() for at, token in enumerate(prompt[1:])]
            for _ in range(count):
                best = found.logits[0, -1].float().topk(2)
                margins.append((best.values[0] - best.values[1]).item())
                tokens.append(int(best.indices[0]))
                found = model(torch.tensor([tokens[-1:]]), past_key_values=found.past_key_values)
        answers.append(
            {
                "prompt": prompt,
                "answer": tokens[len(prompt) :],
                "log_probabilities": given,
                "margin": min(margins),
                "text": tokenizer.decode(tokens[len(prompt) :]),
            }
        )
    print(json.dumps(answers))


main()
