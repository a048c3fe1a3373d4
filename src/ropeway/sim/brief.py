"""A fleet in a few words, without the machines themselves."""

from dataclasses import dataclass

from ropeway.phrases import phrase
from ropeway.units import counted


@dataclass(frozen=True)
class Brief:
    """A fleet as it is named. `npus`: of a host, `8`, or `4/8` where they differ;
    `model`: published, or empty for one of the user's own."""

    hosts: int
    npus: str
    chip: str
    model: str

    @property
    def title(self) -> str:
        """These values in words."""
        return phrase(
            "{hosts} of {npus} NPUs ({chip}), with the published {model}"
            if self.model
            else "{hosts} of {npus} NPUs ({chip})",
            hosts=counted(self.hosts, "virtual host"),
            npus=self.npus,
            chip=self.chip,
            model=self.model,
        )
