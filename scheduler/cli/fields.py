"""Options that several commands read alike."""

from datetime import UTC, datetime


def parse_moment(since: str | None) -> datetime | None:
    """Read a time in the past, as `--since` takes it.

    Raises:
        Refused: It is not one.
    """
    if since is None:
        return None
    from scheduler.when import parse_since

    return parse_since(since, now=datetime.now(UTC))


def parse_metadata(text: str | None) -> dict[str, object] | None:
    """Read a JSON object.

    Raises:
        Refused: It is not one.
    """
    if text is None:
        return None
    import orjson

    from worker.errors import Refused

    try:
        loaded = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Refused(
            f"metadata is not JSON ({error}): write an object such as '{{\"ticket\": 812}}'"
        ) from None
    if not isinstance(loaded, dict):
        raise Refused("metadata is not a JSON object: write one such as '{\"ticket\": 812}'")
    return loaded
