"""The registry of strategies."""

from __future__ import annotations

from .custom_resources import CustomResourceStrategy, DefinitionStrategy
from .jobs import JobStrategy
from .namespaces import NamespaceStrategy
from .pods import PodStrategy
from .resources import CUSTOM_RESOURCE_DEFINITIONS, JOBS, NAMESPACES, PODS, Resource
from .strategy import Strategy

_STRATEGIES: dict[Resource, Strategy] = {
    PODS: PodStrategy(),
    NAMESPACES: NamespaceStrategy(),
    JOBS: JobStrategy(),
    CUSTOM_RESOURCE_DEFINITIONS: DefinitionStrategy(),
}
_CUSTOM, _OTHER = CustomResourceStrategy(), Strategy()


def strategy_of(resource: Resource) -> Strategy:
    """Return the strategy of a resource."""
    return _STRATEGIES.get(resource) or (_CUSTOM if resource.custom else _OTHER)
