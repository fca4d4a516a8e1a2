"""The line between the sandbox and a helper: JSON with its length, a descriptor with some. Both ends are trusted."""

import json
import socket


class Closed(Exception):
    """The other end is gone."""


def send(line: socket.socket, message: dict, fd: int | None = None) -> None:
    data = json.dumps(message, ensure_ascii=False).encode("utf-8", "surrogatepass")  # two surrogates stay two
    header = len(data).to_bytes(4, "little")
    try:
        socket.send_fds(line, [header], [] if fd is None else [fd])
        line.sendall(data)
    except ConnectionError as error:
        raise Closed from error


def receive(line: socket.socket) -> tuple[dict, int | None]:
    try:
        header, fds, _, _ = socket.recv_fds(line, 4, 1)
        size = int.from_bytes(header + _take(line, 4 - len(header)), "little")
        return json.loads(_take(line, size).decode("utf-8", "surrogatepass")), fds[0] if fds else None
    except ConnectionError as error:
        raise Closed from error


def _take(line: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = line.recv(size - len(data))
        if not piece:
            raise Closed
        data += piece
    return bytes(data)
