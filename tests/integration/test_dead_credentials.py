"""What real workers make of a token that was revoked."""

import pytest

from tests.workers import DATABASES, running_site
from worker import by_hand


@pytest.mark.parametrize("database", DATABASES)
def test_a_revoked_token_stops_its_bot_alone_and_alarms_once(
    request: pytest.FixtureRequest, database: str
) -> None:
    with running_site(request, database) as site:
        site.sandbox.fault("telegram", None, "revoked")
        held = [site.enqueue("telegram:1", "the first")]
        with site.worker() as one, site.worker() as two:
            site.reaches(held[0], "held")
            before = sum(site.sandbox.answers("telegram").values())
            held += [site.enqueue(f"telegram:{n}", "another") for n in range(2, 12)]
            for id_ in held:
                row = site.reaches(id_, "held")
                assert (row.error_kind, bool(row.credential_print)) == ("auth", True)
            site.reaches(site.enqueue("discord:5", "elsewhere"), "sent")
            assert sum(site.sandbox.answers("telegram").values()) == before
            alarms = [p.printed().count("credential_dead") for p in (one, two)]
            assert sum(alarms) == 1
        site.sandbox.no_faults()
        with site.worker(), site.scheduler():
            still = site.reaches(site.enqueue("telegram:12", "the same token"), "held")
            assert "the credential of telegram is noted as refused since" in still.error_text
        with site.worker({"TELEGRAM_BOT_TOKEN": "7700002:tg-Another1LmT0pWc5x"}), site.scheduler():
            for id_ in (*held, still.id):
                site.reaches(id_, "sent")


def test_a_token_revoked_in_doubt_is_waited_for_and_then_slack_is_asked(
    request: pytest.FixtureRequest,
) -> None:
    with running_site(request, "sqlite") as site:
        site.sandbox.fault("slack", "C1", "drop", times=1)
        with site.worker(), site.scheduler():
            id_ = site.enqueue("slack:C1", "once", policy="hold")
            site.reaches(id_, "retrying")
            site.sandbox.fault("slack", None, "revoked")
            site.make_due(id_)
            assert site.reaches(id_, "held").error_kind == "auth"
        site.sandbox.no_faults()
        with site.worker({"SLACK_BOT_TOKEN": "xoxb-another"}), site.scheduler():
            assert site.reaches(id_, "sent").maybe_duplicate is False
        assert site.sandbox.texts("slack", "C1") == ["once"]


def test_the_same_token_is_tried_again_when_a_person_says_so(
    request: pytest.FixtureRequest,
) -> None:
    with running_site(request, "sqlite") as site, site.worker(), site.scheduler():
        site.sandbox.fault("telegram", None, "revoked")
        held = [site.reaches(site.enqueue(f"telegram:{n}", "wait"), "held").id for n in (1, 2)]
        site.sandbox.no_faults()
        with site.engine.begin() as connection:
            by_hand.retry(connection, held)
        for id_ in held:
            site.reaches(id_, "sent")
        site.reaches(site.enqueue("telegram:3", "and on"), "sent")
