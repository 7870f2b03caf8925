"""Being asked to stop without losing work."""

import signal
import threading


class StopRequest:
    """While entered, the first SIGTERM or Ctrl-C only sets `asked_by`; a second Ctrl-C interrupts
    at once.

    Signals can only be watched from the main thread; elsewhere nothing is ever asked.
    """

    def __init__(self):
        self.asked_by: str | None = None
        self._before: dict = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_) -> None:
        self._restore()

    def _note(self, number: int, frame) -> None:
        self.asked_by = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
