"""The OpenAPI document holds: no request gets an answer that it does not promise."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from astroray.archive import Archive
from astroray.web.app import build_app
from astroray.web.curve_uploads import CurveLimits
from astroray.web.flares import build_flare_router
from astroray.web.guard import Limits
from astroray.web.security import Tokens
from tests.served_run import PlainEncoder, PlainForecaster, make_forecaster, make_run

CHECKS = [
    not_a_server_error, content_type_conformance, response_schema_conformance,
    status_code_conformance,
]  # fmt: skip
OPERATIONS = [
    "GET /v1/run", "GET /v1/catalog", "GET /v1/cone", "GET /v1/objects/{object_id}/cutout.png",
    "GET /v1/objects/{object_id}", "GET /v1/similar", "POST /v1/similar", "POST /v1/score",
    "POST /v1/embed", "GET /v1/audit", "POST /v1/flares/forecast", "GET /healthz", "GET /readyz",
]  # fmt: skip
NUM_EXAMPLES = 15


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The schema of an app, and the headers of a caller who may do everything."""
    folder = tmp_path_factory.mktemp("contract")
    archive = Archive(make_run(folder))
    tokens = Tokens(str(folder / "tokens.json"))
    forecaster = PlainForecaster(make_forecaster(str(folder / "flares.model")))
    app = build_app(
        archive,
        PlainEncoder(archive.model),
        tokens=tokens,
        limits=Limits(requests_per_s=1e9, burst=10**9),
        routers=[build_flare_router(forecaster, archive.run_id, CurveLimits())],
    )
    secret = tokens.issue("all", ["admin"])
    return app, {"Authorization": f"Bearer {secret}"}


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_answer_is_one_that_the_document_promises(served, name):
    app, headers = served
    document = schemathesis.openapi.from_asgi("/openapi.json", app)
    operation = next(o.ok() for o in document.get_all_operations() if o.ok().label == name)

    @given(
        st.one_of(
            operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode
        )
    )
    @settings(
        max_examples=NUM_EXAMPLES,
        suppress_health_check=list(HealthCheck),
    )
    def ask(case):
        case.call_and_validate(headers=headers, checks=CHECKS)

    ask()


def test_every_operation_is_asked(served):
    document = schemathesis.openapi.from_asgi("/openapi.json", served[0])
    assert [o.ok().label for o in document.get_all_operations()] == OPERATIONS
