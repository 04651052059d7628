-- What a job says of how far it has come. At once on MySQL 8 and MariaDB 10.3;
-- a worker sees it at its next start.
ALTER TABLE `jobs`
  ADD COLUMN `progress` varchar(255) DEFAULT NULL,
  ALGORITHM=INSTANT;
