// A chat as in Socket.IO's own documentation: rooms, the Redis adapter, messages stored in Postgres.

import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-adapter";
import jwt from "jsonwebtoken";
import pg from "pg";
import { createClient } from "redis";
import { Server } from "socket.io";

const { DATABASE_URL, JWT_SECRET, PORT, REDIS_PORT } = process.env;

const db = new pg.Pool({ connectionString: DATABASE_URL, max: 20 });
await db.query(`
  create table if not exists participants (
    conversation_id bigint not null, user_id bigint not null, primary key (conversation_id, user_id)
  );
  create table if not exists messages (
    message_id bigint primary key generated always as identity,
    conversation_id bigint not null, sender_id bigint not null, content text not null,
    created_at timestamptz not null default now()
  );
  create index if not exists messages_by_conversation on messages (conversation_id, message_id);
`);

const publisher = createClient({ url: `redis://127.0.0.1:${REDIS_PORT}` });
const subscriber = publisher.duplicate();
await Promise.all([publisher.connect(), subscriber.connect()]);

const http = createServer();
const io = new Server(http, { adapter: createAdapter(publisher, subscriber), transports: ["websocket"] });

io.use(async (socket, next) => {
  try {
    const { token, conversation_id } = socket.handshake.auth;
    const claims = jwt.verify(token, JWT_SECRET, { algorithms: ["HS256"] });
    const found = await db.query({
      name: "participant",
      text: "select 1 from participants where conversation_id = $1 and user_id = $2",
      values: [conversation_id, claims.user_id],
    });
    if (found.rowCount === 0) return next(new Error("forbidden"));
    socket.data = { user_id: claims.user_id, username: claims.username, conversation_id };
    next();
  } catch (error) {
    next(error);
  }
});

io.on("connection", (socket) => {
  const { user_id, username, conversation_id } = socket.data;
  const room = `conversation:${conversation_id}`;
  socket.join(room);

  socket.on("message", async ({ message }) => {
    const content = String(message).trim();
    if (!content) return;
    try {
      const { rows } = await db.query({
        name: "store",
        text: `insert into messages (conversation_id, sender_id, content) values ($1, $2, $3)
               returning message_id, created_at`,
        values: [conversation_id, user_id, content],
      });
      io.to(room).emit("message", {
        type: "message",
        message_id: Number(rows[0].message_id),
        sender_id: user_id,
        sender_username: username,
        content,
        created_at: rows[0].created_at,
        is_read: false,
      });
    } catch (error) {
      console.error(error.message);
      socket.emit("message", { type: "error", code: "unavailable" });
    }
  });

  socket.on("typing", ({ is_typing }) => {
    socket.to(room).emit("typing", { type: "typing", user_id, username, is_typing: Boolean(is_typing) });
  });
});

http.listen(Number(PORT), "127.0.0.1");
