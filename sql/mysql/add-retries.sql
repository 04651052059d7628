-- Retries for a table with ownership and later (add-ownership.sql and add-later.sql): what fails may run again, and its
-- row says how it failed before. Leave out `max_attempts` where the table has it from before. At once on MySQL 8 and
-- MariaDB 10.3; a worker sees it at its next start.
ALTER TABLE `jobs`
  ADD COLUMN `max_attempts` int(10) unsigned DEFAULT NULL,
  ADD COLUMN `errors` mediumtext DEFAULT NULL,
  ALGORITHM=INSTANT;
