// The page of the guide's snippets: the elements and functions that they use. It records the calls.
document.body.innerHTML = '<input id="message-input"><a id="elsewhere" href="#">elsewhere</a>';
// Not const, which Firefox hides from the scripts of WebDriver.
var shown = [];
var logged = [];
var faults = [];
addEventListener('error', ({ message }) => faults.push(message));
console.log = (text) => logged.push(text);
function addMessage(data) { shown.push(data); }
function showNotification(title, message) { shown.push([title, message]); }
function showTypingIndicator(username) { shown.push(['typing', username]); }
function hideTypingIndicator(username) { shown.push(['silent', username]); }
