-- The read model: what commands and verifies look up. It is written in the appending transaction, by the same fold that
-- rebuilds it, and `rekey projections check` compares it with the log row by row.

-- +goose Up

CREATE TABLE organizations (
    id         text COLLATE "C" PRIMARY KEY,
    name       text NOT NULL,
    created_at timestamptz NOT NULL
);

CREATE TABLE projects (
    id              text COLLATE "C" PRIMARY KEY,
    organization_id text COLLATE "C" NOT NULL,
    name            text NOT NULL,
    brand           text NOT NULL,
    created_at      timestamptz NOT NULL
);
CREATE INDEX projects_organization ON projects (organization_id, id);

CREATE TABLE environments (
    id              text COLLATE "C" PRIMARY KEY,
    organization_id text COLLATE "C" NOT NULL,
    project_id      text COLLATE "C" NOT NULL,
    name            text NOT NULL,
    created_at      timestamptz NOT NULL,
    CONSTRAINT environments_name_once UNIQUE (project_id, name)
);

-- One row per generation, that is per key; ended ones stay for the history.
CREATE TABLE keys (
    id                        text COLLATE "C" PRIMARY KEY,
    lineage_id                text COLLATE "C" NOT NULL,
    generation                int NOT NULL,
    version                   bigint NOT NULL, -- of the lineage when this row was last written
    organization_id           text COLLATE "C" NOT NULL,
    project_id                text COLLATE "C" NOT NULL,
    environment_id            text COLLATE "C" NOT NULL,
    name                      text NOT NULL,
    secret_digest             bytea NOT NULL,  -- SHA-256
    key_prefix                text NOT NULL,
    last_four                 text NOT NULL,
    scopes                    jsonb NOT NULL,
    resources                 jsonb,
    metadata                  jsonb,
    state                     text NOT NULL,
    operator                  boolean NOT NULL,
    created_by                text NOT NULL,
    created_at                timestamptz NOT NULL,
    expires_at                timestamptz,
    grace_expires_at          timestamptz,
    revoked_at                timestamptz,
    revoked_reason            text,
    replaced_by_key_id        text,
    rotation_id               text,            -- the rotation that waits for this generation's arrival
    rotation_interval_seconds bigint,
    grace_seconds             bigint NOT NULL,
    next_rotation_at          timestamptz,
    rotation_webhook_url      text,
    endpoint_id               text,
    CONSTRAINT keys_state CHECK (state IN ('pending', 'active', 'grace', 'retired', 'revoked', 'expired', 'discarded')),
    CONSTRAINT keys_grace CHECK (state <> 'grace' OR grace_expires_at IS NOT NULL)
) WITH (fillfactor = 80);
-- Serves every verify.
CREATE UNIQUE INDEX keys_secret_digest ON keys (secret_digest);
-- Serves the list of a project, newest first: ids sort by time.
CREATE INDEX keys_project ON keys (project_id, id);
-- Serves the generations of a lineage; a generation exists once.
CREATE UNIQUE INDEX keys_lineage ON keys (lineage_id, generation);

-- One row per rotation, also the completed ones.
CREATE TABLE rotations (
    id              text COLLATE "C" PRIMARY KEY,
    lineage_id      text COLLATE "C" NOT NULL,
    organization_id text COLLATE "C" NOT NULL,
    project_id      text COLLATE "C" NOT NULL,
    trigger         text NOT NULL,
    state           text NOT NULL,
    from_key_id     text NOT NULL,
    to_key_id       text NOT NULL,
    generation      int NOT NULL,
    grace_seconds   bigint NOT NULL,
    endpoint_id     text,
    started_at      timestamptz NOT NULL,
    acknowledged_at timestamptz,
    ack_level       text,
    ended_at        timestamptz,
    reason          text,
    CONSTRAINT rotations_state CHECK (state IN ('delivering', 'stalled', 'overlap', 'completed', 'cancelled', 'superseded',
                                                'aborted', 'rolled_back'))
) WITH (fillfactor = 80);
-- One rotation at a time may wait for its receiver; a second wall behind the decision.
CREATE UNIQUE INDEX rotations_one_waiting ON rotations (lineage_id) WHERE state IN ('delivering', 'stalled');

-- Work that falls due by time. kind, key and due_at follow from the log; scan_at, attempts and last_error belong to the
-- sweep, which moves scan_at on when a piece of work fails, so that one poison key delays no other.
CREATE TABLE due_work (
    lineage_id text COLLATE "C" NOT NULL,
    kind       text NOT NULL,
    key_id     text COLLATE "C" NOT NULL,
    due_at     timestamptz NOT NULL,
    scan_at    timestamptz NOT NULL,
    attempts   int NOT NULL DEFAULT 0,
    last_error text,
    PRIMARY KEY (lineage_id, kind, key_id)
);
-- Serves the sweep: the idle question reads one page, however many rows are not due.
CREATE INDEX due_work_scan ON due_work (scan_at, lineage_id);

CREATE TABLE webhook_endpoints (
    id              text COLLATE "C" PRIMARY KEY,
    organization_id text COLLATE "C" NOT NULL,
    project_id      text COLLATE "C" NOT NULL,
    lineage_id      text COLLATE "C",
    url             text NOT NULL,
    created_at      timestamptz NOT NULL
);

GRANT SELECT, INSERT, UPDATE, DELETE ON
    organizations, projects, environments, keys, rotations, due_work, webhook_endpoints TO rekey_app;
