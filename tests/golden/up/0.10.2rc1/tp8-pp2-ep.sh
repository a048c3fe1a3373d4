# refused: TP8×PP2+EP does not run in this release
# at vLLM-Ascend 0.10.2rc1
# pipeline with expert parallel: MC2 is chosen by the ranks of all stages, and the experts of one stage have fewer than the 16 it needs; the start ends in error 507014 (#3529; fixed by #4054, in v0.12.0rc1)
# vLLM-Ascend 0.12.0rc1 or later, or another layout
