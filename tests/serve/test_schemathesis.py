"""Requests made up from the OpenAPI description, valid and not: no 5xx, answers as described."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from recbole_lite import Recommender
from recbole_lite.serve.app import create_app
from recbole_lite.serve.limits import Limits

load_all_checks()
# A made-up id is valid by the description, and refused because the catalogue does not have it.
EXCLUDED = [check for check in CHECKS.get_all() if check.__name__ == "positive_data_acceptance"]
QUIETLY = settings(
    max_examples=15,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def described(trained):
    recommender = Recommender.load(trained("SASRec"))
    app = create_app(recommender, Limits(max_history=50))
    return schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.mark.parametrize(
    "method, path, statuses, mode",
    [
        ("POST", "/recommend", {200}, GenerationMode.POSITIVE),
        ("POST", "/recommend", {422}, GenerationMode.NEGATIVE),
        ("GET", "/items", {200}, GenerationMode.POSITIVE),
        ("GET", "/items", {422}, GenerationMode.NEGATIVE),
        ("GET", "/items/{id}", {404}, GenerationMode.POSITIVE),  # any text is an id
        ("POST", "/recommend/users", {200}, GenerationMode.POSITIVE),
        ("POST", "/recommend/users", {422}, GenerationMode.NEGATIVE),
        ("GET", "/items/{id}/similar", {404}, GenerationMode.POSITIVE),
        ("GET", "/fields", {200}, GenerationMode.POSITIVE),
        ("GET", "/health", {200}, GenerationMode.POSITIVE),  # takes nothing
    ],
)
def test_every_answer_is_as_described(method, path, statuses, mode, described):
    met = set()

    @QUIETLY
    @given(case=described[path][method].as_strategy(generation_mode=mode))
    def ask(case):
        if mode.is_positive and path == "/recommend":
            case.body["history"] = ["i3", *case.body["history"][:3]]  # one that is known
        met.add(case.call_and_validate(excluded_checks=EXCLUDED).status_code)

    ask()
    assert met >= statuses
