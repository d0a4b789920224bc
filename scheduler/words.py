"""Times, lengths of time and kinds of failure, in the words of an explanation."""

from datetime import UTC, datetime, timedelta

from worker.taxonomy import ErrorKind

_EPOCH = datetime.fromtimestamp(0, UTC)
#: What each kind of failure means to somebody who does not know the taxonomy.
_MEANING = {
    ErrorKind.RATE_LIMITED: "the platform asked to slow down",
    ErrorKind.TRANSIENT: "it was not accepted, the same may work later",
    ErrorKind.AMBIGUOUS: "no answer came, so it may have been accepted or not",
    ErrorKind.TARGET_GONE: "the chat is gone, or has blocked the bot",
    ErrorKind.TARGET_MOVED: "the chat lives on under another id",
    ErrorKind.FORBIDDEN: "the bot may not write there",
    ErrorKind.AUTH: "the bot's credential is missing or refused",
    ErrorKind.INVALID: "the platform will never accept this content or address",
    ErrorKind.TOO_LONG: "the text is over the platform's limit",
    ErrorKind.UNKNOWN_ERROR: "the platform gave an answer that is not known",
}


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


def meaning(kind: str) -> str:
    """Give what a kind of failure means; a kind that is not known as it is."""
    return _MEANING[ErrorKind(kind)] if kind in _MEANING else kind
