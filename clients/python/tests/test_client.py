"""The client against a real stack, which e2e/tests/client starts and this may break. `python test_client.py`."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from vyzio_realtime import Client, Closed, Failure

T = TypeVar("T")
STACK = json.loads(os.environ["STACK"])
USERS = iter(range(int(time.time()) % 1_000_000_000, 2_000_000_000))


class Control:
    """Asks the test that runs the stack: see `Request` in e2e/tests/client/control.rs."""

    async def __aenter__(self) -> "Control":
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", STACK["control"], limit=2**24)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def ask(self, what: str, **values: Any) -> Any:
        self.writer.write(json.dumps({"ask": what, **values}).encode() + b"\n")
        answer = json.loads(await self.reader.readline())
        assert not (isinstance(answer, dict) and "error" in answer), answer
        return answer

    async def token(self, user: int, seconds: int = 3600) -> str:
        now = int(time.time())
        claims = {"user_id": user, "username": f"name-{user}", "iat": now, "exp": now + seconds}
        return str(await self.ask("token", claims=claims))

    async def client(self, user: int, gateway: int = 0) -> Client:
        token = await self.token(user)
        return Client(f"http://{STACK['gateways'][gateway]}", token, backoff=0.05, backoff_max=0.3)


async def next_of(items: AsyncIterator[T]) -> T:
    return await asyncio.wait_for(anext(items), 20)


async def a_conversation(control: Control) -> None:
    ada, ben = next(USERS), next(USERS)
    conversation = await control.ask("conversation", users=[ada, ben])
    async with await control.client(ada) as a, await control.client(ben, gateway=1) as b:
        mine, theirs = a.conversation(conversation), b.conversation(conversation)
        messages, typing = theirs.messages(0), theirs.typing()
        first_typing = asyncio.ensure_future(next_of(typing))
        await mine.send("one")
        message = await next_of(messages)
        assert (message.content, message.seq, message.sender_id, a.user_id) == ("one", 1, ada, ada)
        assert message.client_id is None
        while not first_typing.done():
            await mine.type()
            await asyncio.wait([first_typing], timeout=0.1)
        assert first_typing.result().username == f"name-{ada}"
        await theirs.read(message.message_id)
        await mine.send("twice", client_id="same")
        await mine.send("twice", client_id="same")
        await mine.send("three")
        assert [(await next_of(messages)).content for _ in range(2)] == ["twice", "three"]
        assert (await b.call("GET", "/api/unread"))["messages"] == 2
        await messages.aclose()  # type: ignore[attr-defined]
        await typing.aclose()  # type: ignore[attr-defined]


async def losses(control: Control) -> None:
    """Messages are stored once and read once, in order, although a gateway is killed."""
    ada, ben = next(USERS), next(USERS)
    conversation = await control.ask("conversation", users=[ada, ben])
    async with await control.client(ada) as a, await control.client(ben) as b:
        chat, messages = a.conversation(conversation), b.conversation(conversation).messages(0)
        texts = [str(number) for number in range(40)]

        async def send() -> None:
            for text in texts:
                await chat.send(text)

        sending = asyncio.ensure_future(send())
        read = [await next_of(messages) for _ in range(10)]
        await control.ask("kill", part="gateway", index=0)
        await control.ask("restart", part="gateway", index=0)
        read += [await next_of(messages) for _ in range(30)]
        await sending
        assert [message.content for message in read] == texts
        assert [message.seq for message in read] == list(range(1, 41))
        await messages.aclose()  # type: ignore[attr-defined]


async def a_slow_reader(control: Control) -> None:
    """A reader that answers each of many messages gets all of them; nothing waits for it."""
    ada, ben = next(USERS), next(USERS)
    conversation = await control.ask("conversation", users=[ada, ben])
    payloads = [{"conversation_id": conversation, "sender_id": ada, "message": str(number)} for number in range(1500)]
    await control.ask("call", subject="chat.messages.send", payloads=payloads)
    async with await control.client(ben) as b:
        chat = b.conversation(conversation)
        messages = chat.messages(0)
        seqs = []
        for _ in range(1500):
            message = await next_of(messages)
            seqs.append(message.seq)
            if message.seq in (1, 1200):
                await chat.read(message.message_id)
        assert seqs == list(range(1, 1501))
        await messages.aclose()  # type: ignore[attr-defined]


async def an_inbox(control: Control) -> None:
    user = next(USERS)
    async with await control.client(user) as rt:
        notifications = rt.notifications(0)
        reading = asyncio.ensure_future(next_of(notifications))
        await control.ask("publish", subject="events.payment_completed", payload={"user_id": user, "data": {"payment_id": 7}})
        notification = await reading
        assert (notification.type, notification.data) == ("payment_completed", {"payment_id": 7})
        # What was seen or read is no notification.
        reading = asyncio.ensure_future(next_of(notifications))
        await rt.call("POST", "/api/notifications/seen", {"notification_id": notification.notification_id})
        await rt.call("POST", "/api/notifications/read_all")
        await control.ask("publish", subject="events.payment_completed", payload={"user_id": user, "data": {"payment_id": 8}})
        assert (await reading).data == {"payment_id": 8}
        await notifications.aclose()  # type: ignore[attr-defined]


async def refusals(control: Control) -> None:
    user = next(USERS)
    foreign = await control.ask("conversation", users=[next(USERS), next(USERS)])
    async with await control.client(user) as rt:
        for refused in (rt.conversation(foreign).send("no"), anext(rt.conversation(foreign).messages(0))):
            try:
                await asyncio.wait_for(refused, 20)
                raise AssertionError("it was not refused")
            except Failure as failure:
                assert failure.code == "forbidden", failure
        waiting = asyncio.ensure_future(anext(rt.notifications(0)))
        await rt.online()
    try:
        await asyncio.wait_for(waiting, 20)
        raise AssertionError("it did not end")
    except (Closed, asyncio.CancelledError):
        pass
    url = f"http://{STACK['gateways'][0]}"
    async with Client(url, lambda refresh: None) as nobody:
        try:
            await asyncio.wait_for(nobody.online(), 20)
            raise AssertionError("it is online")
        except Closed as closed:
            assert closed.code == "unauthorized"


async def tokens(control: Control) -> None:
    """A token is renewed on the open socket, and one of another user ends the client."""
    user = next(USERS)
    given = [await control.token(user, 8), await control.token(user), await control.token(next(USERS))]
    asked: list[bool] = []

    def token(refresh: bool) -> str:
        asked.append(refresh)
        return given[min(len(asked), 3) - 1]

    async with Client(f"http://{STACK['gateways'][0]}", token, backoff=0.05, backoff_max=0.3) as rt:
        await asyncio.wait_for(rt.online(), 20)
        first = rt._socket
        while len(asked) < 2:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0)
        assert rt._socket is first and asked == [False, True]
        await control.ask("call", subject="sessions.revoke", payloads=[{"user_id": user}])
        waiting = anext(rt.notifications(0))
        try:
            await asyncio.wait_for(waiting, 20)
            raise AssertionError("it did not end")
        except Closed as closed:
            assert closed.code == "user_changed", closed


async def a_token_that_fails(control: Control) -> None:
    """A function for tokens that raises is called again."""
    token = await control.token(next(USERS))
    asked: list[bool] = []

    def get(refresh: bool) -> str:
        asked.append(refresh)
        if len(asked) < 4:
            raise RuntimeError("the site is away")
        return token

    async with Client(f"http://{STACK['gateways'][0]}", get, backoff=0.05, backoff_max=0.3) as rt:
        try:
            await rt.call("GET", "/api/unread")
            raise AssertionError("it did not fail")
        except Failure as failure:
            assert failure.code == "token_failed", failure
        await asyncio.wait_for(rt.online(), 20)
    assert asked == [False] * 4


async def main() -> None:
    async with Control() as control:
        for test in (a_conversation, losses, a_slow_reader, an_inbox, refusals, tokens, a_token_that_fails):
            await asyncio.wait_for(test(control), 120)
            print(test.__name__, "ok", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
