const notificationSocket = new WebSocket(
    `ws://${window.location.host}/ws/notifications/`
);

notificationSocket.onmessage = function(e) {
    const data = JSON.parse(e.data);
    
    // Afficher la notification
    showNotification(data.title, data.message);
};
