-- Run this as the owner of the tables, after a restore to an earlier point in time and before the services start. It
-- raises every sequence, so that ids which clients, backends or moderators have seen since then are not used again.
do $$
declare
    sequence regclass;
begin
    for sequence in
        select c.oid::regclass from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.relkind = 'S' and n.nspname in ('chat', 'notify')
    loop
        perform setval(sequence, nextval(sequence) + 1000000);
    end loop;
end
$$;
