"""Messages that wait for their reader, within bounds of number and memory."""

from __future__ import annotations

import threading
import time
from collections import deque

from qpipe_devices.agent import wire

MOST_MESSAGES = 16
MOST_BYTES = 1 << 26


class Inbox:
    """A queue that whoever fills it waits for, so that the device does; one message always fits."""

    def __init__(self) -> None:
        self.is_closed = False
        self._messages: deque[wire.Message] = deque()
        self._changed = threading.Condition()

    def put(self, message: wire.Message) -> None:
        """Append a message, once there is room."""
        with self._changed:
            self._changed.wait_for(self._has_room)
            self._messages.append(message)
            self._changed.notify_all()

    def get(self, seconds: float) -> wire.Message | None:
        """Return the next message; None where none came in that time, or none will come."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not self._messages and not self.is_closed:
                if not self._changed.wait(deadline - time.monotonic()):
                    return None
            message = self._messages.popleft() if self._messages else None
            self._changed.notify_all()
            return message

    def close(self) -> None:
        """Tell the reader that no more messages come."""
        with self._changed:
            self.is_closed = True
            self._changed.notify_all()

    def drop(self) -> None:
        """Forget the messages that wait."""
        with self._changed:
            self._messages.clear()
            self._changed.notify_all()

    def _has_room(self) -> bool:
        memory = sum(message.memory for message in self._messages)
        return not self._messages or (len(self._messages) < MOST_MESSAGES and memory < MOST_BYTES)
