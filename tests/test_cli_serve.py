"""The verbs that serve: tokens from the command line, and what is refused before Ray starts."""

import contextlib

import pytest
from click.testing import CliRunner

from astroray import serving
from astroray.cli import cli
from astroray.commands.serve import TOKENS
from astroray.errors import ConfigError
from astroray.web import security
from astroray.web.listening import listen
from astroray.web.security import Tokens
from astroray.web.serve_config import ServeConfig
from tests.runs_made import make_record


@pytest.fixture
def run(tmp_path):
    file = str(tmp_path / "tokens.json")

    def ask(*arguments):
        return CliRunner().invoke(cli, [*arguments, "--tokens", file])

    ask.tokens = Tokens(file)
    return ask


def test_a_token_is_issued_listed_and_revoked(run):
    secret = run("token", "add", "ana", "--scope", "read", "--scope", "label").output.strip()
    assert run.tokens.find(secret)[0].scopes == ("read", "label")
    listed = run("token", "list").output
    assert "ana" in listed
    assert "read,label" in listed
    assert secret not in listed
    assert run("token", "revoke", "ana").output == "revoked ana\n"
    assert run.tokens.find(secret)[0] is None
    assert run("token", "list").output == (
        f"no token in {run.tokens.path}; `astroray token add NAME` issues one\n"
    )


def test_who_serves_is_told_where_it_listens_and_where_its_metrics_are(run, tmp_path, monkeypatch):
    node = {"Alive": True, "NodeManagerAddress": "10.0.0.1", "MetricsExportPort": 8080}
    gone = {**node, "Alive": False, "NodeManagerAddress": "10.0.0.2"}
    monkeypatch.setattr(serving.ray, "nodes", lambda: [node, gone])
    monkeypatch.setattr(
        serving, "serving", lambda config: contextlib.nullcontext("http://127.0.0.1:8123")
    )
    monkeypatch.setattr("astroray.commands.serve.signal.signal", lambda number, handler: None)
    monkeypatch.setattr("astroray.commands.serve.threading.Event.wait", lambda self: None)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    make_record(1, [1.0], state="done").publish(str(tmp_path))
    done = run("serve", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert "serving  http://127.0.0.1:8123  (endpoints: " in done.output
    assert "metrics  http://10.0.0.1:8080/metrics\n" in done.output


def test_a_token_that_has_expired_is_listed_as_such(run, monkeypatch):
    for year in ("2998", "2999"):
        run("token", "add", f"until-{year}", "--expires", f"{year}-01-01")
    monkeypatch.setattr(security, "now", lambda: "2998-06-01T00:00:00Z")
    first, second = run("token", "list").output.splitlines()
    assert first.endswith("until 2998-01-01T00:00:00Z, expired")
    assert second.endswith("until 2999-01-01T00:00:00Z")


def test_a_token_that_cannot_be_is_one_line_and_exit_code_2(run):
    result = run("token", "add", "a b")
    assert result.exit_code == 2
    assert "token name is 'a b'" in result.output


def test_a_folder_without_a_run_is_refused_before_a_token_is_issued(run, tmp_path):
    result = run("serve", str(tmp_path))
    assert result.exit_code == 2
    assert "holds no run.json, expected the --out of a scan" in result.output
    assert run.tokens.all() == ()


def test_a_port_that_is_taken_is_said_before_ray_starts(run, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    make_record(1, [1.0], state="done").publish(str(tmp_path))
    with listen("127.0.0.1", 0) as (_, address):
        result = run("serve", str(tmp_path), "--port", address.rpartition(":")[2])
    assert result.exit_code == 2
    assert f"cannot listen on {address}: Address already in use" in result.output
    assert run.tokens.all() == ()


def test_a_ray_of_its_own_is_not_asked_what_one_before_it_served(tmp_path, monkeypatch):
    def refuse_room(config, machines):
        raise ConfigError("no room")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(serving.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(serving.workers, "cluster", lambda log_dir: contextlib.nullcontext())
    monkeypatch.setattr(serving.workers, "machines", list)
    monkeypatch.setattr(serving.serve, "status", lambda: pytest.fail("it was asked"))
    monkeypatch.setattr(serving, "check_room", refuse_room)
    make_record(1, [1.0], state="done").publish(str(tmp_path))
    with (
        pytest.raises(ConfigError, match="no room"),
        serving.serving(ServeConfig(run_dir=str(tmp_path))),
    ):
        pass


def test_both_verbs_look_for_tokens_in_the_same_file():
    assert ServeConfig(run_dir="x").tokens == TOKENS
