"""What the service measures, as it declares it."""

from __future__ import annotations

from typing import NamedTuple

from prometheus_client.metrics import MetricWrapperBase

from stepwell_server.telemetry import calls, metrics

ENDINGS = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_count", "_sum"),
}


class Declared(NamedTuple):
    """A metric: its name without an ending, its kind, its labels, and what it tells."""

    name: str
    kind: str
    labels: tuple[str, ...]
    told: str

    @property
    def samples(self) -> dict[str, frozenset[str]]:
        """The names under which its samples are read, each with the labels that it has."""
        return {
            self.name + ending: frozenset(self.labels) | ({"le"} if ending == "_bucket" else frozenset())
            for ending in ENDINGS[self.kind]
        }


def declared() -> list[Declared]:
    """All of our own."""
    found = []
    for each in vars(metrics).values():
        if isinstance(each, MetricWrapperBase):
            (family,) = each.describe()
            found.append(Declared(family.name, family.type, tuple(each._labelnames), family.documentation))
    for family in calls.tallies.describe():
        labels: tuple[str, ...] = tuple(family._labelnames)  # type: ignore[attr-defined]
        found.append(Declared(family.name, family.type, labels, family.documentation))
    return sorted(found)


def samples() -> dict[str, frozenset[str]]:
    """All that can be read of a server: ours, and what Python and the process tell of themselves."""
    found = {name: labels for each in declared() for name, labels in each.samples.items()}
    for family in metrics.registry.collect():
        if not family.name.startswith("stepwell_"):
            for sample in family.samples:
                found[sample.name] = found.get(sample.name, frozenset()) | frozenset(sample.labels)
    return found
