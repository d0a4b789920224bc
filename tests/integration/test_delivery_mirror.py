"""A mirror that fails: the delivery stands, its neighbours are mirrored, it is repaired later."""

from collections.abc import Iterator

import pytest

from tests.waiting import wait_until
from tests.workers import DATABASES, Site, running_site

_POISON = "no history takes this"
_REFUSE = {
    "sqlite": [
        "CREATE TRIGGER refuse BEFORE INSERT ON message "
        f"WHEN NEW.content = '{_POISON}' BEGIN SELECT RAISE(ABORT, 'refused'); END"
    ],
    "postgresql": [
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'refused'; END $$",
        "CREATE TRIGGER refuse BEFORE INSERT ON message FOR EACH ROW "
        f"WHEN (NEW.content = '{_POISON}') EXECUTE FUNCTION refuse()",
    ],
}
_ALLOW = {"sqlite": "DROP TRIGGER refuse", "postgresql": "DROP TRIGGER refuse ON message"}


@pytest.fixture(params=DATABASES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with running_site(request, request.param) as site:
        yield site


def test_a_failing_mirror_costs_neither_the_delivery_nor_its_neighbours_and_is_repaired(
    site: Site,
) -> None:
    dialect = site.engine.dialect.name
    for statement in _REFUSE[dialect]:
        site.execute(statement)
    neighbours = [f"telegram:{9_000_000 + n}" for n in range(20)]
    before = site.broadcast(neighbours[:10], "a neighbour", id="before")
    poisoned = site.enqueue(
        "telegram:9100000", _POISON, lane="broadcast", source="test", metadata={"meeting": 7}
    )
    after = site.broadcast(neighbours[10:], "a neighbour", id="after")

    # All wait in the broker, so that they are settled in one batch.
    with site.worker() as worker:
        for id_ in [*before, poisoned, *after]:
            site.reaches(id_, "sent")

        assert site.sandbox.texts("telegram", "9100000") == [_POISON]
        row = site.delivery(poisoned)
        assert row.mirror == "failed"
        assert row.receipt
        assert {site.delivery(id_).mirror for id_ in [*before, *after]} == {"done"}
        mirrored = "SELECT count(*) FROM message WHERE content = 'a neighbour'"
        assert site.scalar(mirrored) == 20
        assert site.messages("telegram:9100000") == []
        assert poisoned in worker.printed()
        assert "mirror_failed" in worker.printed()

    site.execute(_ALLOW[dialect])
    with site.scheduler():
        wait_until(lambda: site.delivery(poisoned).mirror == "done", 15, "the repair")

    (mirror,) = site.messages("telegram:9100000")
    assert (mirror.content, mirror.mirror_source) == (_POISON, "test")
    assert mirror.entry()["meeting"] == 7
    assert mirror.timestamp_ms == row.ended_ms
    assert mirror.platform_message_ids == tuple(row.receipt or ())
    assert site.sandbox.texts("telegram", "9100000") == [_POISON]
