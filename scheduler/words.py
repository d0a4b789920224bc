"""Times and lengths of time, in the words of an explanation."""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime.fromtimestamp(0, UTC)


def time_of(epoch_ms: int) -> str:
    """Give epoch milliseconds to the second, in UTC."""
    return f"{_EPOCH + timedelta(milliseconds=epoch_ms):%Y-%m-%d %H:%M:%S} UTC"


def span(milliseconds: int) -> str:
    """Give a length of time in its two largest units."""
    if milliseconds < 1000:  # noqa: PLR2004 - below a second, milliseconds say more
        return f"{max(0, milliseconds)} ms"
    left, parts = milliseconds // 1000, []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])
