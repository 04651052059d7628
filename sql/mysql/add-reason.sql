-- Why a job ended, in one word. At once on MySQL 8 and MariaDB 10.3;
-- a worker sees it at its next start.
ALTER TABLE `jobs`
  ADD COLUMN `reason` varchar(16) CHARACTER SET ascii DEFAULT NULL,
  ALGORITHM=INSTANT;
