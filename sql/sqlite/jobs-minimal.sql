-- The smallest table that jobd works with on SQLite: column for column that of
-- sql/mysql/jobs-minimal.sql, with CHECKs in the place of the ENUMs.
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
  "stderr" TEXT DEFAULT NULL
);
CREATE INDEX "status_target_idx" ON "jobs" ("status", "target", "id");
