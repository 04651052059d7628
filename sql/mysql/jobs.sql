-- The job table with every ability that jobd knows. Leave out a group of columns, and its ability is off;
-- add columns of your own wherever you like.
CREATE TABLE `jobs` (
  `id` bigint(20) unsigned NOT NULL AUTO_INCREMENT,
  `target` varchar(64) NOT NULL,
  `time_created` int(10) unsigned NOT NULL,
  `time_started` int(10) unsigned NOT NULL DEFAULT 0,
  `time_finished` int(10) unsigned NOT NULL DEFAULT 0,
  `status` enum('waiting','manual','accepted','running','done','ignored','scheduled') NOT NULL DEFAULT 'waiting',
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
  -- Later, with the status 'scheduled': not before this moment, in seconds since 1970. NULL in every other status.
  `run_at` int(10) unsigned DEFAULT NULL,
  -- Retries: how often a job may run, interruptions aside (NULL: what the worker's config says; once, if nothing),
  -- and how it has failed so far, as JSON.
  `max_attempts` int(10) unsigned DEFAULT NULL,
  `errors` mediumtext DEFAULT NULL,
  -- Higher first within a target.
  `priority` smallint(6) NOT NULL DEFAULT 0,
  -- Seconds that the job may take.
  `timeout` int(10) unsigned DEFAULT NULL,
  -- Why it ended: exit, signal, timeout, idle, cancelled, orphaned, spawn, drained. NULL for ok.
  `reason` varchar(16) CHARACTER SET ascii DEFAULT NULL,
  -- 1 asks for a cancellation; a worker sets it to 0 when that is done, or too late.
  `cancel_requested` tinyint(3) unsigned DEFAULT NULL,
  -- The job's standard input.
  `data` mediumblob DEFAULT NULL,
  -- What the job says of how far it has come.
  `progress` varchar(255) DEFAULT NULL,
  -- What it has used: CPU time, and memory at most.
  `cpu_ms` int(10) unsigned DEFAULT NULL,
  `peak_kib` int(10) unsigned DEFAULT NULL,
  PRIMARY KEY (`id`),
  KEY `status_target_idx` (`status`, `target`, `priority` DESC, `id`),
  KEY `run_at_idx` (`run_at`),
  KEY `cancel_idx` (`cancel_requested`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
