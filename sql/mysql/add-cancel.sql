-- Cancellations by the row: whoever sets `cancel_requested` to 1 asks for one. At once on MySQL 8 and MariaDB 10.3, but for the
-- index, which is built while workers go on; a worker sees it at its next start.
ALTER TABLE `jobs`
  ADD COLUMN `cancel_requested` tinyint(3) unsigned DEFAULT NULL,
  ALGORITHM=INSTANT;
ALTER TABLE `jobs` ADD KEY `cancel_idx` (`cancel_requested`), ALGORITHM=INPLACE, LOCK=NONE;
