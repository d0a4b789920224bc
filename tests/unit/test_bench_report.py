import io

from rich.console import Console

from tests.bench.latency import Idle
from tests.bench.machine import Machine
from tests.bench.measure import Measurement
from tests.bench.report import as_object, figures, show

MACHINE = Machine("a cpu", "2 cores, not pinned", "Linux 6", "3.11.7", {"celery": "5.7"})


def one_round(limit_s: float, ours_s: float, usual_cpu_s: float) -> dict[str, Measurement]:
    return {
        "raw_httpx": Measurement(100, limit_s, 1.0),
        "usual_sqlite": Measurement(10, 1.0, usual_cpu_s, enqueue_cpu_s=0.02),
        "mirrorpost_sqlite": Measurement(100, ours_s, 1.0, enqueue_cpu_s=0.1),
    }


def test_ratios_are_medians_of_each_rounds_own_and_not_of_medians() -> None:
    # In every round ours has half the limit's rate, whatever the machine's speed was.
    rounds = [one_round(1, 2, 1.0), one_round(3, 6, 1.1), one_round(10, 20, 3.0)]
    ours = next(each for each in figures(rounds) if each.contender == "mirrorpost_sqlite")
    assert ours.of_limit == 0.5
    assert round(ours.rate, 3) == round(100 / 6, 3)
    # 110 ms a message of the usual way against 10 ms.
    assert ours.usual_over_cpu is not None
    assert round(ours.usual_over_cpu, 6) == 11
    assert (ours.runs, ours.messages, ours.cpu_ms, ours.enqueue_ms) == (3, 100, 10, 1)


def test_without_the_limit_and_the_usual_way_there_are_no_ratios() -> None:
    (only,) = figures([{"mirrorpost_sqlite": Measurement(100, 2, 1.0)}])
    assert (only.of_limit, only.usual_over_cpu, only.enqueue_ms) == (None, None, None)


def test_what_is_printed_names_machine_versions_and_every_figure() -> None:
    found = figures([one_round(1, 2, 1.0)])
    idle = [Idle("postgresql", 300, 4.5, 10.4, 12.0, 30.0, 0.43)]
    output = io.StringIO()
    show(Console(file=output, width=120), MACHINE, found, idle)
    printed = output.getvalue()
    for words in ("a cpu", "celery 5.7", "mirrorpost_sqlite", "50%", "10.0", "10.4", "0.43"):
        assert words in printed
    assert as_object(MACHINE, found, idle)["machine"] == {
        "cpu": "a cpu",
        "cores": "2 cores, not pinned",
        "kernel": "Linux 6",
        "python": "3.11.7",
        "versions": {"celery": "5.7"},
    }
