-- Policies, edits and deletion of projects; surfaces that an organization switched off; numbers of keys.

-- +goose Up

SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

-- The defaults are for replicas of the version before, which still work while this one is rolled out.
ALTER TABLE organizations
    ADD COLUMN version           bigint NOT NULL DEFAULT 0, -- of the stream when this row was last written
    ADD COLUMN disabled_surfaces jsonb;                     -- NULL: all are served

ALTER TABLE projects
    ADD COLUMN version    bigint NOT NULL DEFAULT 0,
    ADD COLUMN policy     jsonb,                            -- NULL: nothing is asked
    ADD COLUMN updated_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN deleted_at timestamptz;

ALTER TABLE keys
    ADD COLUMN updated_at timestamptz NOT NULL DEFAULT now(), -- when the key was made or its settings were chosen last
    -- The first 53 bits of SHA-256 over the id (domain.KeyNumber): an id for clients that want a number.
    ADD COLUMN number     bigint GENERATED ALWAYS AS
        ((('x' || left(encode(sha256(id::bytea), 'hex'), 14))::bit(56)::bigint) >> 3) STORED;
-- Serves finding a key by its number. It is unique, so a number can never lead to two keys of one organization. The number
-- comes first, so that the planner does not take this index for all other questions about an organization.
CREATE UNIQUE INDEX keys_number ON keys (number, organization_id);

-- What is there gets what a rebuild would give it: a row has not been written since the version that it names.
UPDATE organizations o SET version = s.version FROM streams s WHERE s.stream_id = o.id;
UPDATE projects p SET version = s.version, updated_at = p.created_at FROM streams s WHERE s.stream_id = p.id;
UPDATE keys k SET updated_at = greatest(k.created_at, (
    SELECT e.occurred_at FROM events e
    WHERE e.lane = 1 AND e.stream_id = k.lineage_id AND e.version <= k.version AND e.type IN ('Created', 'Updated')
    ORDER BY e.version DESC LIMIT 1));

-- Fails the transaction if a project has live keys. Whoever deletes a project calls it after moving the project's head,
-- which waits for every command that makes a key in it (they hold the head shared) and keeps new ones out until the commit.
-- +goose StatementBegin
CREATE FUNCTION assert_project_empty(p_project text) RETURNS void LANGUAGE plpgsql
SET search_path FROM CURRENT SET enable_seqscan = off AS $$
BEGIN
    IF EXISTS (SELECT FROM keys k WHERE k.project_id = p_project AND k.state IN ('pending', 'active', 'grace')) THEN
        RAISE EXCEPTION 'the project has live keys' USING ERRCODE = 'RK001';
    END IF;
END
$$;
-- +goose StatementEnd

REVOKE ALL ON FUNCTION assert_project_empty FROM PUBLIC;
GRANT EXECUTE ON FUNCTION assert_project_empty TO rekey_app;
