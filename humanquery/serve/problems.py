"""Errors as clients get them: a status, a word for programs, a sentence for people."""

from typing import Any

from starlette.responses import JSONResponse, Response

from humanquery.core.errors import ConfigError, HumanQueryError, ImageError, VideoError
from humanquery.serve.batcher import Busy


class Problem(HumanQueryError):
    """What a request is answered with in place of people. `error` is one word; `retry_after` (s)
    is for what may work later."""

    def __init__(self, status: int, error: str, message: str, retry_after: int | None = None):
        super().__init__(message)
        self.status, self.error, self.retry_after = status, error, retry_after

    def response(self) -> Response:
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 408:  # the rest of the body is not read
            headers["Connection"] = "close"
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.plain(), self.status, headers)

    def plain(self) -> dict[str, Any]:
        return {"error": self.error, "message": str(self)}


def as_problem(raised: BaseException) -> Problem:
    """What a client is told of something that was raised; of errors that nobody foresaw, nothing
    but that they are written down."""
    if isinstance(raised, Problem):
        return raised
    if isinstance(raised, Busy):
        return Problem(503, "busy", str(raised), raised.retry_after)
    if isinstance(raised, ImageError):
        return Problem(422, "picture", str(raised))
    if isinstance(raised, VideoError):
        return Problem(422, "clip", str(raised))
    if isinstance(raised, ConfigError):
        return Problem(422, "options", str(raised))
    if isinstance(raised, TimeoutError):
        return Problem(504, "time", "the time for this request is over; send less at once, or "
                       "ask again when less is going on", 5)  # fmt: skip
    return Problem(500, "internal", "something failed here; it is in the log of the service")
