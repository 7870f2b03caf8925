"""The service behind its real HTTP server, with clients of all sorts."""

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from humanquery.serve import watch
from humanquery.serve.metrics import Metrics
from tests.serve.running import Running
from tests.serve.stand_in import comes, picture


def head(length: int, path: str = "/v1/picture") -> bytes:
    """The head of a request, whose body has so many bytes."""
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


def everything(client: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    came = b""
    while more := client.recv(1 << 16):
        came += more
    return came


def piece(client) -> bytes:
    came = client.recv(1 << 16)
    assert came, "the server closed the connection in the middle of an answer"
    return came


def one_answer(client) -> bytes:
    """Head and body of the next answer, in however many pieces they come."""
    came = b""
    while b"\r\n\r\n" not in came:
        came += piece(client)
    start, _, body = came.partition(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", start.lower())[1])
    while len(body) < length:
        body += piece(client)
    assert len(body) == length
    return start + body


@pytest.fixture
def running(model) -> Iterator:
    started: list[Running] = []

    def start(**fields) -> Running:
        started.append(Running(model, **fields))
        return started[-1]

    yield start
    model.free.set()
    for one in started:
        one.stop()
        one.thread.join(10)
        assert not one.thread.is_alive()


def test_stopping_answers_what_was_taken_and_takes_no_more(running, model):
    server, body = running(), picture()
    model.hold()
    with server.connected() as client:
        client.sendall(head(len(body)) + body)
        assert model.entered.wait(10)
        server.stop()
        assert comes(lambda: not server.server.servers[0].is_serving())
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", server.port), timeout=1)
        model.free.set()
        answer = everything(client)
    assert answer.startswith(b"HTTP/1.1 200")
    assert len(json.loads(answer.partition(b"\r\n\r\n")[2])["persons"]) == 1
    server.thread.join(10)
    assert not server.service.batcher.alive


def test_a_body_that_comes_too_slowly_is_told_and_let_go(running):
    server = running(upload_seconds=0.2)
    with server.connected() as client:
        client.sendall(head(10_000) + picture()[:100])
        answer = everything(client)
    assert answer.startswith(b"HTTP/1.1 408") and b"not complete after 0.2 s (100 bytes" in answer
    assert server.service.bodies.bytes == 0


def test_a_client_that_never_says_what_it_wants_is_let_go(running, monkeypatch):
    monkeypatch.setattr(watch, "HEADER_SECONDS", 0.2)
    server = running()
    with server.connected() as silent, server.connected() as half:
        half.sendall(b"POST /v1/picture HTTP/1.1\r\nHost:")
        assert everything(silent) == everything(half) == b""


def test_a_client_that_goes_on_sending_what_was_refused_is_let_go(running, monkeypatch):
    monkeypatch.setattr(watch, "HEADER_SECONDS", 0.2)
    with running(max_bytes=1000).connected() as client:
        client.sendall(head(1_000_000))
        assert everything(client).startswith(b"HTTP/1.1 413")


def test_a_client_that_leaves_gives_its_place_to_others(running, model):
    server, body = running(), picture()
    model.hold()
    with server.connected() as first:
        first.sendall(head(len(body)) + body)
        assert model.entered.wait(10)
        with server.connected() as second:
            second.sendall(head(len(body)) + body)
            assert comes(lambda: server.service.waiting == 2)
        assert comes(lambda: server.service.waiting == 1)
        model.free.set()
        assert first.recv(12) == b"HTTP/1.1 200"
    assert comes(lambda: server.service.waiting == 0)
    assert model.batches == [1, 1], "one to warm up, one that was answered"


def watched(answer: bytes, seconds: float, send) -> Metrics:
    """What is counted of an answer that goes through `Watch` to `send`."""
    metrics = Metrics()
    service = SimpleNamespace(metrics=metrics)

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": answer})

    scope = {"type": "http", "app": SimpleNamespace(state=SimpleNamespace(service=service))}
    asyncio.run(watch.Watch(app, seconds)(scope, None, send))
    return metrics


def test_a_large_answer_goes_in_pieces_that_make_the_whole():
    came = []

    async def send(message):
        came.append(message)

    answer = bytes(range(256)) * 1000
    metrics = watched(answer, 5, send)
    parts = came[1:]
    assert b"".join(part["body"] for part in parts) == answer
    assert max(len(part["body"]) for part in parts) == watch.PIECE
    assert [part["more_body"] for part in parts] == [True] * (len(parts) - 1) + [False]
    assert metrics.requests.labels("other", "200")._value.get() == 1


def test_an_answer_that_nobody_reads_is_broken_off():
    came = []

    async def send(message):
        came.append(message)
        if len(came) == 3:
            await asyncio.sleep(60)

    watched(bytes(10 * watch.PIECE), 0.05, send)
    assert len(came) == 3


def test_two_requests_over_one_connection(running):
    server, body = running(), picture()
    with server.connected() as client:
        for _ in range(2):
            client.sendall(head(len(body)) + body)
            assert one_answer(client).startswith(b"HTTP/1.1 200")
