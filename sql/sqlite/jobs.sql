-- The job table on SQLite with every ability that jobd knows: column for column that of
-- sql/mysql/jobs.sql.
CREATE TABLE "jobs" (
  "id" INTEGER PRIMARY KEY AUTOINCREMENT,
  "target" TEXT NOT NULL,
  "time_created" INTEGER NOT NULL,
  "time_started" INTEGER NOT NULL DEFAULT 0,
  "time_finished" INTEGER NOT NULL DEFAULT 0,
  "status" TEXT NOT NULL DEFAULT 'waiting'
    CHECK ("status" IN ('waiting', 'manual', 'accepted', 'running', 'done', 'ignored', 'scheduled')),
  "result" TEXT DEFAULT NULL CHECK ("result" IN ('ok', 'fail')),
  "return_code" INTEGER DEFAULT NULL CHECK ("return_code" BETWEEN 0 AND 255),
  "sig" TEXT DEFAULT NULL,
  "stdout" TEXT DEFAULT NULL,
  "stderr" TEXT DEFAULT NULL,
  -- Ownership: claims are leases, and the rows of a worker that dies are rescued.
  "worker" TEXT DEFAULT NULL,
  "lease_until" INTEGER DEFAULT NULL,
  "attempts" INTEGER NOT NULL DEFAULT 0,
  "interruptions" INTEGER NOT NULL DEFAULT 0,
  -- Later, with the status 'scheduled': not before this moment, in seconds since 1970. NULL in every other status.
  "run_at" INTEGER DEFAULT NULL,
  -- Retries: how often a job may run, interruptions aside (NULL: what the worker's config says; once, if nothing),
  -- and how it has failed so far, as JSON.
  "max_attempts" INTEGER DEFAULT NULL,
  "errors" TEXT DEFAULT NULL,
  -- Higher first within a target.
  "priority" INTEGER NOT NULL DEFAULT 0,
  -- Seconds that the job may take.
  "timeout" INTEGER DEFAULT NULL,
  -- Why it ended: exit, signal, timeout, idle, cancelled, orphaned, spawn, drained. NULL for ok.
  "reason" TEXT DEFAULT NULL,
  -- 1 asks for a cancellation; a worker sets it to 0 when that is done, or too late.
  "cancel_requested" INTEGER DEFAULT NULL,
  -- The job's standard input.
  "data" BLOB DEFAULT NULL,
  -- What the job says of how far it has come.
  "progress" TEXT DEFAULT NULL,
  -- What it has used: CPU time, and memory at most.
  "cpu_ms" INTEGER DEFAULT NULL,
  "peak_kib" INTEGER DEFAULT NULL
);
CREATE INDEX "status_target_idx" ON "jobs" ("status", "target", "priority" DESC, "id");
CREATE INDEX "run_at_idx" ON "jobs" ("run_at");
CREATE INDEX "cancel_idx" ON "jobs" ("cancel_requested");
