"""What the README and the pages of docs/ tell people to type, and where they lead, exists."""

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
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(text):
    """What is fenced without a language: what a shell gets."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [block for language, block in fenced if not language]


def commands(page):
    lines = [line for block in blocks(page.read_text()) for line in block.splitlines()]
    return [line.partition("#")[0].strip() for line in lines if line.startswith("astroray ")]


def anchors(page):
    """What a heading is called in an address, as GitHub has it."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings}


COMMANDS = {f"{page.stem}: {line}": line for page in PAGES for line in commands(page)}
BLOCKS = blocks(README)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_every_verb_and_flag_exists(command):
    words = shlex.split(command.translate(str.maketrans("", "", "[]")))
    verb = cli
    while isinstance(verb, click.Group):
        words = words[1:]
        verb = verb.commands[words[0]]
    params = list(verb.params)
    if verb.name == "submit":  # the rest of its flags are the job's
        params += runpy.run_path(str(ROOT / "jobs" / f"{words[1]}.py"))["main"].params
    if verb.name == "bench":
        assert (ROOT / "benchmarks" / f"{words[1]}.py").is_file()
        return
    flags = {option for param in params for option in param.opts}
    assert {word for word in words[1:] if word.startswith("--")} <= flags


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_leads_to_a_file_and_a_heading(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    for link in links:
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_list_of_pages():
    listed = re.findall(r"\]\((\w+\.md)\)", (ROOT / "docs" / "README.md").read_text())
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert sorted(listed) == sorted(pages)


def test_every_make_target_exists():
    targets = re.findall(r"^make (\w+)", "\n".join(BLOCKS), re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    assert targets
    for target in {*targets, *re.findall(r"`make (\w+)`", CONTRIBUTING)}:
        assert f"\n{target}:" in makefile, target


def test_every_file_that_is_named_exists():
    named = set(re.findall(r"`((?:tests|jobs)/[\w.]+)`", CONTRIBUTING))
    named |= {
        f"astroray/{name}"
        for name in re.findall(r"`(?:astroray/)?((?:\w+/)?\w+\.py)`", CONTRIBUTING)
        if not name.startswith(("tests/", "jobs/"))
    }
    assert len(named) > 5
    for name in named:
        assert (ROOT / name).exists(), name


def test_every_encoder_and_scheme_is_in_the_tables():
    encoders = (ROOT / "docs" / "encoders.md").read_text()
    for name in ENCODERS:
        assert f"| `{name}` |" in encoders
    assert SurveyUri.parse("hdf?threshold=4").options == {"threshold": "4"}


def test_every_verb_is_mentioned():
    for name, command in cli.commands.items():
        assert isinstance(command, click.Command)
        assert re.search(rf"\b(astroray )?{name}\b", README), name
