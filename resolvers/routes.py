"""Routes: at which of a person's accounts they can be reached, best first.

Pure; called by the pipeline for deliveries to `user:name`.
"""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from resolvers.protocol import IdentityLink

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


def rank_routes(
    links: Sequence[IdentityLink], *, reachable: Collection[str], last_heard: str | None
) -> list[IdentityLink]:
    """Rank the links on reachable platforms: where they last wrote, then the oldest link.

    Args:
        reachable: Platforms on which a person can be written to by user id, with a credential.
        last_heard: The platform of the last message that the person wrote, if any.

    """
    return sorted(
        (link for link in links if link.platform in reachable),
        key=lambda link: (
            link.platform != last_heard,
            link.created_at or _LONG_AGO,
            link.platform,
            link.platform_user_id,
        ),
    )
