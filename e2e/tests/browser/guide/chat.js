const conversationId = 123;
const chatSocket = new WebSocket(
    `ws://${window.location.host}/ws/chat/${conversationId}/`
);

chatSocket.onopen = function(e) {
    console.log('Connected to chat');
};

chatSocket.onmessage = function(e) {
    const data = JSON.parse(e.data);
    
    if (data.type === 'message') {
        // Ajouter le message au DOM
        addMessage(data);
    }
};

chatSocket.onclose = function(e) {
    console.log('Chat connection closed');
};

// Envoyer un message
function sendMessage(content) {
    chatSocket.send(JSON.stringify({
        'message': content
    }));
}
