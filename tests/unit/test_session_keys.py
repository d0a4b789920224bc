import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolvers import InMemoryIdentityResolver
from worker.sessions.keys import account_key, account_on, mirror_key, reader_key


@pytest.fixture
def resolver():
    resolver = InMemoryIdentityResolver()
    resolver.link("telegram", "4711", "alice")
    resolver.link("slack", "U1", "alice")
    return resolver


def test_without_a_resolver_the_key_is_the_legacy_one_to_the_letter():
    assert account_key(None, "telegram", "4711") == "bot_telegram_4711"
    assert reader_key(None, "matrix", "@a:example.org") == "bot_matrix_@a:example.org"
    assert mirror_key(None, "telegram", "4711") == "bot_telegram_4711"


def test_an_unlinked_id_is_never_prefixed_twice(resolver):
    assert reader_key(None, "telegram", "telegram:99") == "bot_telegram_99"
    for key in (reader_key, mirror_key):
        assert key(resolver, "telegram", "telegram:99") == "telegram:99"
        assert key(resolver, "telegram", "99") == "telegram:99"
        assert key(resolver, "", "telegram:99") == "telegram:99"


@pytest.mark.parametrize("user_id", ["alice", "4711", "telegram:4711"])
@pytest.mark.parametrize("key", [reader_key, mirror_key])
def test_the_unified_id_and_the_raw_id_reach_one_history(resolver, key, user_id):
    assert key(resolver, "telegram", user_id) == "alice"


def test_an_id_that_names_another_platform_is_resolved_there(resolver):
    assert mirror_key(resolver, "telegram", "slack:U1") == "alice"
    assert mirror_key(resolver, "telegram", "discord:5") == "discord:5"
    assert mirror_key(resolver, "", "slack:U1") == "alice"


def test_ids_with_colons_of_their_own_are_not_taken_for_another_platform(resolver):
    assert mirror_key(resolver, "matrix", "@a:example.org") == "matrix:@a:example.org"
    assert mirror_key(resolver, "webhook", "https://a.example/x") == "webhook:https://a.example/x"


@pytest.mark.parametrize("chat", ["-1004711", "-4711", "!room:example.org", "C4711"])
def test_a_group_chat_never_lands_in_a_persons_history(resolver, chat):
    assert mirror_key(resolver, "telegram", chat) == f"telegram:{chat}"


def test_a_stranger_who_is_called_like_a_unified_user_does_not_read_their_history(resolver):
    # On IRC people choose their ids.
    assert reader_key(resolver, "irc", "alice") == "irc:alice"
    assert account_key(resolver, "telegram", "alice") == "telegram:alice"


def test_a_raw_id_that_is_somebody_elses_unified_id_is_read_as_the_account_it_is(resolver):
    resolver.link("discord", "5", "900")
    resolver.link("telegram", "900", "bob")
    assert reader_key(resolver, "telegram", "900") == "bob"
    assert mirror_key(resolver, "telegram", "900") == "900"


def test_a_manager_that_knows_only_accounts_is_given_the_persons_account(resolver):
    assert account_on(resolver, "telegram", "alice") == "4711"
    assert account_on(resolver, "telegram", "slack:U1") == "4711"
    assert account_on(resolver, "telegram", "telegram:99") == "99"
    assert account_on(resolver, "telegram", "99") == "99"
    assert account_on(None, "telegram", "telegram:99") == "99"


def test_a_person_without_an_account_there_has_no_id_for_that_manager(resolver):
    assert account_on(resolver, "discord", "alice") is None


@given(st.from_regex(r"[0-9]{1,12}", fullmatch=True))
def test_keys_are_stable_when_they_are_taken_for_ids_again(user_id):
    resolver = InMemoryIdentityResolver()
    key = mirror_key(resolver, "telegram", user_id)
    assert mirror_key(resolver, "telegram", key) == key
    assert reader_key(resolver, "telegram", key) == key
