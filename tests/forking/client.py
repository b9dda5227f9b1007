"""A Python interpreter that has torch imported: `python script.py ...`, `-m module`, `-c code`.

It asks the fork server (server.py) for a process, gives it its own files, folder, environment
and limits, passes signals on to it, and ends as that one ends. When it is killed, so is the other.
"""

import array
import json
import os
import resource
import signal
import socket
import sys
import time

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def connect(folder: str) -> socket.socket:
    """A connection to the server, which may still be importing."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    deadline = time.monotonic() + 300
    while True:
        try:
            server.connect(os.path.join(folder, "socket"))
            return server
        except OSError:
            if time.monotonic() > deadline or os.path.exists(os.path.join(folder, "failed")):
                with open(os.path.join(folder, "log")) as log:
                    sys.exit(f"no fork server: {log.read()[-2000:]}")
            time.sleep(0.02)


def ask(folder: str, request: dict, files: list[int]) -> socket.socket:
    """Ask for a process with these three open files; it ends when the connection is closed."""
    server = connect(folder)
    data = json.dumps(request).encode()
    head = len(data).to_bytes(4, "big")
    rights = array.array("i", files)
    server.sendmsg([head], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    server.sendall(data)
    return server


def answer(server: socket.socket) -> int:
    """A line of the server's: the number of the process first, its exit code when it has ended."""
    line = b""
    while not line.endswith(b"\n"):
        more = server.recv(1)
        if not more:
            raise EOFError("the fork server is gone")
        line += more
    return int(line)


def ignored() -> list[int]:
    """Signals that this process ignores, as the processes that it starts do."""
    return [number for number in PASSED_ON if signal.getsignal(number) == signal.SIG_IGN]


def main(folder: str, words: list[str]) -> None:
    environment = dict(os.environ)
    not_heard = ignored()
    request = {
        "client": os.getpid(),
        "limits": {},
        "words": words,
        "environment": environment,
        "folder": os.getcwd(),
        "file_size": resource.getrlimit(resource.RLIMIT_FSIZE),
        "ignored": not_heard,
    }
    server = ask(folder, request, [0, 1, 2])
    for number in PASSED_ON:
        if number not in not_heard:
            signal.signal(number, lambda number, _: server.send(bytes([number])))
    try:
        answer(server)
        code = answer(server)
    except EOFError as gone:
        sys.exit(str(gone))
    if code < 0:  # it was ended by a signal: end in the same way
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
