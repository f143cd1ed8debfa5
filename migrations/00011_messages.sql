-- Webhooks that people can trust: how each attempt went, who asked for it, when an endpoint is left alone, and what a
-- waiting secret is sealed with.

-- +goose Up

SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

-- A redelivery gives the same delivery a new budget of attempts; their numbers go on.
ALTER TABLE webhook_deliveries
    ALTER COLUMN rotation_id DROP NOT NULL,                    -- NULL: it tells of no rotation
    ADD COLUMN attempts_before int NOT NULL DEFAULT 0,         -- of earlier budgets
    ADD COLUMN trigger         text NOT NULL DEFAULT 'auto',   -- of the attempts of this budget
    ADD COLUMN actor           text,                           -- who asked for them; NULL: nobody had to
    ADD CONSTRAINT webhook_deliveries_trigger CHECK (trigger IN ('auto', 'manual', 'replay')),
    ADD CONSTRAINT webhook_deliveries_budget CHECK (attempts >= attempts_before);
-- Serve what happens to a rotation or to an endpoint: its deliveries are cancelled, held or released.
CREATE INDEX webhook_deliveries_rotation ON webhook_deliveries (rotation_id) WHERE rotation_id IS NOT NULL;
CREATE INDEX webhook_deliveries_endpoint ON webhook_deliveries (endpoint_id, id);
-- Serves the list of a project, newest first.
CREATE INDEX webhook_deliveries_project ON webhook_deliveries (project_id, id);

ALTER TABLE webhook_attempts
    ADD COLUMN dns_ms              int,
    ADD COLUMN connect_ms          int,
    ADD COLUMN tls_ms              int,
    ADD COLUMN first_byte_ms       int,  -- from the begin of the attempt, like total_ms
    ADD COLUMN total_ms            int,
    ADD COLUMN retry_after_seconds int,  -- what the receiver asked for
    ADD COLUMN next_delay_seconds  int,  -- until the next attempt; NULL: there is none
    ADD COLUMN worker              text, -- the process that made it
    ADD COLUMN trigger             text NOT NULL DEFAULT 'auto',
    ADD COLUMN actor               text;

-- Bodies of messages that carry no secret. The first one to need a body builds and keeps it, so that every attempt, every
-- endpoint and NATS get the same bytes.
CREATE TABLE webhook_messages (
    id         text COLLATE "C" PRIMARY KEY, -- webhook-id
    body       bytea NOT NULL,
    created_at timestamptz NOT NULL
);

-- The circuit breaker: an endpoint that fails again and again is left alone, and then tried by one delivery at a time.
-- There is no row for an endpoint that never failed.
CREATE TABLE endpoint_health (
    endpoint_id          text COLLATE "C" PRIMARY KEY,
    state                text NOT NULL,
    consecutive_failures int NOT NULL DEFAULT 0,
    opens                int NOT NULL DEFAULT 0,  -- in a row, which the pause grows with
    first_failure_at     timestamptz,
    opened_at            timestamptz,
    next_probe_at        timestamptz,             -- while a probe is under way: when it counts as lost
    last_success_at      timestamptz,
    CONSTRAINT endpoint_health_state CHECK (state IN ('closed', 'open', 'half_open')),
    CONSTRAINT endpoint_health_probe CHECK (state = 'closed' OR next_probe_at IS NOT NULL)
) WITH (fillfactor = 70);

-- A waiting secret is sealed with a key of its own, that one with the key of its day, and that one with the master key.
-- Who deletes the row has shredded the secret; once the day's key is gone, copies of the row are worth nothing either.
CREATE TABLE epoch_keys (
    id            text COLLATE "C" PRIMARY KEY, -- the day, in UTC
    sealed        bytea NOT NULL,
    created_at    timestamptz NOT NULL,
    destroy_after timestamptz NOT NULL
);

ALTER TABLE pending_secrets
    ADD COLUMN mode       text NOT NULL DEFAULT 'plain', -- how it travels
    ADD COLUMN recipient  text,                          -- id of the receiver's key that it was sealed to
    ADD COLUMN epoch_id   text,                          -- NULL: sealed with the master key itself, or to the receiver
    ADD COLUMN data_key   bytea,
    ADD COLUMN proof_hash bytea,                         -- SHA-256 of the proof that the receiver can give
    ADD CONSTRAINT pending_secrets_mode CHECK (mode IN ('plain', 'sealed', 'claim')),
    ADD CONSTRAINT pending_secrets_epoch CHECK ((epoch_id IS NULL) = (data_key IS NULL)),
    ADD CONSTRAINT pending_secrets_recipient CHECK (mode <> 'sealed' OR recipient IS NOT NULL);

-- Addresses at which a new secret is fetched once. The rows outlive the secret, so that a second use is noticed.
CREATE TABLE claims (
    token_hash  bytea PRIMARY KEY,               -- SHA-256
    rotation_id text COLLATE "C" NOT NULL,
    lineage_id  text COLLATE "C" NOT NULL,
    expires_at  timestamptz NOT NULL,
    claimed_at  timestamptz,
    reused_at   timestamptz                      -- the second use, which raised the alarm
);
CREATE INDEX claims_expires_at ON claims (expires_at);

-- Who still uses a key whose successor has arrived: counted by client, told at most once an hour.
CREATE TABLE grace_usage (
    key_id          text COLLATE "C" NOT NULL,
    address         text NOT NULL,               -- empty: not known
    lineage_id      text COLLATE "C" NOT NULL,
    first_seen_at   timestamptz NOT NULL,
    last_seen_at    timestamptz NOT NULL,
    use_count       bigint NOT NULL,
    announced_count bigint NOT NULL DEFAULT 0,
    announced_at    timestamptz,
    PRIMARY KEY (key_id, address)
) WITH (fillfactor = 70);
-- Serves the question what is to be told.
CREATE INDEX grace_usage_untold ON grace_usage (announced_at NULLS FIRST) WHERE use_count > announced_count;
CREATE INDEX grace_usage_age ON grace_usage (last_seen_at);

-- None of it is read by tenants (00005_walls.sql).
-- +goose StatementBegin
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['webhook_messages', 'endpoint_health', 'epoch_keys', 'claims', 'grace_usage'] LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO rekey_app', name);
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY service ON %I TO rekey_app USING (true) WITH CHECK (true)', name);
    END LOOP;
END
$$;
-- +goose StatementEnd
