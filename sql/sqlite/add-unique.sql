-- Unique jobs: of jobs with the same `unique_key` only one at a time may wait to begin; an INSERT of another is refused, and
-- INSERT OR IGNORE leaves it out. NULL asks for nothing. Add 'accepted' and 'running' to the list, and there is none
-- beside one that runs, either.
ALTER TABLE "jobs" ADD COLUMN "unique_key" TEXT DEFAULT NULL;
CREATE UNIQUE INDEX "pending_idx" ON "jobs" ("target", "unique_key")
  WHERE "status" IN ('waiting', 'manual', 'scheduled');
