-- What a job has used: CPU time, and memory at most. At once on MySQL 8 and MariaDB 10.3;
-- a worker sees it at its next start.
ALTER TABLE `jobs`
  ADD COLUMN `cpu_ms` int(10) unsigned DEFAULT NULL,
  ADD COLUMN `peak_kib` int(10) unsigned DEFAULT NULL,
  ALGORITHM=INSTANT;
