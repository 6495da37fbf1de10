"""The guide's consumers."""

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer

from .models import Conversation, Message


class ConversationConsumer(AsyncJsonWebsocketConsumer):
    """A participant's socket, in the group of its conversation."""

    prefix = None

    async def connect(self):
        self.user = self.scope["user"]
        self.conversation_id = self.scope["url_route"]["kwargs"]["conversation_id"]
        self.group = f"{self.prefix}_{self.conversation_id}"
        if not self.user.is_authenticated or not await self.is_participant():
            await self.close()
            return
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()

    async def disconnect(self, code):
        if hasattr(self, "group"):
            await self.channel_layer.group_discard(self.group, self.channel_name)

    @database_sync_to_async
    def is_participant(self):
        return Conversation.objects.filter(id=self.conversation_id, participants=self.user).exists()


class ChatConsumer(ConversationConsumer):
    prefix = "chat"

    async def receive_json(self, content):
        text = content.get("message", "").strip()
        if not text:
            return
        message = await self.store(text)
        await self.channel_layer.group_send(
            self.group,
            {
                "type": "chat.message",
                "message": {
                    "type": "message",
                    "message_id": message.id,
                    "sender_id": self.user.id,
                    "sender_username": self.user.username,
                    "content": message.content,
                    "created_at": message.created_at.isoformat(),
                    "is_read": message.is_read,
                },
            },
        )

    async def chat_message(self, event):
        await self.send_json(event["message"])

    @database_sync_to_async
    def store(self, text):
        return Message.objects.create(
            conversation_id=self.conversation_id, sender=self.user, content=text
        )


class TypingIndicatorConsumer(ConversationConsumer):
    prefix = "typing"

    async def receive_json(self, content):
        await self.channel_layer.group_send(
            self.group,
            {
                "type": "typing.indicator",
                "sender": self.channel_name,
                "message": {
                    "type": "typing",
                    "user_id": self.user.id,
                    "username": self.user.username,
                    "is_typing": bool(content.get("is_typing")),
                },
            },
        )

    async def typing_indicator(self, event):
        if event["sender"] != self.channel_name:
            await self.send_json(event["message"])
