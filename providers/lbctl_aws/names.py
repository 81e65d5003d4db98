"""Names for what we make: at most 32 characters, readable at the front, never colliding at the back.  PURE.

A name is derived from the cluster's id, the owner and the fields that cannot be changed in place; never from the UID,
which files do not have. So two different things never share one, the same thing always finds its own again, and a
replacement gets another name than what it replaces.
"""

import hashlib
import re

LIMIT = 32
"""Characters in the name of a load balancer or target group (AWS, CreateLoadBalancer, CreateTargetGroup)."""

_DIGEST = 15


def derived(cluster_id: str, owner: str, *parts: object) -> str:
    """`namespa-service-` and 60 bits of SHA-256 in hex. Never begins with the reserved `internal-`."""
    namespace, _, service = owner.partition("/")
    slugs = (_slug(namespace, 7), _slug(service, 8), _digest(cluster_id, owner, *parts))
    return "-".join(slug for slug in slugs if slug)


def digest(*parts: object) -> str:
    """A short fingerprint of the parts, in which no part can pose as another."""
    return _digest(*parts)


def fixed_name_problem(name: str) -> str | None:
    """What AWS does not like about a load balancer's name; None if it is fine."""
    if len(name) > LIMIT:
        return f"has {len(name)} characters, AWS takes {LIMIT}"
    if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?", name):
        return "may hold only letters, digits and hyphens, and no hyphen at either end"
    if name.startswith("internal-"):
        return "must not begin with 'internal-'"
    return None


def _slug(text: str, limit: int) -> str:
    plain = text.replace("-", "")
    if plain.isalnum() and plain.isascii() and plain.islower():
        return plain[:limit]
    return re.sub(r"[^a-z0-9]", "", text.lower())[:limit]


def _digest(*parts: object) -> str:
    said = "".join(f"{len(text)}:{text}" for text in map(str, parts))
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
