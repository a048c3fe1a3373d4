"""Programs that run inside of containers, with the image's own Python and nothing else of ours.

They are copied to the hosts as files, so each stands alone; the standard library of Python 3.9, and
Ray in `nodes`, are all they may use.
"""

import functools
from importlib import resources

NAMES = ("watch", "peer", "nodes")


@functools.cache
def program(name: str) -> str:
    """Return the source of one of them."""
    return resources.files(__name__).joinpath(f"{name}.py").read_text(encoding="utf-8")
