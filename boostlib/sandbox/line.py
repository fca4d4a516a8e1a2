"""The line between the sandbox and a helper: JSON messages with a length, and a descriptor with some. Both ends trusted."""

import json
import socket


class Closed(Exception):
    """The other end is gone."""


def send(line: socket.socket, message: dict, fd: int | None = None) -> None:
    data = json.dumps(message).encode()
    header = len(data).to_bytes(4, "little")
    try:
        if fd is None:
            line.sendall(header + data)
        else:
            socket.send_fds(line, [header], [fd])
            line.sendall(data)
    except (BrokenPipeError, ConnectionResetError) as error:
        raise Closed from error


def receive(line: socket.socket) -> tuple[dict, int | None]:
    header, fds, _, _ = socket.recv_fds(line, 4, 1)
    size = int.from_bytes(header + _take(line, 4 - len(header)) if header else _take(line, 4), "little")
    return json.loads(_take(line, size)), fds[0] if fds else None


def _take(line: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        try:
            piece = line.recv(min(size - len(data), 1 << 20))
        except ConnectionResetError:
            piece = b""
        if not piece:
            raise Closed
        data += piece
    return bytes(data)
