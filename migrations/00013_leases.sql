-- Who answers verifies from memory, and up to where each of them has applied the log.

-- +goose Up

-- One row per running verifier. A command that takes a right away answers once each row that has not run out has applied
-- it. The rows are logged and renewed durably: a verifier trusts its memory for as long as its row says, so the database
-- must not forget the row in a crash.
CREATE TABLE verifier_leases (
    id               text COLLATE "C" PRIMARY KEY, -- a start of a verifier
    applied_position bigint NOT NULL,
    expires_at       timestamptz NOT NULL,         -- by the database's clock
    name             text NOT NULL,                -- for people: which process it is
    started_at       timestamptz NOT NULL
) WITH (fillfactor = 50); -- rows change several times a second

GRANT SELECT, INSERT, UPDATE, DELETE ON verifier_leases TO rekey_app;

-- The second wall between tenants (00005_walls.sql): none of it is for them.
ALTER TABLE verifier_leases ENABLE ROW LEVEL SECURITY;
CREATE POLICY service ON verifier_leases TO rekey_app USING (true) WITH CHECK (true);
