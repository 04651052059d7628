-- A payload for the standard input of a job. At once on MySQL 8 and MariaDB 10.3;
-- a worker sees it at its next start.
ALTER TABLE `jobs`
  ADD COLUMN `data` mediumblob DEFAULT NULL,
  ALGORITHM=INSTANT;
