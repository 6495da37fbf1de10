const token = localStorage.getItem('access_token');
const chatSocket = new WebSocket(
    `ws://localhost:8000/ws/chat/${conversationId}/?token=${token}`
);
