from django.urls import path

from .consumers import ChatConsumer, TypingIndicatorConsumer

websocket_urlpatterns = [
    path("ws/chat/<int:conversation_id>/", ChatConsumer.as_asgi()),
    path("ws/typing/<int:conversation_id>/", TypingIndicatorConsumer.as_asgi()),
]
