-- Unique jobs: of jobs with the same `unique_key` only one at a time may wait to begin; an INSERT of another is refused, and
-- INSERT IGNORE leaves it out. NULL asks for nothing. Add 'accepted' and 'running' to the list, and there is none beside
-- one that runs, either. At once on MySQL 8 and MariaDB 10.3, but for the index, which is built while workers go on. Beside
-- it MariaDB adds no other column at once: see docs/abilities/unique.md.
ALTER TABLE `jobs` ADD COLUMN `unique_key` varchar(191) DEFAULT NULL, ALGORITHM=INSTANT;
ALTER TABLE `jobs` ADD COLUMN `pending_key` varchar(191)
  AS (CASE WHEN `status` IN ('waiting', 'manual', 'scheduled') THEN `unique_key` END) VIRTUAL,
  ALGORITHM=INSTANT;
ALTER TABLE `jobs` ADD UNIQUE KEY `pending_idx` (`target`, `pending_key`), ALGORITHM=INPLACE, LOCK=NONE;
