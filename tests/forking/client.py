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
    deadline = time.monotonic() + 120
    while True:
        try:
            server.connect(os.path.join(folder, "socket"))
            return server
        except OSError:
            if time.monotonic() > deadline or os.path.exists(os.path.join(folder, "failed")):
                with open(os.path.join(folder, "log")) as log:
                    sys.exit(f"no fork server: {log.read()[-2000:]}")
            time.sleep(0.02)


def main(folder: str, words: list[str]) -> None:
    ignored = [number for number in PASSED_ON if signal.getsignal(number) == signal.SIG_IGN]
    server = connect(folder)
    for number in PASSED_ON:
        if number not in ignored:
            signal.signal(number, lambda number, _: server.send(bytes([number])))
    environment = dict(os.environ)
    request = {
        "pid": os.getpid(),
        "limits": json.loads(environment.pop("FORKED_LIMITS", "{}")),
        "words": words,
        "environment": environment,
        "folder": os.getcwd(),
        "file_size": resource.getrlimit(resource.RLIMIT_FSIZE),
        "ignored": ignored,
    }
    data = json.dumps(request).encode()
    files = array.array("i", [0, 1, 2])
    head = len(data).to_bytes(4, "big")
    server.sendmsg([head], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
    server.sendall(data)
    answer = b""
    while not answer.endswith(b"\n"):
        more = server.recv(64)
        if not more:
            sys.exit("the fork server is gone")
        answer += more
    code = int(answer)
    if code < 0:  # it was ended by a signal: end in the same way
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
