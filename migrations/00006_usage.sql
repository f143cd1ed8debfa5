-- When each key was last used and how often. It is no part of the log: each replica counts in memory and adds what it
-- counted each second.

-- +goose Up

-- One row per key that was ever used.
CREATE TABLE key_usage (
    key_id          text COLLATE "C" PRIMARY KEY,
    organization_id text COLLATE "C" NOT NULL,
    last_used_at    timestamptz NOT NULL,
    last_used_ip    inet,   -- of the latest use; null: not known
    use_count       bigint NOT NULL,
    -- The flush that wrote the row last, by which its replica knows what is to be added.
    boot_id         text COLLATE "C" NOT NULL,
    flush_number    bigint NOT NULL,
    CONSTRAINT key_usage_count CHECK (use_count > 0)
) WITH (fillfactor = 70); -- rows change each second; room on the page keeps the updates off the index

-- The last flush of each replica's life that was counted. The same flush sent again, because its answer was lost, finds
-- its number here and counts nothing.
CREATE TABLE usage_flushes (
    boot_id    text COLLATE "C" PRIMARY KEY, -- a start of a replica
    number     bigint NOT NULL,
    flushed_at timestamptz NOT NULL
) WITH (fillfactor = 50);

GRANT SELECT, INSERT, UPDATE, DELETE ON key_usage, usage_flushes TO rekey_app;
GRANT SELECT ON key_usage TO rekey_tenant;

-- The second wall between tenants (00005_walls.sql).
ALTER TABLE key_usage ENABLE ROW LEVEL SECURITY;
CREATE POLICY service ON key_usage TO rekey_app USING (true) WITH CHECK (true);
CREATE POLICY tenant ON key_usage FOR SELECT TO rekey_tenant
    USING (organization_id = nullif(current_setting('rekey.organization', true), ''));
