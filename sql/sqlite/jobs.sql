-- The job table on SQLite with every ability that jobd knows: column for column that of
-- sql/mysql/jobs.sql.
CREATE TABLE "jobs" (
  "id" INTEGER PRIMARY KEY AUTOINCREMENT,
  "target" TEXT NOT NULL,
  "time_created" INTEGER NOT NULL,
  "time_started" INTEGER NOT NULL DEFAULT 0,
  "time_finished" INTEGER NOT NULL DEFAULT 0,
  "status" TEXT NOT NULL DEFAULT 'waiting'
    CHECK ("status" IN ('waiting', 'manual', 'accepted', 'running', 'done', 'ignored')),
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
  -- How often a job may run, interruptions aside. NULL and a missing column mean once.
  "max_attempts" INTEGER NOT NULL DEFAULT 1
);
CREATE INDEX "status_target_idx" ON "jobs" ("status", "target", "id");
