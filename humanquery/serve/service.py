"""What happens to a request: its body is taken, waits for the model, becomes an answer."""

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from starlette.requests import ClientDisconnect, Request

from humanquery.core.skeleton import Skeleton
from humanquery.core.system import Ask
from humanquery.media.images import read_size
from humanquery.media.pictures import fetch
from humanquery.predict.base import BasePredictor
from humanquery.serve.answers import (
    Asked,
    ClipOptions,
    DrawnOptions,
    PictureOptions,
    ask_of,
    drawn_jpeg,
    model_json,
    picture_json,
)
from humanquery.serve.batcher import Batcher, Seen
from humanquery.serve.clips import Deadline, follow
from humanquery.serve.config import ServiceConfig
from humanquery.serve.metrics import Metrics
from humanquery.serve.problems import Problem, as_problem
from humanquery.serve.uploads import (
    CLIP_KINDS,
    PICTURE_KINDS,
    Bodies,
    Upload,
    check_kind,
    read_uploads,
)

STUCK = 5
"""times `ServiceConfig.seconds` that one batch may take before the service calls itself ill"""
WRITERS = 2
"""threads that draw and write answers: each holds a picture and its masks"""
Result = TypeVar("Result")


class Service:
    """One worker: a model with its owner, and what clients have given into it."""

    def __init__(self, predictor: BasePredictor, config: ServiceConfig):
        self.config, self.metrics = config, Metrics()
        self.batcher = Batcher(
            predictor,
            batch_size=config.batch_size,
            wait=config.wait,
            on_batch=self.metrics.batch,
        )
        self.bodies = Bodies(config.waiting_bytes)
        self.waiting = 0
        """pictures that have been taken and are not answered"""
        self.clips = 0
        self.skeleton: Skeleton | None = None
        self.ready = False
        self._writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="writer")
        self._followers = ThreadPoolExecutor(config.max_clips, thread_name_prefix="clip")

    async def start(self) -> None:
        """Looks at an empty picture, so that nobody waits for what is only slow once."""
        empty, ask = np.zeros((64, 64, 3), np.uint8), self.batcher.predictor.ask()
        seen = await asyncio.wrap_future(self.batcher.submit(empty, ask))
        self.skeleton, self.ready = seen.people.skeleton, True

    async def stop(self) -> None:
        """Finishes what was taken."""
        self.ready = False
        await asyncio.to_thread(self.batcher.close)
        self._writers.shutdown()
        self._followers.shutdown()

    @property
    def ill(self) -> str:
        """Why this worker should be started anew; empty where it should not."""
        if not self.batcher.alive:
            return "the thread that owns the model has ended"
        busy = self.batcher.busy_seconds
        if busy > STUCK * self.config.seconds:
            return f"the model has been at one batch for {busy:.0f} s"
        return ""

    def model(self) -> dict[str, Any]:
        limits = ("max_bytes", "max_pixels", "max_pictures", "max_frames")
        facts = model_json(self.batcher.predictor, self.skeleton)
        return facts | {"limits": {name: getattr(self.config, name) for name in limits}}

    async def picture(self, request: Request, options: PictureOptions) -> bytes:
        """JSON of the people of one picture."""
        return await self._one(request, options, lambda s: _json(picture_json(s, options)))

    async def drawn(self, request: Request, options: DrawnOptions) -> bytes:
        """A JPEG of the picture with its people on it."""
        return await self._one(request, options, lambda seen: drawn_jpeg(seen, options))

    async def _one(self, request: Request, options: Asked, write: Callable[[Seen], bytes]) -> bytes:
        ask = ask_of(self.batcher.predictor, options)
        self._refuse_where_full(1)
        with self.bodies.body() as counted:
            (upload,) = await read_uploads(request, self.config, counted)
            with self._room_for(1):
                return await self._in_time(
                    request, self._answer(upload, ask, write), self.config.seconds
                )

    async def pictures(self, request: Request, options: PictureOptions) -> bytes:
        """JSON of the people of each picture of a list, or of what is wrong with it."""
        ask = ask_of(self.batcher.predictor, options)
        self._refuse_where_full(1)
        with self.bodies.body() as counted:
            most = self.config.max_pictures
            uploads = await read_uploads(request, self.config, counted, most)
            with self._room_for(len(uploads)):
                write = lambda seen: picture_json(seen, options)  # noqa: E731
                answers = asyncio.gather(*(self._entry(upload, ask, write) for upload in uploads))
                found = await self._in_time(request, answers, self.config.seconds)
                return await self._write(_json, {"pictures": found})

    async def _entry(
        self, upload: Upload, ask: Ask, write: Callable[[Seen], dict[str, Any]]
    ) -> dict[str, Any]:
        """One line of a list: a damaged picture does not spoil the others."""
        entry = {"name": upload.name, "people": None, "problem": None}
        try:
            return entry | {"people": await self._answer(upload, ask, write)}
        except Exception as raised:
            problem = as_problem(raised)
            if problem.status >= 500:
                raise
            self.metrics.problems.labels(problem.error).inc()
            return entry | {"problem": problem.plain()}

    async def _answer(self, upload: Upload, ask: Ask, write: Callable[[Seen], Result]) -> Result:
        name, content = upload.name, upload.content
        if upload.url:
            content = await asyncio.to_thread(
                fetch,
                upload.url,
                seconds=self.config.upload_seconds,
                max_bytes=self.config.max_bytes,
            )
        check_kind(Upload(name, content), PICTURE_KINDS)
        limit = self.config.max_pixels
        # from the header: what is too large or no picture need not wait for the model
        await asyncio.to_thread(read_size, content, name=name, max_pixels=limit)
        waiting = self.batcher.submit(content, ask, name=name, max_pixels=limit)
        return await self._write(write, await asyncio.wrap_future(waiting))

    async def clip(self, request: Request, options: ClipOptions) -> bytes:
        """JSON of the people of each frame of a clip."""
        ask_of(self.batcher.predictor, options)
        if self.clips >= self.config.max_clips:
            raise Problem(
                503,
                "busy",
                f"{self.clips} clips are being followed, at most {self.config.max_clips} at a "
                "time; ask again in a moment",
                retry_after=5,
            )
        self.clips += 1
        deadline = Deadline(self.config.upload_seconds + self.config.clip_seconds)
        try:
            with self.bodies.body() as counted:
                (upload,) = await read_uploads(request, self.config, counted)
                if upload.url:
                    raise Problem(422, "urls", "a clip is sent itself, not its address")
                kind = check_kind(upload, CLIP_KINDS)
                given = (upload.content, upload.name, kind, self.batcher, self.config)
                running = self._followers.submit(follow, *given, options, deadline)
                try:
                    following = asyncio.wrap_future(running)
                    found = await self._in_time(request, following, self.config.clip_seconds)
                finally:
                    deadline.stop()
            return await self._write(_json, found)
        finally:
            self.clips -= 1

    async def _write(self, write: Callable[[Any], Result], what: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._writers, write, what)

    def _refuse_where_full(self, pictures: int) -> None:
        """Before a body is read in vain; also where it would wait until its time is over."""
        wait = self.waiting * self.batcher.seconds_per_picture
        if self.waiting + pictures > self.config.queue or wait > self.config.seconds:
            # by then half of them are done, and who asks too early is only told again
            again = max(math.ceil(wait / 2), 1)
            raise Problem(
                503,
                "busy",
                f"{self.waiting} pictures are waiting already, about {wait:.0f} s of work; ask "
                f"again in {again} s",
                retry_after=again,
            )

    @contextmanager
    def _room_for(self, pictures: int) -> Iterator[None]:
        self._refuse_where_full(pictures)
        self.waiting += pictures
        self.metrics.waiting.inc(pictures)
        try:
            yield
        finally:
            self.waiting -= pictures
            self.metrics.waiting.dec(pictures)

    async def _in_time(
        self, request: Request, work: Awaitable[Result], seconds: float | int
    ) -> Result:
        """What `work` gives; it is cancelled at the end of the time (TimeoutError) and where the
        client leaves (ClientDisconnect)."""
        working, leaving = asyncio.ensure_future(work), asyncio.create_task(_left(request))
        try:
            await asyncio.wait(
                {working, leaving}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if working.done():
                return working.result()
            if leaving.done():
                raise ClientDisconnect
            raise TimeoutError
        finally:
            working.cancel()
            leaving.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _json(answer: Any) -> bytes:
    return json.dumps(answer, separators=(",", ":"), allow_nan=False).encode()
