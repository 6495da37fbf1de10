-- The kind and the data of a reported message, as they were at the time of the report; null for a plain message.
alter table reports
    add kind text,
    add data text;
