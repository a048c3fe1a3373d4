"""A fleet in a few words, without the machines themselves."""

from dataclasses import dataclass

from ropeway.phrases import phrase
from ropeway.units import counted


@dataclass(frozen=True)
class Brief:
    """A fleet as it is named. `npus`: of a host, `8`, or `4/8` where they differ;
    `model`: published, or empty for one of the user's own; `scheme`: of weights that are other ones
    than those published."""

    hosts: int
    npus: str
    chip: str
    model: str
    scheme: str = ""

    @property
    def title(self) -> str:
        """These values in words."""
        words = "{hosts} of {npus} NPUs ({chip})"
        if self.model:
            words = "{hosts} of {npus} NPUs ({chip}), with the published {model}"
        if self.model and self.scheme:
            words = "{hosts} of {npus} NPUs ({chip}), with {model}, its weights as {scheme}"
        return phrase(
            words,
            hosts=counted(self.hosts, "virtual host"),
            npus=self.npus,
            chip=self.chip,
            model=self.model,
            scheme=self.scheme,
        )
