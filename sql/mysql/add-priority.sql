-- Priorities: higher first within a target. The column is there at once on MySQL 8 and MariaDB 10.3; the index of claims is
-- built anew beside the old one while workers go on, and takes its name. MySQL before 8 and MariaDB before 10.8 know no
-- DESC in an index: claims are right there, too, and sort the backlog of their target each time. A worker sees it at its
-- next start.
ALTER TABLE `jobs`
  ADD COLUMN `priority` smallint(6) NOT NULL DEFAULT 0,
  ALGORITHM=INSTANT;
ALTER TABLE `jobs`
  DROP KEY `status_target_idx`,
  ADD KEY `status_target_idx` (`status`, `target`, `priority` DESC, `id`),
  ALGORITHM=INPLACE, LOCK=NONE;
