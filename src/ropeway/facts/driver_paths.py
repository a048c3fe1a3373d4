"""What a container needs of the host's driver: files, folders and device files.

Sources: the installation page and the tutorials of vllm-ascend (docs/source/installation.md,
docs/source/tutorials/). What is not on a host, is not asked for by its chip.
"""

from collections.abc import Mapping

# Path on the host → path in the container.
FILES: Mapping[str, str] = {
    path: path
    for path in (
        "/usr/local/dcmi",
        "/usr/local/bin/npu-smi",
        "/usr/local/Ascend/driver/lib64",
        "/usr/local/Ascend/driver/version.info",
        "/usr/local/Ascend/driver/tools/hccn_tool",
        "/etc/ascend_install.info",
        "/etc/hccn.conf",
        "/etc/hccl_rootinfo.json",  # of a 950, as the next two
        "/etc/hixlep",
        "/lib/route.conf",
    )
} | {"/usr/local/sbin/npu-smi": "/usr/local/bin/npu-smi"}  # where some installers put it
MANAGERS = (
    "/dev/davinci_manager",
    "/dev/devmm_svm",
    "/dev/hisi_hdc",
    "/dev/ummu",  # of a 950, as the next
    "/dev/uburma",
)
# What every host of the A2 and A3 generations has.
USUAL = (*tuple(FILES)[:7], *MANAGERS[:3])

# `ls` fails when one is missing, and still lists the others.
COMMAND = ("sh", "-c", f"ls -d {' '.join((*FILES, *MANAGERS))} 2>/dev/null; true")
HOME = ("sh", "-c", 'echo "$HOME"')


def paths_in(text: str) -> frozenset[str]:
    """Those that are there, from what `COMMAND` printed."""
    return frozenset(text.split()) & {*FILES, *MANAGERS}
