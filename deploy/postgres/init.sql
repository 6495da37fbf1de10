-- Run once, by an owner, in the database that the services share: each has a role with its own schema and nothing else.
-- The passwords are in CHAT_PASSWORD and NOTIFY_PASSWORD.
--     CHAT_PASSWORD=… NOTIFY_PASSWORD=… psql --variable=ON_ERROR_STOP=1 --file=init.sql "$OWNER_URL"

\getenv chat_password CHAT_PASSWORD
\getenv notify_password NOTIFY_PASSWORD

begin;

-- By default everyone may connect, make temporary tables, and use the schema public.
select current_database() as database \gset
revoke all on database :"database" from public;
revoke all on schema public from public;

-- Well above what their pools take, over all replicas, and below Postgres' own limit of 100.
create role chat login password :'chat_password' connection limit 50;
create role notify login password :'notify_password' connection limit 40;
grant connect on database :"database" to chat, notify;

-- Owned, as each service brings its own tables up to date when it starts.
create schema chat authorization chat;
create schema notify authorization notify;

-- A transaction that a stalled process leaves open keeps nobody waiting for long.
alter role chat set idle_in_transaction_session_timeout = '60s';
alter role notify set idle_in_transaction_session_timeout = '60s';

commit;
