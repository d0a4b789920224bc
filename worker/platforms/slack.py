"""Slack's Web API: `chat.postMessage`, `chat.update`, `chat.delete`.

Facts: https://docs.slack.dev/reference/methods/chat.postMessage. Errors come under HTTP
200. Slack has no silent messages; `silent` changes nothing here.
"""

import re
from dataclasses import replace
from html import escape

import orjson

from worker.platforms import slack_history
from worker.platforms.answers import by_status, failure, json_object, message_id
from worker.platforms.base import (
    Bot,
    Capability,
    Counts,
    Dedup,
    Message,
    Pace,
    Request,
    Response,
    Variable,
)
from worker.taxonomy import ErrorKind, Failure, Outcome, Receipt, Scope

#: Slack calls its ids opaque: capitals and digits, the first says of what (C, D, G, U, W).
_CHANNEL = re.compile(r"[A-Z][A-Z0-9]{1,31}", re.ASCII)
_TS = re.compile(r"[0-9]{1,12}\.[0-9]{1,6}", re.ASCII)
_RATE_LIMITED = 429
_NOT_FOUND = "message_not_found"

K = ErrorKind
#: The `error` of an answer with `ok: false`.
ERRORS: dict[str, ErrorKind] = {
    **dict.fromkeys(
        ("channel_not_found", "is_archived", "user_not_found", "user_disabled"), K.TARGET_GONE
    ),
    **dict.fromkeys(
        (
            "not_in_channel",
            "restricted_action",
            "restricted_action_read_only_channel",
            "restricted_action_thread_only_channel",
            "restricted_action_non_threadable_channel",
            "restricted_action_thread_locked",
            "cannot_reply_to_message",
            "messages_tab_disabled",
            "ekm_access_denied",
        ),
        K.FORBIDDEN,
    ),
    **dict.fromkeys(
        (
            "not_authed",
            "invalid_auth",
            "account_inactive",
            "token_revoked",
            "token_expired",
            "missing_scope",
            "no_permission",
            "not_allowed_token_type",
            "access_denied",
            "accesslimited",
            "app_access_restricted",
            "org_login_required",
            "two_factor_setup_required",
            "enterprise_is_restricted",
            "team_not_found",
            "is_bot",
            # A person's token sends none, and without it nothing could be asked for.
            "metadata_must_be_sent_from_app",
        ),
        K.AUTH,
    ),
    **dict.fromkeys(
        (
            "no_text",
            "invalid_blocks",
            "invalid_blocks_format",
            "too_many_attachments",
            "attachment_payload_limit_exceeded",
            "invalid_metadata_format",
            "invalid_metadata_schema",
            "metadata_too_large",
            "markdown_text_conflict",
            "invalid_arg_name",
            "invalid_arguments",
            "invalid_array_arg",
            "invalid_charset",
            "invalid_form_data",
            "invalid_post_type",
            "missing_post_type",
            "as_user_not_supported",
            "missing_file_data",
            _NOT_FOUND,
            "cant_update_message",
            "edit_window_closed",
            "is_inactive",
            "block_mismatch",
            "cant_delete_message",
            "compliance_exports_prevent_deletion",
        ),
        K.INVALID,
    ),
    **dict.fromkeys(("msg_too_long", "msg_blocks_too_long"), K.TOO_LONG),
    **dict.fromkeys(("ratelimited", "rate_limited", "message_limit_exceeded"), K.RATE_LIMITED),
    # "It's possible some aspect of the operation succeeded before the error was raised."
    **dict.fromkeys(("internal_error", "fatal_error"), K.AMBIGUOUS),
    # The request came in truncated, or was turned away at the door: not sent.
    **dict.fromkeys(
        ("request_timeout", "service_unavailable", "team_added_to_org", "update_failed"),
        K.TRANSIENT,
    ),
}
#: `slack_connect_file_link_sharing_blocked` and its like: what was shared is not allowed.
_CONNECT_BLOCKED = re.compile(r"slack_connect_\w+_blocked")
#: The limits of the workspace or the whole app; a plain 429 is mostly the one a second of
#: one channel, and holding only that channel is the guess that corrects itself.
_BOT_WIDE = frozenset({"rate_limited", "message_limit_exceeded"})
#: What is said of one thread, or of all that is in none; the channel takes other messages.
ABOUT_THREAD = frozenset(
    {
        "cannot_reply_to_message",
        "restricted_action_thread_locked",
        "restricted_action_thread_only_channel",
        "restricted_action_non_threadable_channel",
    }
)


class Slack:
    """Slack, one bot token an account."""

    name = "slack"
    #: Slack recommends 4,000 characters and cuts silently above 40,000; so 40,000 of what
    #: is sent, escapes included, is the most of which nothing is ever lost.
    capability = Capability(
        max_length=40_000,
        measure=lambda text: len(escape(text, quote=False)),
        threads=True,
        dedup=Dedup.ASK,
        dedup_if="the bot may read the history",
        dm_by_user_id=True,
        # docs.slack.dev/apis/web-api/rate-limits: "one message per second per channel", short
        # bursts allowed.
        limits=(Pace(Counts.CHAT, 1.0, burst=2),),
    )
    variables: tuple[Variable, ...] = (
        Variable("SLACK_BOT_TOKEN"),
        Variable("SLACK_API_BASE", secret=False, default="https://slack.com/api"),
    )

    def check_chat(self, chat_id: str) -> str | None:
        """Demand an id; names can change hands."""
        if _CHANNEL.fullmatch(chat_id):
            return None
        return "a Slack channel or user is an id like C024BE91L or U024BE7LH, not its name"

    def check_thread(self, thread_id: str) -> str | None:
        """Demand the parent message's `ts`."""
        if _TS.fullmatch(thread_id):
            return None
        return "a Slack thread is its first message's ts, like 1503435956.000247"

    def request(self, message: Message, bot: Bot) -> Request:
        """Give `chat.postMessage`, with the delivery's id in the message's metadata."""
        body: dict[str, object] = {
            "channel": message.chat_id,
            # Also inside code, else <!channel> pings everybody.
            "text": escape(message.text, quote=False),
            "metadata": slack_history.metadata(message),
        }
        thread = slack_history.thread_of(message)
        if thread is not None:
            body["thread_ts"] = thread
        return _post(bot, "chat.postMessage", body)

    def outcome(self, response: Response) -> Outcome:
        """Read the answer; the status alone proves nothing."""
        answer = json_object(response.content)
        if answer.get("ok") is True:
            sent = message_id(answer.get("ts"))
            if sent is not None:
                return Receipt((sent,), chat_id=_direct(answer))
        elif answer.get("ok") is False:
            return _refusal(response, answer)
        return failure(response, by_status(response))

    def editing(self, message: Message, message_id: str, bot: Bot) -> Request:
        """Give `chat.update`, which keeps the message's metadata."""
        text = escape(message.text, quote=False)
        return _post(bot, "chat.update", {**_named(message, message_id), "text": text})

    def edited(self, response: Response, message_id: str) -> Outcome:
        """Read the answer."""
        answer = json_object(response.content)
        if answer.get("ok") is True:
            return Receipt((message_id,))
        return _unchanged(response, answer)

    def retracting(self, message: Message, message_id: str, bot: Bot) -> Request:
        """Give `chat.delete`."""
        return _post(bot, "chat.delete", _named(message, message_id))

    def retracted(self, response: Response, message_id: str) -> Outcome:
        """Read the answer, which may be that there is no such message."""
        answer = json_object(response.content)
        if answer.get("ok") is True or answer.get("error") == _NOT_FOUND:
            return Receipt((message_id,))
        return _unchanged(response, answer)

    def asking(self, message: Message, bot: Bot) -> Request:
        """Ask for the history in which the message would be."""
        return slack_history.ask(message, bot)

    def asked(
        self, request: Request, response: Response, message: Message, bot: Bot
    ) -> Receipt | Failure | Request | None:
        """Look for the message in a page of the history."""
        answer = json_object(response.content)
        refused = answer.get("ok") is False
        kind = _kind(response, str(answer.get("error", ""))) if refused else None
        return slack_history.read(request, response, message, bot, kind)


def _direct(answer: dict[str, object]) -> str | None:
    """Give the direct channel into which a message went that named a person."""
    channel = message_id(answer.get("channel"))
    return channel if channel is not None and channel.startswith("D") else None


def _named(message: Message, message_id: str) -> dict[str, object]:
    return {"channel": message.chat_id, "ts": message_id}


def _post(bot: Bot, method: str, body: dict[str, object]) -> Request:
    headers = {
        "authorization": f"Bearer {bot.values['SLACK_BOT_TOKEN']}",
        "content-type": "application/json; charset=utf-8",
    }
    base = bot.values["SLACK_API_BASE"].rstrip("/")
    return Request("POST", f"{base}/{method}", headers, orjson.dumps(body))


def _unchanged(response: Response, answer: dict[str, object]) -> Failure:
    if answer.get("ok") is False:
        return _refusal(response, answer)
    return failure(response, by_status(response))


def _refusal(response: Response, answer: dict[str, object]) -> Failure:
    error = str(answer.get("error", ""))
    needed = answer.get("needed")
    refusal = failure(
        response,
        _kind(response, error),
        f"{error}: needs {needed}" if isinstance(needed, str) else error,
        code=error,
        scope=Scope.BOT if error in _BOT_WIDE else Scope.CHAT,
    )
    return replace(refusal, thread_only=error in ABOUT_THREAD)


def _kind(response: Response, error: str) -> ErrorKind:
    if response.status == _RATE_LIMITED:
        return K.RATE_LIMITED
    known = ERRORS.get(error)
    if known is not None:
        return known
    if _CONNECT_BLOCKED.fullmatch(error):
        return K.INVALID
    # An error without a row here is an answer all the same: it was not sent. Only under a
    # 5xx it may have been.
    return by_status(response) if response.status >= 500 else K.UNKNOWN_ERROR  # noqa: PLR2004 - the class of status
