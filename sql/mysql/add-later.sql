-- Jobs for later: a row with the status 'scheduled' becomes 'waiting' at `run_at` (seconds since 1970). Put values of
-- your own into the list, if `status` has any. At once on MySQL 8 and MariaDB 10.3, but for the index, which is built
-- while workers go on; a worker sees it at its next start.
ALTER TABLE `jobs`
  MODIFY COLUMN `status` enum('waiting','manual','accepted','running','done','ignored','scheduled') NOT NULL DEFAULT 'waiting',
  ADD COLUMN `run_at` int(10) unsigned DEFAULT NULL,
  ALGORITHM=INSTANT;
ALTER TABLE `jobs` ADD KEY `run_at_idx` (`run_at`), ALGORITHM=INPLACE, LOCK=NONE;
