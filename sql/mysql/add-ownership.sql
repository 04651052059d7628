-- Ownership for a table that has been without: claims become leases, and the rows of a worker that dies
-- are rescued. At once on MySQL 8 and MariaDB 10.3, while workers of any kind go on; a worker sees it at its next start.
ALTER TABLE `jobs`
  ADD COLUMN `worker` varchar(191) CHARACTER SET ascii DEFAULT NULL,
  ADD COLUMN `lease_until` int(10) unsigned DEFAULT NULL,
  ADD COLUMN `attempts` int(10) unsigned NOT NULL DEFAULT 0,
  ADD COLUMN `interruptions` int(10) unsigned NOT NULL DEFAULT 0,
  ALGORITHM=INSTANT;
