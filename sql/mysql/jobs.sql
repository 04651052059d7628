-- The job table with every ability that jobd knows. Leave out a group of columns, and its ability is off;
-- add columns of your own wherever you like.
CREATE TABLE `jobs` (
  `id` bigint(20) unsigned NOT NULL AUTO_INCREMENT,
  `target` varchar(64) NOT NULL,
  `time_created` int(10) unsigned NOT NULL,
  `time_started` int(10) unsigned NOT NULL DEFAULT 0,
  `time_finished` int(10) unsigned NOT NULL DEFAULT 0,
  `status` enum('waiting','manual','accepted','running','done','ignored') NOT NULL DEFAULT 'waiting',
  `result` enum('ok','fail') DEFAULT NULL,
  `return_code` tinyint(3) unsigned DEFAULT NULL,
  `sig` char(10) DEFAULT NULL,
  `stdout` mediumtext DEFAULT NULL,
  `stderr` mediumtext DEFAULT NULL,
  -- Ownership: claims are leases, and the rows of a worker that dies are rescued.
  `worker` varchar(191) CHARACTER SET ascii DEFAULT NULL,
  `lease_until` int(10) unsigned DEFAULT NULL,
  `attempts` int(10) unsigned NOT NULL DEFAULT 0,
  `interruptions` int(10) unsigned NOT NULL DEFAULT 0,
  -- How often a job may run, interruptions aside. NULL and a missing column mean once.
  `max_attempts` int(10) unsigned NOT NULL DEFAULT 1,
  PRIMARY KEY (`id`),
  KEY `status_target_idx` (`status`, `target`, `id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
