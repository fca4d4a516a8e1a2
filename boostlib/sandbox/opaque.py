"""A handle on something of the other side's that is not data: what a test can do with it, and on purpose cannot.

It can be called, iterated, indexed, asked for its length, truth, text and attributes. It equals nothing but itself and
takes part in no arithmetic, ordering or search: any of these would hand the expected value to the candidate and let it
decide. `in` falls back on iteration, which compares on the test's side.
"""

from collections.abc import Iterator


class Opaque:
    """`Opaque(peer, handle, name)`: each use is one request to the peer."""

    __slots__ = ("_handle", "_name", "_peer")

    def __init__(self, peer, handle: int, name: str) -> None:
        for slot, value in (("_peer", peer), ("_handle", handle), ("_name", name)):
            object.__setattr__(self, slot, value)

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # copy, pickle and inspect look for these on anything
            raise AttributeError(name)
        return self._peer.request("getattr", self, name)

    def __setattr__(self, name: str, value: object) -> None:
        self._peer.request("setattr", self, name, value)

    def __getitem__(self, key: object) -> object:
        return self._peer.request("getitem", self, key)

    def __setitem__(self, key: object, value: object) -> None:
        self._peer.request("setitem", self, key, value)

    def __iter__(self) -> Iterator[object]:
        iterator = self._peer.request("iter", self)
        while True:
            try:
                yield self._peer.request("next", iterator)
            except StopIteration:
                return

    def __next__(self) -> object:
        return self._peer.request("next", self)

    def __len__(self) -> int:
        return self._peer.request("len", self)

    def __bool__(self) -> bool:
        return self._peer.request("bool", self) is True

    def __str__(self) -> str:
        return self._peer.request("str", self)

    def __repr__(self) -> str:
        return f"<opaque {self._name}>"

    def __instancecheck__(self, value: object) -> bool:
        return type(value) in (Opaque, OpaqueFunction) and self._peer.request("isinstance", self, value) is True


class OpaqueFunction(Opaque):
    """One that can be called: a class of its own, so that `callable` tells them apart."""

    __slots__ = ()

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self._peer.request("call", self, args, kwargs)
