"""Which file holds which result of a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Files:
    """Where the results of the configuration ``name`` go."""

    name: str

    @property
    def metrics(self) -> Path:
        """One flat object: the best level."""
        return Path(f"metrics/benchmark/{self.name}.json")

    @property
    def levels(self) -> Path:
        """A row per concurrency level."""
        return Path(f"plots/benchmark/{self.name}.csv")

    @property
    def baseline(self) -> Path:
        """A row per batch size."""
        return Path(f"plots/baseline/{self.name}.csv")

    @property
    def meta(self) -> Path:
        """What ran."""
        return Path(f"plots/benchmark/{self.name}.meta.json")

    @property
    def samples(self) -> Path:
        """A row per request."""
        return Path(f"samples/{self.name}.csv")

    @staticmethod
    def all_existing() -> list[Path]:
        """Every committed result there is, of any configuration."""
        folders = ("metrics/benchmark", "plots/benchmark", "plots/baseline")
        found = [path for folder in folders for path in Path(folder).glob("*.*")]
        return sorted(path for path in found if not path.name.startswith("."))
