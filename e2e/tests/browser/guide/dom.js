// Shows in the page what the guide's snippets pass to their functions: the fields that the guide documents.
{
    const list = document.createElement('ul');
    document.body.append(list);
    const show = (name, fields) => {
        const line = document.createElement('li');
        line.className = name;
        line.textContent = Object.entries(fields).map((field) => field.join(': ')).join(', ');
        list.append(line);
    };
    const ids = [];
    addMessage = ({ type, message_id, sender_id, sender_username, content, created_at, is_read }) => {
        if (!ids.includes(message_id)) ids.push(message_id);
        const number = ids.indexOf(message_id) + 1;
        const time = Math.abs(new Date(created_at) - Date.now()) < 600_000 ? 'now' : created_at;
        show('message', { type, number, sender_id, sender_username, content, time, is_read });
    };
    showNotification = (title, message) => show('notification', { title, message });
    showTypingIndicator = (username) => show('typing', { username });
    hideTypingIndicator = (username) => show('silent', { username });
}
