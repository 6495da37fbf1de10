-- After a restore to an earlier point in time, and before the services start: raises every sequence, so that no id that a
-- client, a backend or a moderator has seen since is given to something else. Run it as the owner of the tables.
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
