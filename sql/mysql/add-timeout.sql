-- A limit to the seconds that a job may take, in its row. At once on MySQL 8 and MariaDB 10.3;
-- a worker sees it at its next start.
ALTER TABLE `jobs`
  ADD COLUMN `timeout` int(10) unsigned DEFAULT NULL,
  ALGORITHM=INSTANT;
