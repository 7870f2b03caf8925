"""The service behind its real HTTP server, in a thread."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from humanquery.serve.app import create_app
from humanquery.serve.config import ServiceConfig
from humanquery.serve.watch import PatientProtocol
from tests.serve.stand_in import StandIn, comes


class Running:
    """A server in a thread; `stop` is what SIGTERM does."""

    def __init__(self, model: StandIn, **fields):
        """`fields` are those of `ServiceConfig`."""
        self.app = create_app(lambda: model, ServiceConfig(**({"wait": 0} | fields)))
        config = uvicorn.Config(
            self.app, port=0, http=PatientProtocol, ws="none", log_level="critical", loop="asyncio"
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        assert comes(lambda: self.server.started)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]

    @property
    def service(self):
        return self.app.state.service

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.server.should_exit = True

    @contextmanager
    def connected(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=15) as client:
            yield client
