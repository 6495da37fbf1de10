-- no-transaction
-- Finds the reports of a user.
create index concurrently if not exists reports_by_reporter on reports (reporter_id, report_id)
