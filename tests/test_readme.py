"""What the README tells people to type exists."""

import re
import runpy
import shlex
from pathlib import Path

import click
import pytest

from astroray.cli import cli
from astroray.encoders import ENCODERS
from astroray.surveys.shards import SurveyUri

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FENCED = re.findall(r"^```(\w*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
BLOCKS = [text for language, text in FENCED if not language]
COMMANDS = [
    line.partition("#")[0].strip()
    for block in BLOCKS
    for line in block.splitlines()
    if line.startswith("astroray ")
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_verb_and_flag_exists(command):
    words = shlex.split(command.translate(str.maketrans("", "", "[]")))
    verb = cli
    while isinstance(verb, click.Group):
        words = words[1:]
        verb = verb.commands[words[0]]
    params = list(verb.params)
    if verb.name == "submit":  # the rest of its flags are the job's
        params += runpy.run_path(str(ROOT / "jobs" / f"{words[1]}.py"))["main"].params
    flags = {option for param in params for option in param.opts}
    assert {word for word in words[1:] if word.startswith("--")} <= flags


def test_every_make_target_exists():
    targets = re.findall(r"^make (\w+)", "\n".join(BLOCKS), re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    assert targets
    for target in {*targets, *re.findall(r"`make (\w+)`", README)}:
        assert f"\n{target}:" in makefile, target


def test_every_file_that_is_named_exists():
    named = {*re.findall(r"\]\((docs/[^)]+)\)", README)}
    named |= set(re.findall(r"`((?:tests|jobs)/[\w.]+)`", README))
    named |= {
        f"astroray/{name}"
        for name in re.findall(r"`(?:astroray/)?((?:\w+/)?\w+\.py)`", README)
        if not name.startswith(("tests/", "jobs/"))
    }
    assert len(named) > 5
    for name in named:
        path, _, anchor = name.partition("#")
        assert (ROOT / path).exists(), name
        headings = re.findall(r"^#+ (.*)", (ROOT / path).read_text(), re.M) if anchor else []
        anchors = {re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings}
        assert not anchor or anchor in anchors, name


def test_every_encoder_and_scheme_is_in_the_tables():
    for name in ENCODERS:
        assert f"| `{name}` |" in README
    assert SurveyUri.parse("hdf?threshold=4").options == {"threshold": "4"}


def test_every_verb_is_mentioned():
    for name, command in cli.commands.items():
        assert isinstance(command, click.Command)
        assert re.search(rf"\b(astroray )?{name}\b", README), name
