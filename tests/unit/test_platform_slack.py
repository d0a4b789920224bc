import orjson
import pytest

from worker.doubt import passes
from worker.platforms.base import Bot, Dedup, Message, Request, Response
from worker.platforms.slack import ERRORS, Slack
from worker.taxonomy import ErrorKind, Failure, Receipt, Scope

BOT = Bot(
    "slack", "", {"SLACK_BOT_TOKEN": "xoxb-1-secret", "SLACK_API_BASE": "https://slack.com/api"}
)
SLACK = Slack()


def message(text: str = "hello", **fields: object) -> Message:
    return Message("d1", "C024BE91L", text, 1_700_000_000, **fields)  # type: ignore[arg-type]


def answer(body: object, status: int = 200, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, named, orjson.dumps(body))


def failed(response: Response) -> Failure:
    outcome = SLACK.outcome(response)
    assert isinstance(outcome, Failure)
    return outcome


def test_a_message_carries_the_deliverys_id_for_a_later_look_up() -> None:
    request = SLACK.request(message(), BOT)
    assert (request.method, request.url) == ("POST", "https://slack.com/api/chat.postMessage")
    assert request.headers == {
        "authorization": "Bearer xoxb-1-secret",
        "content-type": "application/json; charset=utf-8",
    }
    assert orjson.loads(request.content) == {
        "channel": "C024BE91L",
        "text": "hello",
        "metadata": {
            "event_type": "mirrorpost_delivery",
            "event_payload": {"delivery_id": "d1"},
        },
    }


def test_a_channel_ping_is_escaped_also_inside_code() -> None:
    text = "`<!channel>` & ```<@U1>``` \"quotes\" 'stay'"
    body = orjson.loads(SLACK.request(message(text), BOT).content)
    assert body["text"] == ("`&lt;!channel&gt;` &amp; ```&lt;@U1&gt;``` \"quotes\" 'stay'")


def test_a_thread_is_the_parents_ts_and_so_is_a_reply() -> None:
    in_thread = SLACK.request(message(thread_id="1.000001", reply_to="1.000002"), BOT)
    assert orjson.loads(in_thread.content)["thread_ts"] == "1.000001"
    reply = SLACK.request(message(reply_to="1.000002"), BOT)
    assert orjson.loads(reply.content)["thread_ts"] == "1.000002"


def test_silence_changes_nothing_because_slack_has_none() -> None:
    loud, silent = SLACK.request(message(), BOT), SLACK.request(message(silent=True), BOT)
    assert loud.content == silent.content


def test_the_limit_is_what_slack_does_not_cut_escapes_included() -> None:
    capability = SLACK.capability
    assert capability.max_length == 40_000
    assert capability.measure("a&b") == len("a&amp;b")
    assert capability.threads
    assert capability.dm_by_user_id
    assert not capability.colon_in_ids
    assert capability.dedup is Dedup.ASK


def test_ids_are_chats_and_names_are_not() -> None:
    for chat in ("C024BE91L", "D1", "G012AC86C", "U024BE7LH", "W1"):
        assert SLACK.check_chat(chat) is None, chat
    for chat in ("", "C", "general", "#general", "@alice", "c024be91l", "C1 2", "C1\n"):
        assert SLACK.check_chat(chat) is not None, chat


def test_a_thread_is_a_ts() -> None:
    assert SLACK.check_thread("1503435956.000247") is None
    for thread in ("", "1503435956", "abc", "p1503435956000247"):
        assert SLACK.check_thread(thread) is not None, thread


def test_the_ts_is_the_receipt() -> None:
    body = {"ok": True, "channel": "C1", "ts": "1503435956.000247", "message": {}}
    assert SLACK.outcome(answer(body)) == Receipt(("1503435956.000247",))


@pytest.mark.parametrize("body", [b'{"ok":true}', b"ok", b"", b"<html>", b'{"ts":"1.1"}'])
def test_a_success_without_a_ts_is_ambiguous(body: bytes) -> None:
    assert failed(Response(200, {}, body)).kind is ErrorKind.AMBIGUOUS


KINDS = {
    ErrorKind.TARGET_GONE: "channel_not_found is_archived user_not_found user_disabled",
    ErrorKind.FORBIDDEN: (
        "not_in_channel restricted_action restricted_action_read_only_channel "
        "restricted_action_thread_only_channel restricted_action_non_threadable_channel "
        "restricted_action_thread_locked cannot_reply_to_message messages_tab_disabled "
        "ekm_access_denied"
    ),
    ErrorKind.AUTH: (
        "not_authed invalid_auth account_inactive token_revoked token_expired missing_scope "
        "no_permission not_allowed_token_type access_denied accesslimited "
        "app_access_restricted org_login_required two_factor_setup_required "
        "enterprise_is_restricted team_not_found is_bot metadata_must_be_sent_from_app"
    ),
    ErrorKind.INVALID: (
        "no_text invalid_blocks invalid_blocks_format too_many_attachments "
        "attachment_payload_limit_exceeded invalid_metadata_format invalid_metadata_schema "
        "metadata_too_large markdown_text_conflict invalid_arg_name invalid_arguments "
        "invalid_array_arg invalid_charset invalid_form_data invalid_post_type "
        "missing_post_type as_user_not_supported missing_file_data message_not_found "
        "cant_update_message edit_window_closed is_inactive block_mismatch "
        "cant_delete_message compliance_exports_prevent_deletion "
        "slack_connect_file_upload_sharing_blocked slack_connect_canvas_sharing_blocked"
    ),
    ErrorKind.TOO_LONG: "msg_too_long msg_blocks_too_long",
    ErrorKind.RATE_LIMITED: "ratelimited rate_limited message_limit_exceeded",
    ErrorKind.AMBIGUOUS: "internal_error fatal_error",
    ErrorKind.TRANSIENT: "request_timeout service_unavailable team_added_to_org update_failed",
    ErrorKind.UNKNOWN_ERROR: "nobody_has_seen_this_yet",
}


@pytest.mark.parametrize(
    ("error", "kind"), [(error, kind) for kind, errors in KINDS.items() for error in errors.split()]
)
def test_every_error_under_http_200_has_its_kind(error: str, kind: ErrorKind) -> None:
    failure = failed(answer({"ok": False, "error": error}))
    assert (failure.kind, failure.code, failure.http_status) == (kind, error, 200)


def test_no_row_of_the_table_is_left_out_here() -> None:
    named = {error for errors in KINDS.values() for error in errors.split()}
    assert set(ERRORS) <= named


def test_a_missing_scope_is_named() -> None:
    body = {"ok": False, "error": "missing_scope", "needed": "chat:write", "provided": "x"}
    assert failed(answer(body)).text == "missing_scope: needs chat:write"


def test_a_429_has_its_seconds_in_the_header_and_holds_the_channel() -> None:
    response = answer({"ok": False, "error": "ratelimited"}, 429, retry_after="30")
    failure = failed(response)
    assert failure.kind is ErrorKind.RATE_LIMITED
    assert (failure.retry_after_s, failure.scope) == (30.0, Scope.CHAT)


def test_a_workspaces_quota_holds_the_bot() -> None:
    for error in ("message_limit_exceeded", "rate_limited"):
        assert failed(answer({"ok": False, "error": error})).scope is Scope.BOT


def test_the_edges_pages_are_classified_by_status() -> None:
    assert failed(Response(502, {}, b"<html>")).kind is ErrorKind.AMBIGUOUS
    assert failed(Response(503, {}, b"<html>")).kind is ErrorKind.AMBIGUOUS
    refused = Response(503, {"retry-after": "5"}, b"<html>")
    assert failed(refused).kind is ErrorKind.TRANSIENT
    assert failed(refused).retry_after_s == 5.0
    assert failed(Response(429, {"retry-after": "5"}, b"")).kind is ErrorKind.RATE_LIMITED


def test_an_unknown_error_under_a_5xx_may_have_been_sent() -> None:
    assert failed(answer({"ok": False, "error": "new"}, 500)).kind is ErrorKind.AMBIGUOUS


def asked(body: object, request: object = None, status: int = 200, **fields: object) -> object:
    about = message(**fields)
    first = request or SLACK.asking(about, BOT)
    return SLACK.asked(first, answer(body, status), about, BOT)  # type: ignore[arg-type]


def shown(key: str, ts: str = "1700000001.000200") -> dict[str, object]:
    payload = {"event_type": "mirrorpost_delivery", "event_payload": {"delivery_id": key}}
    return {"ts": ts, "text": "hello", "metadata": payload}


def test_the_history_is_asked_with_metadata_from_shortly_before_the_delivery() -> None:
    request = SLACK.asking(message(), BOT)
    assert request.method == "GET"
    assert request.url == (
        "https://slack.com/api/conversations.history?channel=C024BE91L&oldest=1699999700"
        "&include_all_metadata=true&limit=200"
    )
    assert "secret" not in request.url
    thread = SLACK.asking(message(thread_id="1600000000.000100"), BOT)
    assert "/conversations.replies?" in thread.url
    assert "ts=1600000000.000100" in thread.url


def test_a_message_is_found_by_the_key_of_its_part_and_by_nothing_else() -> None:
    page = {"ok": True, "messages": [{"ts": "9.1", "text": "hello"}, shown("d2"), shown("d1-1")]}
    assert asked(page) is None
    assert asked(page, part=1) == Receipt(("1700000001.000200",))
    assert asked({"ok": True, "messages": [shown("d1")]}) == Receipt(("1700000001.000200",))


def test_a_further_page_is_asked_for_by_its_cursor() -> None:
    page = {"ok": True, "messages": [], "response_metadata": {"next_cursor": "dXNlcjpV="}}
    request = asked(page)
    assert request.url.endswith("&limit=200&cursor=dXNlcjpV%3D")  # type: ignore[attr-defined]
    assert asked({**page, "response_metadata": {"next_cursor": ""}}) is None


def test_a_person_is_asked_for_by_the_direct_channel() -> None:
    about = Message("d1", "U024BE7LH", "hello", 1_700_000_000)
    opening = SLACK.asking(about, BOT)
    assert (opening.method, opening.content) == ("POST", b"users=U024BE7LH")
    assert opening.url == "https://slack.com/api/conversations.open"
    opened = answer({"ok": True, "channel": {"id": "D024BE7LH"}})
    following = SLACK.asked(opening, opened, about, BOT)
    assert "/conversations.history?channel=D024BE7LH&" in following.url  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"ok": False, "error": "missing_scope"}, 200, ErrorKind.FORBIDDEN),
        ({"ok": False, "error": "token_revoked"}, 200, ErrorKind.AUTH),
        ({"ok": False, "error": "not_in_channel"}, 200, ErrorKind.FORBIDDEN),
        ({"ok": False, "error": "ratelimited"}, 429, ErrorKind.RATE_LIMITED),
        ("no JSON", 502, ErrorKind.AMBIGUOUS),
    ],
)
def test_a_history_that_cannot_be_read_is_a_failure(
    body: object, status: int, kind: ErrorKind
) -> None:
    found = asked(body, status=status)
    assert isinstance(found, Failure)
    assert found.kind is kind


def test_a_reminder_that_is_months_old_is_looked_for_since_it_was_tried() -> None:
    assert "&oldest=1709999700&" in SLACK.asking(message(begun_s=1_710_000_000), BOT).url


def test_what_slack_adds_to_the_metadata_hides_no_message() -> None:
    found = shown("d1")
    found["metadata"]["event_payload"]["added"] = 1  # type: ignore[index]
    assert asked({"ok": True, "messages": [found]}) == Receipt(("1700000001.000200",))


@pytest.mark.parametrize(
    "page",
    [
        {"ok": True},
        {"ok": True, "messages": None},
        {"ok": True, "messages": [], "has_more": True},
        {"ok": True, "messages": [shown("d1", ts="")]},
    ],
)
def test_a_page_that_proves_nothing_is_asked_for_later(page: dict[str, object]) -> None:
    found = asked(page)
    assert isinstance(found, Failure)
    assert found.kind is ErrorKind.TRANSIENT


@pytest.mark.parametrize(("wait_s", "kind"), [("5", "rate_limited"), ("60", "forbidden")])
def test_an_app_that_may_read_one_page_a_minute_does_not_wait_for_ever(
    wait_s: str, kind: str
) -> None:
    about, limited = message(), answer({"ok": False, "error": "ratelimited"}, 429)
    limited = Response(429, {"retry-after": wait_s}, limited.content)
    cursor = {"ok": True, "messages": [], "response_metadata": {"next_cursor": "next"}}
    first = SLACK.asking(about, BOT)
    at_first = SLACK.asked(first, limited, about, BOT)
    assert isinstance(at_first, Failure)
    assert at_first.kind is ErrorKind.RATE_LIMITED
    second = SLACK.asked(first, answer(cursor), about, BOT)
    assert isinstance(second, Request)
    afterwards = SLACK.asked(second, limited, about, BOT)
    assert isinstance(afterwards, Failure)
    assert afterwards.kind == kind


@pytest.mark.parametrize(
    "error",
    [
        "missing_scope",
        "no_permission",
        "channel_is_limited_access",
        "thread_not_found",
        "user_not_visible",
        "method_not_supported_for_channel_type",
    ],
)
def test_a_history_that_never_can_be_read_leaves_it_to_the_policy(error: str) -> None:
    found = asked({"ok": False, "error": error})
    assert isinstance(found, Failure)
    assert found.kind is ErrorKind.FORBIDDEN
    assert not passes(found)


@pytest.mark.parametrize(("error", "status"), [("token_revoked", 200), ("ratelimited", 429)])
def test_a_history_that_can_be_read_later_is_waited_for(error: str, status: int) -> None:
    found = asked({"ok": False, "error": error}, status=status)
    assert isinstance(found, Failure)
    assert passes(found)


@pytest.mark.parametrize(
    ("error", "thread_only"),
    [
        ("restricted_action_thread_locked", True),
        ("restricted_action_thread_only_channel", True),
        ("restricted_action_non_threadable_channel", True),
        ("cannot_reply_to_message", True),
        ("restricted_action_read_only_channel", False),
        ("channel_not_found", False),
    ],
)
def test_what_is_said_of_a_thread_is_not_said_of_its_channel(error: str, thread_only: bool) -> None:
    assert failed(answer({"ok": False, "error": error})).thread_only is thread_only
