-- Whether JetStream has a report. Until it has, any replica publishes it: a report is not lost because NATS was away.
alter table reports add told boolean not null default false;
create index reports_untold on reports (report_id) where not told;
