"""Answers each message of a conversation, over a plain socket.

It reconnects whenever the connection ends, and reads the missed messages (`after`). It answers each message once, even
if it is killed in between, because the answer's client_id is derived from the message.
"""

import asyncio
import json
import os
import random
from urllib.parse import urlencode

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

URL = os.environ.get("URL", "http://127.0.0.1:8000").replace("http", "ws", 1)
TOKEN = os.environ["TOKEN"]
CONVERSATION = os.environ["CONVERSATION"]
GIVE_UP = {1003, 1009, 4401, 4403}


async def answer(socket, message):
    text = f"Vous avez dit : {message['content']}"
    await socket.send(json.dumps({"message": text, "client_id": f"answer-{message['message_id']}"}))
    await socket.send(json.dumps({"type": "read", "message_id": message["message_id"]}))


async def main():
    last, pause = 0, 0.5
    while True:
        query = urlencode({"after": last})
        headers = {"Authorization": f"Bearer {TOKEN}"}
        try:
            async with connect(f"{URL}/ws/chat/{CONVERSATION}/?{query}", additional_headers=headers) as socket:
                async for frame in socket:
                    pause = 0.5
                    frame = json.loads(frame)
                    if frame["type"] == "error":
                        print(frame["code"], frame["detail"])
                    if frame["type"] != "message":
                        continue
                    # Our own messages are echoed with their client_id; messages of others never have one.
                    if "client_id" not in frame:
                        await answer(socket, frame)
                    last = frame["message_id"]
                print("closed", socket.close_code)
                if socket.close_code in GIVE_UP:
                    return socket.close_code
        except (OSError, ConnectionClosed) as error:
            print(error)
        await asyncio.sleep(pause * random.uniform(0.5, 1.5))
        pause = min(pause * 2, 30)


raise SystemExit(asyncio.run(main()))
