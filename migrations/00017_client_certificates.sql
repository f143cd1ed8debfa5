-- Client certificates: what rekey shows to receivers that want to know who calls.

-- +goose Up

SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

-- What everybody may know of it, from the log.
ALTER TABLE webhook_endpoints
    ADD COLUMN client_certificate jsonb; -- NULL: none

-- The certificates with their private keys, sealed. Like signing secrets they are in no event, and no rebuild touches them.
CREATE TABLE endpoint_certificates (
    endpoint_id text COLLATE "C" PRIMARY KEY,
    digest      text NOT NULL, -- of the chain: as in webhook_endpoints, or nothing is sent with it
    sealed      bytea NOT NULL,
    created_at  timestamptz NOT NULL
);
GRANT SELECT, INSERT, UPDATE, DELETE ON endpoint_certificates TO rekey_app;

-- No tenant reads it.
ALTER TABLE endpoint_certificates ENABLE ROW LEVEL SECURITY;
CREATE POLICY service ON endpoint_certificates TO rekey_app USING (true) WITH CHECK (true);
