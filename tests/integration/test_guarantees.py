"""The table of guarantees: the README's is the command's."""

import json
import re
from pathlib import Path

import pytest

from tests.command_line import CommandLine
from worker.platforms import platforms

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path)


def test_the_readme_has_the_commands_table(cli: CommandLine) -> None:
    said = cli("guarantees", "--markdown").out
    kept = re.search(
        r"<!-- mirrorpost guarantees --markdown -->\n(.*?)<!-- end -->",
        README.read_text(),
        re.DOTALL,
    )
    assert kept is not None
    assert kept[1] == said


def test_every_platform_has_its_line_and_the_ways_in_theirs(cli: CommandLine) -> None:
    found = json.loads(cli("guarantees", "--json").out)
    assert [each["platform"] for each in found] == sorted(platforms())
    by_name = {each["platform"]: each for each in found}
    kept = "exactly once if the bot keeps its login, else at least once"
    assert by_name["matrix"]["hold"] == by_name["matrix"]["resend"] == kept
    seen = "exactly once if the receiver remembers the ids that it has seen, else at least once"
    assert by_name["webhook"]["hold"] == by_name["webhook"]["resend"] == seen
    assert by_name["telegram"]["hold"] == "at most once, held"
    assert "within 120 s" in by_name["discord"]["ambiguous"]
    assert "asked for" in by_name["slack"]["ambiguous"]
    amendable = {name for name, each in by_name.items() if each["amend"] == "yes"}
    assert amendable == {"discord", "matrix", "slack", "telegram"}
    assert "Redis that is killed" in cli("guarantees").out
