# refused: TP8×PP2 does not run in this release
# at vLLM-Ascend 0.9.1
# pipeline parallel is not in the V1 engine of this release (notes of v0.9.1 and v0.10.0rc1 (#1800))
# vLLM-Ascend 0.10.0rc1 or later, or another layout
