"""Answers each message of a conversation, with `vyzio-realtime` (clients/python).

It answers each message once, even if it is killed in between, because the answer's client_id is derived from the message.
"""

import asyncio
import os

from vyzio_realtime import Client

URL = os.environ.get("URL", "http://127.0.0.1:8000")
TOKEN = os.environ["TOKEN"]
CONVERSATION = int(os.environ["CONVERSATION"])


async def main():
    async with Client(URL, TOKEN) as rt:
        chat = rt.conversation(CONVERSATION)
        async for message in chat.messages(after=0):
            if message.sender_id == rt.user_id:
                continue
            await chat.send(f"Vous avez dit : {message.content}", client_id=f"answer-{message.message_id}")
            await chat.read(message.message_id)


asyncio.run(main())
