-- What is not in the log: sealed secrets, and where each delivery of a webhook stands.

-- +goose Up

-- Signing secrets of endpoints, sealed with the master key.
CREATE TABLE endpoint_secrets (
    endpoint_id text COLLATE "C" PRIMARY KEY,
    sealed      bytea NOT NULL,
    created_at  timestamptz NOT NULL
);

-- New secrets that wait for their acknowledgment, sealed with the master key. The row is deleted in the transaction that
-- acknowledges or ends the rotation.
CREATE TABLE pending_secrets (
    rotation_id text COLLATE "C" PRIMARY KEY,
    key_id      text COLLATE "C" NOT NULL,
    sealed      bytea NOT NULL,
    created_at  timestamptz NOT NULL
);

-- One row per webhook and endpoint, made by the fan-out reader of the log together with its checkpoint. The retry
-- schedule lives here, not in the job queue: a job carries out one attempt, and an attempt whose worker died is handed
-- out again once its lease has lapsed.
CREATE TABLE webhook_deliveries (
    id              text COLLATE "C" PRIMARY KEY,
    message_id      text COLLATE "C" NOT NULL, -- webhook-id, the same over all attempts
    endpoint_id     text COLLATE "C" NOT NULL,
    organization_id text COLLATE "C" NOT NULL,
    project_id      text COLLATE "C" NOT NULL,
    lineage_id      text COLLATE "C" NOT NULL,
    rotation_id     text COLLATE "C" NOT NULL,
    position        bigint NOT NULL,           -- of the event it tells of
    type            text NOT NULL,
    state           text NOT NULL,
    attempts        int NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL,      -- while an attempt is out: when its lease lapses
    last_outcome    text,
    last_status     int,
    created_at      timestamptz NOT NULL,
    finished_at     timestamptz,
    CONSTRAINT webhook_deliveries_state CHECK (state IN ('pending', 'held', 'delivered', 'failed', 'cancelled')),
    CONSTRAINT webhook_deliveries_once UNIQUE (message_id, endpoint_id)
) WITH (fillfactor = 80);
-- Serves the sweep for attempts that are due.
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (next_attempt_at) WHERE state = 'pending';
-- Serves the list of an organization, newest first.
CREATE INDEX webhook_deliveries_organization ON webhook_deliveries (organization_id, id);

-- One row per attempt. It never holds anything of a request or an answer but its outcome.
CREATE TABLE webhook_attempts (
    delivery_id text COLLATE "C" NOT NULL,
    number      int NOT NULL,
    started_at  timestamptz NOT NULL,
    finished_at timestamptz,                   -- null: under way, or its worker died
    outcome     text,
    status      int,
    PRIMARY KEY (delivery_id, number)
);

GRANT SELECT, INSERT, UPDATE, DELETE ON
    endpoint_secrets, pending_secrets, webhook_deliveries, webhook_attempts TO rekey_app;
