"""`mirrorpost identity`: which accounts are one person."""

from typing import TYPE_CHECKING, Annotated

import typer

from scheduler.cli.output import Json, note, print_json, print_line, print_table
from scheduler.cli.state import database

if TYPE_CHECKING:
    from resolvers import IdentityLink, IdentityResolverProtocol

app = typer.Typer(no_args_is_help=True, help="Say which accounts are one person.")

Platform = Annotated[str, typer.Argument(help="Such as telegram.")]
UserId = Annotated[
    str, typer.Argument(metavar="USER_ID", help="The account's id, as its platform writes it.")
]
Unified = Annotated[str, typer.Argument(metavar="UNIFIED", help="The person, such as alice.")]


@app.command(epilog="Example: mirrorpost identity link telegram 4711 alice")
def link(platform: Platform, user_id: UserId, unified: Unified, json: Json = False) -> None:
    """Make an account one of a person's; whoever had it before loses it."""
    from worker.platforms import platform as known_platform

    # A link under a misspelt name would never be found.
    known_platform(platform)
    resolver = _resolver()
    resolver.link(platform, user_id, unified)
    _say(platform, user_id, unified, json=json)


@app.command(epilog="Example: mirrorpost identity unlink telegram 4711")
def unlink(platform: Platform, user_id: UserId, json: Json = False) -> None:
    """Forget an account's link; without one nothing changes."""
    resolver = _resolver()
    resolver.unlink(platform, user_id)
    _say(platform, user_id, resolver.resolve(platform, user_id), json=json)


@app.command("list", epilog="Example: mirrorpost identity list alice --json")
def list_(
    unified: Annotated[
        str | None, typer.Argument(metavar="[UNIFIED]", help="Only this person's accounts.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 1000,
    json: Json = False,
) -> None:
    """List links."""
    links = _links(unified, limit)
    if json:
        print_json([_as_object(link) for link in links])
        return
    print_table(
        ["platform", "user id", "unified user", "linked"],
        [
            (
                link.platform,
                link.platform_user_id,
                link.unified_user_id,
                link.created_at and link.created_at.strftime("%Y-%m-%d %H:%M:%SZ"),
            )
            for link in links
        ],
        nothing="There are no such links: mirrorpost identity link telegram 4711 alice makes one.",
    )


@app.command(epilog="Example: mirrorpost identity resolve telegram 4711")
def resolve(platform: Platform, user_id: UserId, json: Json = False) -> None:
    """Tell whose account this is; without a link it stands for itself, as platform:id."""
    _say(platform, user_id, _resolver().resolve(platform, user_id), json=json)


def _resolver() -> "IdentityResolverProtocol":
    from worker.runtime import resolver_of
    from worker.settings import settings

    if settings().resolver == "memory":
        note("MIRRORPOST_RESOLVER=memory forgets every link when its process ends.")
    return resolver_of(settings(), database())


def _links(unified: str | None, limit: int) -> "list[IdentityLink]":
    from worker.errors import Refused

    resolver = _resolver()
    if unified is not None:
        return resolver.links_for(unified)[:limit]
    links = getattr(resolver, "links", None)
    if links is None:
        raise Refused(
            f"{type(resolver).__name__} cannot list all links: name a person, "
            "mirrorpost identity list alice"
        )
    found: list[IdentityLink] = links(limit)
    return found


def _as_object(link: "IdentityLink") -> dict[str, object]:
    return {
        "platform": link.platform,
        "platform_user_id": link.platform_user_id,
        "unified_user_id": link.unified_user_id,
        "created_at": link.created_at and link.created_at.isoformat(timespec="milliseconds"),
    }


def _say(platform: str, user_id: str, unified: str, *, json: bool) -> None:
    if json:
        print_json({"platform": platform, "platform_user_id": user_id, "unified_user_id": unified})
    else:
        print_line(unified)
