-- Priorities: higher first within a target. At once on MySQL 8 and MariaDB 10.3;
-- a worker sees it at its next start.
ALTER TABLE `jobs`
  ADD COLUMN `priority` smallint(6) NOT NULL DEFAULT 0,
  ALGORITHM=INSTANT;
