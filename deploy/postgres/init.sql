-- Run this once, as the owner, in the services' shared database. Each service gets a role that has only its own schema.
-- It reads the passwords from CHAT_PASSWORD and NOTIFY_PASSWORD.
--     CHAT_PASSWORD=… NOTIFY_PASSWORD=… psql --variable=ON_ERROR_STOP=1 --file=init.sql "$OWNER_URL"

\getenv chat_password CHAT_PASSWORD
\getenv notify_password NOTIFY_PASSWORD

begin;

-- By default every role may connect, create temporary tables, and use the schema public.
select current_database() as database \gset
revoke all on database :"database" from public;
revoke all on schema public from public;

-- Well above the size of the pools of all replicas, and below Postgres' own limit of 100.
create role chat login password :'chat_password' connection limit 50;
create role notify login password :'notify_password' connection limit 40;
grant connect on database :"database" to chat, notify;

-- The services own their schemas, because each migrates its own tables when it starts.
create schema chat authorization chat;
create schema notify authorization notify;

-- A transaction that a stalled process leaves open blocks others for a limited time only.
alter role chat set idle_in_transaction_session_timeout = '60s';
alter role notify set idle_in_transaction_session_timeout = '60s';

commit;
