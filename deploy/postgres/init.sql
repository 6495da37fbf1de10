-- Run this once, as the owner of the services' shared database, or as a superuser. Each service gets a role that has
-- only its own schema. Another owner needs the attribute CREATEROLE. It works on Postgres 14 to 17.
-- It reads the passwords from CHAT_PASSWORD and NOTIFY_PASSWORD.
--     CHAT_PASSWORD=… NOTIFY_PASSWORD=… psql --variable=ON_ERROR_STOP=1 --file=init.sql "$OWNER_URL"

\getenv chat_password CHAT_PASSWORD
\getenv notify_password NOTIFY_PASSWORD
select :{?chat_password} and :{?notify_password} as has_passwords \gset
\if :has_passwords
\else
do $$ begin raise exception 'set CHAT_PASSWORD and NOTIFY_PASSWORD'; end $$;
\endif

begin;

-- By default every role may connect, create temporary tables, and use the schema public.
select current_database() as database \gset
revoke all on database :"database" from public;
revoke all on schema public from public;

-- Well above the size of the pools of all replicas, and below Postgres' own limit of 100.
create role chat login password :'chat_password' connection limit 50;
create role notify login password :'notify_password' connection limit 40;
grant connect on database :"database" to chat, notify;

-- The services own their schemas, because each migrates its own tables when it starts. Only a member of a role may
-- create a schema for it.
grant chat, notify to current_user;
create schema chat authorization chat;
create schema notify authorization notify;

-- The services set these themselves when they connect. Behind a pooler such as PgBouncer they can't, and the settings of
-- the role apply.
alter role chat set search_path = chat;
alter role notify set search_path = notify;
alter role chat set jit = off;
alter role notify set jit = off;
alter role chat set statement_timeout = '3500ms';
alter role notify set statement_timeout = '3500ms';
alter role chat set lock_timeout = '1500ms';
alter role notify set lock_timeout = '1500ms';
alter role chat set idle_in_transaction_session_timeout = '10s';
alter role notify set idle_in_transaction_session_timeout = '10s';

revoke chat, notify from current_user;

commit;
