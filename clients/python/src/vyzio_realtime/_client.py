"""One socket for everything, which reconnects by itself."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

from ._types import Closed, Failure, Message, Notification, Typing, of

log = logging.getLogger("vyzio_realtime")

#: A token, or a function that returns one. With `refresh`, the last one has ended, ends soon or was refused. `None`:
#: nobody is signed in, so the client ends.
Token = str | Callable[[bool], "str | None | Awaitable[str | None]"]

#: Close codes after which a reconnect would fail as well.
FATAL = {1002, 1003, 1007, 1009, 4400, 4403}
#: Refusals of fresh tokens in a row after which the client gives up.
REFUSALS = 3
#: Codes of failures that a retry may fix.
TEMPORARY = {"unavailable", "rate_limited", "internal"}
#: Entries that wait for a slow reader. If there are more, the subscription resumes once the reader has caught up.
WAITING = 1000
#: Seconds until an answer counts as lost. The server answers within 5.
ANSWER = 10.0


@dataclass(eq=False)
class _Subscription:
    channel: str
    #: The id after which to resume; `None` for channels without a log.
    after: int | None
    #: The field of a frame with its id.
    key: str | None
    queue: asyncio.Queue[dict[str, Any] | Failure] = field(default_factory=lambda: asyncio.Queue(WAITING))
    joined: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    #: Whether it is only there so that the user can type.
    muted: bool = False
    #: Whether events are dropped: until the reader has caught up, or because there is none.
    paused: bool = False

    async def frames(self, kind: str | None) -> AsyncIterator[dict[str, Any]]:
        """Frames of one type (`None`: of those with an id), each once, until the subscription is refused."""
        while True:
            frame = await self.queue.get()
            if isinstance(frame, Failure):
                raise frame
            if kind is None or frame["type"] == kind:
                yield frame
            self.queue.task_done()


class Client:
    """The connection of one user. Use it with `async with`.

    It reconnects until it is closed, here or for good by the server; then everything that waits raises `Closed`.
    """

    def __init__(self, url: str, token: Token, *, backoff: float = 0.5, backoff_max: float = 30.0) -> None:
        """`url` is the gateway's address, such as `https://rt.example.com`."""
        self._base = url.rstrip("/").replace("ws", "http", 1) if url.startswith("ws") else url.rstrip("/")
        self._source = token
        self._token: str | None = None
        self._backoff = (backoff, backoff_max)
        self._socket: ClientConnection | None = None
        self._online = asyncio.Event()
        self._ended: Closed | None = None
        self._ref = 0
        self._requests: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._subscriptions: dict[str, _Subscription] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        #: The user, as the server names it; `None` before the first connection.
        self.user_id: int | None = None

    async def __aenter__(self) -> Self:
        self._spawn(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends everything."""
        self._end(Closed("closed", "the connection was closed by this client"))
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def online(self) -> None:
        """Waits for the connection.

        Raises `Closed` if the client has ended.
        """
        await self._online.wait()
        if self._ended:
            raise self._ended

    def conversation(self, conversation_id: int) -> Conversation:
        """A conversation of the user."""
        return Conversation(self, conversation_id)

    async def notifications(self, after: int | None = None) -> AsyncIterator[Notification]:
        """The user's notifications from now on, or after an id: each once, in order, whatever happens meanwhile."""
        if after is None:
            page = await self.call("GET", "/api/notifications?limit=1")
            after = page["items"][0]["notification_id"] if page["items"] else 0
        async with _Joined(self, "notifications", after, "notification_id") as subscription:
            async for frame in subscription.frames(None):
                yield of(Notification, frame)

    async def call(self, method: str, path: str, body: object = None) -> Any:
        """Calls the HTTP API and returns its answer.

        Raises `Failure`. If the server can't be reached, its code is `network`.
        """
        for refresh in (False, True):
            token = await self._get_token(refresh)
            try:
                return await asyncio.to_thread(self._http, method, path, body, token)
            except Failure as failure:
                if failure.code != "unauthorized" or refresh:
                    raise
        raise AssertionError("the loop returns or raises")

    def _http(self, method: str, path: str, body: object, token: str) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        try:
            with urlopen(Request(self._base + path, data, headers, method=method), timeout=ANSWER) as answer:
                text = answer.read()
        except HTTPError as error:
            with suppress(ValueError, KeyError):
                raise Failure.of(json.loads(error.read())) from None
            raise Failure("internal", f"HTTP {error.code}") from None
        except (URLError, OSError) as error:
            raise Failure("network", str(error)) from None
        return json.loads(text) if text else None

    async def _get_token(self, refresh: bool) -> str:
        if self._token is None or refresh:
            source = self._source
            try:
                token = source if isinstance(source, str) else source(refresh)
                if inspect.isawaitable(token):
                    token = await token
            except Exception as error:
                raise Failure("token_failed", f"the function for tokens raised {type(error).__name__}") from error
            if not token:
                raise Closed("unauthorized", "there is no token")
            self._token = token
        return self._token

    async def _run(self) -> None:
        """Connects, again and again."""
        attempt = refusals = 0
        while not self._ended:
            code = None
            try:
                token = await self._get_token(refusals > 0)
                protocols = [Subprotocol("bearer"), Subprotocol(token)]
                url = "ws" + self._base.removeprefix("http") + "/ws/"
                async with connect(url, subprotocols=protocols) as socket:
                    async for text in socket:
                        attempt = refusals = 0  # The first frame shows that the token is accepted.
                        await self._receive(socket, json.loads(text))
                    code = socket.close_code
            except Closed as closed:
                return self._end(closed)
            except Failure as failure:
                log.warning("connecting again later: %s", failure, exc_info=failure.__cause__)
            except (OSError, InvalidHandshake, ConnectionClosed, TimeoutError) as error:
                code = error.rcvd.code if isinstance(error, ConnectionClosed) and error.rcvd else None
            finally:
                self._lost()
            if code in FATAL:
                return self._end(Closed("refused", f"the socket was closed with {code}", code))
            if code == 4401:
                refusals += 1
                if refusals > REFUSALS:
                    return self._end(Closed("unauthorized", "the server refuses the tokens", code))
            least = 10.0 if code == 4429 else 0.0
            await asyncio.sleep(max(least, self._pause(attempt)))
            attempt += 1

    def _pause(self, attempt: int) -> float:
        """Half to all of a growing time, so that many clients don't return at once."""
        first, most = self._backoff
        return min(most, first * 2.0**attempt) * random.uniform(0.5, 1)

    async def _receive(self, socket: ClientConnection, frame: dict[str, Any]) -> None:
        match frame["op"]:
            case "hello":
                if self.user_id not in (None, frame["user_id"]):
                    raise Closed("user_changed", "the token belongs to another user")
                self.user_id = frame["user_id"]
                self._socket = socket
                self._online.set()
                now, end = (datetime.fromisoformat(frame[key]) for key in ("server_time", "expires_at"))
                self._spawn(self._renew(socket, (end - now).total_seconds()))
                for subscription in self._subscriptions.values():
                    subscription.task = self._spawn(self._subscribe(subscription))
            case "event":
                if reader := self._subscriptions.get(frame["channel"]):
                    self._deliver(reader, frame["data"])
            case _:
                answer = self._requests.pop(frame.get("ref", 0), None)
                if answer and not answer.done():
                    answer.set_result(frame)

    def _deliver(self, reader: _Subscription, data: dict[str, Any]) -> None:
        """Passes an event to its reader. Never waits: the answers that the reader waits for are on the same socket."""
        if reader.paused:
            return
        # Only entries have a time of creation: what was read or seen has an id, too.
        if reader.key is not None and (reader.key not in data or "created_at" not in data):
            return
        if reader.queue.full():
            reader.paused = True
            self._spawn(self._resume(reader))
            return
        if reader.key is not None:
            reader.after = data[reader.key]
        reader.queue.put_nowait(data)

    async def _resume(self, reader: _Subscription) -> None:
        await reader.queue.join()
        with suppress(Failure):
            await self._request({"op": "unsubscribe", "channel": reader.channel})
        reader.paused = False
        if self._socket:
            await self._subscribe(reader)

    async def _renew(self, socket: ClientConnection, life: float) -> None:
        """Sends a fresh token before the last one ends. Without one, the server closes the socket in time."""
        while socket is self._socket:
            await asyncio.sleep(max(1.0, life - min(60.0, life / 5)))
            if socket is not self._socket:
                return
            try:
                token = await self._get_token(True)
                await self._request({"op": "auth", "token": token})
            except (Failure, ConnectionClosed):
                return

    def _lost(self) -> None:
        self._socket = None
        if not self._ended:
            self._online.clear()
        for subscription in self._subscriptions.values():
            subscription.joined.clear()
        for answer in self._requests.values():
            if not answer.done():
                answer.set_exception(Failure("network", "the connection was lost"))
        self._requests.clear()

    def _end(self, reason: Closed) -> None:
        if self._ended:
            return
        self._ended = reason
        self._lost()
        self._online.set()
        for subscription in self._subscriptions.values():
            self._spawn(subscription.queue.put(reason))

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _request(self, frame: dict[str, Any]) -> None:
        """Sends a frame and waits for `ok`.

        Raises `Failure`, with the code `network` if the connection was lost before the answer.
        """
        if not self._socket:
            raise Failure("network", "there is no connection")
        self._ref += 1
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._requests[ref := self._ref] = answer
        try:
            await self._socket.send(json.dumps({**frame, "ref": ref}))
            reply = await asyncio.wait_for(answer, ANSWER)
        except (ConnectionClosed, TimeoutError):
            raise Failure("network", "no answer from the server") from None
        finally:
            self._requests.pop(ref, None)
        if reply["op"] == "error":
            raise Failure.of(reply)

    async def _repeat(self, frame: dict[str, Any]) -> None:
        """Sends a frame until the server has answered it."""
        attempt = 0
        while True:
            await self.online()
            try:
                return await self._request(frame)
            except Failure as failure:
                if failure.code not in TEMPORARY | {"network"}:
                    raise
                await asyncio.sleep(failure.retry_after or self._pause(attempt))
                attempt += 1

    async def _subscribe(self, subscription: _Subscription) -> None:
        frame: dict[str, Any] = {"op": "subscribe", "channel": subscription.channel}
        if subscription.after is not None:
            frame["after"] = subscription.after
        attempt = 0
        while self._subscriptions.get(subscription.channel) is subscription:
            try:
                await self._request(frame)
                return subscription.joined.set()
            except Failure as failure:
                if failure.code == "network":
                    return  # The next connection subscribes again.
                if failure.code not in TEMPORARY:
                    return await subscription.queue.put(failure)
                await asyncio.sleep(failure.retry_after or self._pause(attempt))
                attempt += 1


class _Joined:
    """A subscription while a reader needs it."""

    def __init__(self, client: Client, channel: str, after: int | None, key: str | None) -> None:
        known = client._subscriptions.get(channel)
        if known and not known.muted:
            raise ValueError(f"{channel} has a reader already")
        self._client = client
        self._subscription = known or _Subscription(channel, after, key)

    async def __aenter__(self) -> _Subscription:
        client, subscription = self._client, self._subscription
        if client._ended:
            raise client._ended
        client._subscriptions[subscription.channel] = subscription
        if subscription.muted:
            subscription.muted = subscription.paused = False
        elif client._socket:
            subscription.task = client._spawn(client._subscribe(subscription))
        return subscription

    async def __aexit__(self, *_: object) -> None:
        client, subscription = self._client, self._subscription
        client._subscriptions.pop(subscription.channel, None)
        if subscription.task:
            subscription.task.cancel()
        with suppress(Failure):
            await client._request({"op": "unsubscribe", "channel": subscription.channel})


class Conversation:
    """A conversation of the user."""

    def __init__(self, client: Client, conversation_id: int) -> None:
        self.conversation_id = conversation_id
        self._client = client
        self._channel = f"chat/{conversation_id}"

    async def send(self, text: str, client_id: str | None = None) -> None:
        """Sends a message, and returns once it is stored: exactly once, because repeats have the same `client_id`.

        Raises `Failure` if the server refuses it, for example with `blocked`.
        """
        data = {"message": text, "client_id": client_id or uuid.uuid4().hex}
        await self._client._repeat({"op": "send", "channel": self._channel, "data": data})

    async def read(self, message_id: int) -> None:
        """The user has read everything up to this message."""
        data = {"type": "read", "message_id": message_id}
        await self._client._repeat({"op": "send", "channel": self._channel, "data": data})

    async def type(self, is_typing: bool = True) -> None:
        """The user types, or has stopped. Repeat it at least every 5 s; without a connection, it does nothing."""
        client, channel = self._client, f"typing/{self.conversation_id}"
        with suppress(Failure):
            if channel not in client._subscriptions:
                # Only who is on the channel can type.
                client._subscriptions[channel] = muted = _Subscription(channel, None, None, paused=True, muted=True)
                await client._subscribe(muted)
            await client._request({"op": "send", "channel": channel, "data": {"is_typing": is_typing}})

    async def messages(self, after: int | None = None) -> AsyncIterator[Message]:
        """Messages from now on, or after an id (0: all): each once, in order, whatever happens meanwhile."""
        if after is None:
            page = await self._client.call("GET", f"/api/conversations/{self.conversation_id}/messages?limit=1")
            after = page["items"][0]["message_id"] if page["items"] else 0
        async with _Joined(self._client, self._channel, after, "message_id") as subscription:
            async for frame in subscription.frames("message"):
                yield of(Message, frame)

    async def typing(self) -> AsyncIterator[Typing]:
        """The other users' typing."""
        async with _Joined(self._client, f"typing/{self.conversation_id}", None, None) as subscription:
            async for frame in subscription.frames("typing"):
                yield of(Typing, frame)
