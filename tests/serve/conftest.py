"""A service with a stand-in for the model."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from fastapi.testclient import TestClient

from humanquery.serve.app import create_app
from humanquery.serve.config import ServiceConfig
from tests.serve.stand_in import StandIn


@pytest.fixture
def model() -> StandIn:
    return StandIn()


@pytest.fixture
def serving(model) -> Iterator[Callable[..., TestClient]]:
    """Starts a service with fields of `ServiceConfig`, and gives its client."""
    with ExitStack() as stack:

        def start(**fields) -> TestClient:
            app = create_app(lambda: model, ServiceConfig(**({"wait": 0} | fields)))
            client = stack.enter_context(TestClient(app, raise_server_exceptions=False))
            stack.callback(model.free.set)
            return client

        yield start
