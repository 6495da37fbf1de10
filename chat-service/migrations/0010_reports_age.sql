-- no-transaction
-- Finds old reports.
create index concurrently if not exists reports_age on reports (created_at)
