"""What commands work on: the database, ready for use."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from resolvers import IdentityResolverProtocol


def database() -> "Engine":
    """Give the engine; the embedded database is made on the way.

    Raises:
        SchemaMismatch: Names the command that mends it.
        Misconfigured: It cannot be reached.

    """
    from worker.database import ready
    from worker.settings import settings

    return ready(settings())


def say_only_errors() -> None:
    """Keep the events of the libraries under a command out of what the command says."""
    from worker.log import configure_logging

    configure_logging("ERROR")


def resolver_on(engine: "Engine") -> "IdentityResolverProtocol":
    """Give the resolver that the settings name."""
    from worker.runtime import resolver_of
    from worker.settings import settings

    return resolver_of(settings(), engine)
