"""Reverse proxies: one strips cookies from the websocket handshake, as some hosts do, one loses its connections."""

from __future__ import annotations

import asyncio
import re
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")

_COOKIE_HEADER = re.compile(rb"\r\nCookie:[ \t]*([^\r]*)", re.IGNORECASE)
_UPGRADE = re.compile(rb"\r\nUpgrade:[ \t]*websocket", re.IGNORECASE)
_END_OF_HEAD = b"\r\n\r\n"


class Proxy:
    """A proxy before a server.

    As a context manager it is closed on exit. `url` is what a visitor uses instead of the server's.

    Args:
        upstream: The server's URL.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = urlsplit(upstream)
        self._loop = asyncio.new_event_loop()
        self._carries = asyncio.Event()
        self._carries.set()
        self._listening: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._listening = self._call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        port = self._listening.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}{self._upstream.path}"

    def close(self) -> None:
        """End the proxy with all connections through it; twice is fine."""
        if self._listening is None:
            return
        self._listening.close()
        self._listening = None
        self._call(self._end_connections())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _end_connections(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Either side may vanish at any moment, and a browser opens connections that it never uses.
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await reader.readuntil(_END_OF_HEAD)
            to_server = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
            to_server[1].write(self._passed_on(head))
            await asyncio.gather(self._copy(reader, to_server[1]), self._copy(to_server[0], writer))
        writer.close()

    def _passed_on(self, head: bytes) -> bytes:
        """Return what the server gets of a connection's first request head."""
        return head

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await self._carries.wait()
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()


class StrippingProxy(Proxy):
    """A proxy before a server; a websocket handshake through it keeps only Streamlit's own cookies."""

    def _passed_on(self, head: bytes) -> bytes:
        return _without_cookies(head) if _UPGRADE.search(head) else head


class CuttableProxy(Proxy):
    """A proxy before a server whose connections can be lost."""

    _is_cut = False

    def hang(self) -> None:
        """Keep the connections, and carry nothing more over them: neither side notices."""
        self._call(self._hang())

    def cut(self) -> None:
        """End all connections, and what hangs in them; refuse new ones until `restore`."""
        self._call(self._cut())

    def restore(self) -> None:
        """Carry everything again; what is cut stays cut, but a visitor may connect anew."""
        self._call(self._restore())

    async def _hang(self) -> None:
        self._carries.clear()

    async def _cut(self) -> None:
        self._is_cut = True
        await self._end_connections()

    async def _restore(self) -> None:
        self._is_cut = False
        self._carries.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.close()
            return
        await super()._serve(reader, writer)


def _without_cookies(head: bytes) -> bytes:
    found = _COOKIE_HEADER.search(head)
    if found is None:
        return head
    cookies = [cookie.strip() for cookie in found[1].split(b";")]
    kept = b"; ".join(cookie for cookie in cookies if cookie.startswith(b"_streamlit_"))
    header = b"\r\nCookie: " + kept if kept else b""
    return head[: found.start()] + header + head[found.end() :]
