"""A board on a serial console, as a process: a line, noise of a kernel, a login, a shell on a terminal.

It prints the port at the host's end of the line. The argument is a password, or nothing for a console
that asks for none.
"""

from __future__ import annotations

import os
import pty
import select
import sys
import tty

NOISE = b"[    3.141592] usb 1-1: new high-speed device\r\n"


def ask(line: int, question: bytes) -> bytes:
    """What is typed after a question."""
    os.write(line, question)
    typed = b""
    while not typed.endswith(b"\n"):
        typed += os.read(line, 1)
    return typed.strip()


def log_in(line: int, password: str) -> None:
    """Ask until user and password are right."""
    while password:
        user = ask(line, b"\r\nboard login: ")
        if user and ask(line, b"Password: ") == password.encode():
            return


def main() -> None:
    """Carry bytes between the line and a shell."""
    line, host_end = pty.openpty()
    tty.setraw(host_end)
    print(os.ttyname(host_end), flush=True)
    log_in(line, sys.argv[1] if len(sys.argv) > 1 else "")
    child, shell = pty.fork()
    if child == 0:
        os.execvpe("/bin/sh", ["sh", "-i"], {**os.environ, "PS1": "board# ", "ENV": ""})
    while True:
        for source in select.select([line, shell], [], [])[0]:
            content = os.read(source, 4096)
            if not content:
                return
            os.write(shell if source is line else line, content)
            if source is shell and content.endswith(b"\n"):
                os.write(line, NOISE)


if __name__ == "__main__":
    main()
