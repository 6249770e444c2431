"""The verbs that serve: tokens from the command line, and what is refused before Ray starts."""

import pytest
from click.testing import CliRunner

from astroray.cli import cli
from astroray.commands.serve import TOKENS
from astroray.web.security import Tokens
from astroray.web.serve_config import ServeConfig


@pytest.fixture
def run(tmp_path):
    file = str(tmp_path / "tokens.json")

    def ask(*arguments):
        return CliRunner().invoke(cli, [*arguments, "--tokens", file])

    ask.tokens = Tokens(file)
    return ask


def test_a_token_is_issued_listed_and_revoked(run):
    secret = run("token", "add", "ana", "--scope", "read", "--scope", "label").output.strip()
    assert run.tokens.find(secret).scopes == ("read", "label")
    listed = run("token", "list").output
    assert "ana" in listed
    assert "read,label" in listed
    assert secret not in listed
    assert run("token", "revoke", "ana").output == "revoked ana\n"
    assert run.tokens.find(secret) is None


def test_a_token_that_cannot_be_is_one_line_and_exit_code_2(run):
    result = run("token", "add", "a b")
    assert result.exit_code == 2
    assert "token name is 'a b'" in result.output


def test_a_folder_without_a_run_is_refused_before_a_token_is_issued(run, tmp_path):
    result = run("serve", str(tmp_path))
    assert result.exit_code == 2
    assert "holds no run.json, expected the --out of a scan" in result.output
    assert run.tokens.all() == ()


def test_both_verbs_look_for_tokens_in_the_same_file():
    assert ServeConfig(run_dir="x").tokens == TOKENS
