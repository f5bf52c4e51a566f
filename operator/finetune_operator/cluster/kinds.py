"""The kinds of objects that the operator touches, and where the API server keeps them.

Values only. `api_client` builds every path here; nothing else in the operator spells a URL out.
"""

from dataclasses import dataclass
from urllib.parse import quote

from finetune_api import wire


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object."""

    api_version: str
    kind: str
    plural: str

    def path(self, *, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        """Return the path of one object, or of the collection where `name` is empty."""
        root = "/apis" if "/" in self.api_version else "/api"
        parts = [root, self.api_version]
        if namespace is not None:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        if name:
            parts.append(quote(name, safe=""))
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


FINETUNES = Kind(wire.API_VERSION, wire.KIND, wire.PLURAL)
JOBS = Kind("batch/v1", "Job", "jobs")
PODS = Kind("v1", "Pod", "pods")
CONFIG_MAPS = Kind("v1", "ConfigMap", "configmaps")
SECRETS = Kind("v1", "Secret", "secrets")
SERVICES = Kind("v1", "Service", "services")
CORE_EVENTS = Kind("v1", "Event", "events")
"""How events are read: field selectors on the object they are about exist here only."""
EVENTS = Kind("events.k8s.io/v1", "Event", "events")
"""How events are written."""
LEASES = Kind("coordination.k8s.io/v1", "Lease", "leases")
TOKEN_REVIEWS = Kind("authentication.k8s.io/v1", "TokenReview", "tokenreviews")

_CREATED = {(one.api_version, one.kind): one for one in (JOBS, CONFIG_MAPS, SERVICES)}


def find_kind(api_version: str, kind: str) -> Kind:
    """Return the kind of a manifest that `decide` asks to create.

    Raises:
        KeyError: the operator has neither a reason nor the rights to create such an object.
    """
    return _CREATED[api_version, kind]
