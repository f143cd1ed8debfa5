-- What an endpoint chooses to be told of, messages that are about no key, clients that say what they are, and receivers
-- that refuse everything.

-- +goose Up

SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

ALTER TABLE webhook_endpoints
    ADD COLUMN event_types jsonb; -- NULL: all

-- endpoint.disabled and endpoint.failing are about an endpoint and no key.
ALTER TABLE webhook_deliveries
    ALTER COLUMN lineage_id DROP NOT NULL;

-- A client is an address and what it says it is. A replica of the version before cannot count uses meanwhile, as it names
-- the former key: it says so in its log, and the warnings of the moment are lost, which is all that these rows are for.
ALTER TABLE grace_usage
    ADD COLUMN agent text NOT NULL DEFAULT '', -- empty: not known
    DROP CONSTRAINT grace_usage_pkey,
    ADD PRIMARY KEY (key_id, address, agent);

-- The same 4xx again and again is rarely an outage, so it is told early.
ALTER TABLE endpoint_health
    ADD COLUMN last_status    int,                    -- of the last failure; NULL: there was no answer
    ADD COLUMN equal_failures int NOT NULL DEFAULT 0, -- in a row, with that status
    ADD COLUMN alarmed_at     timestamptz;            -- when that was told

-- What waits only because its endpoint is left alone is sent soon after that works again, at the time it would have been.
ALTER TABLE webhook_deliveries
    ADD COLUMN put_off_from timestamptz; -- that time; NULL: it waits for its own

-- Owners read who still uses their keys, each those of its own.
CREATE POLICY tenant ON grace_usage FOR SELECT TO rekey_tenant USING (EXISTS (
    SELECT FROM keys k WHERE k.id = key_id AND k.organization_id = nullif(current_setting('rekey.organization', true), '')));
GRANT SELECT ON grace_usage TO rekey_tenant;

-- Serves the fan-out, which asks with each batch who is told of what happens in a project: the endpoints of single keys, of
-- which there may be as many as keys, are not among them.
CREATE INDEX webhook_endpoints_registered ON webhook_endpoints (organization_id, project_id, id)
    WHERE lineage_id IS NULL AND deleted_at IS NULL;
