-- Rotations as a resource: what is demanded of an acknowledgment, how long it may take, and the rules of lineages as
-- constraints, a second wall behind the decisions.

-- +goose Up

SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

ALTER TABLE rotations
    ADD COLUMN ack_demand       text,                           -- what counts as arrived; NULL: accepted
    ADD COLUMN deadline_at      timestamptz,                    -- when the waiting is (again) too long; NULL: never
    ADD COLUMN overdue          boolean NOT NULL DEFAULT false, -- it was too long, and the rotation is held
    ADD COLUMN grace_expires_at timestamptz;                    -- of the old key

-- What the sweep needs to decide a piece of work, so that it need not look for it. NULL in rows that replicas of the version
-- before write while this one is rolled out.
ALTER TABLE due_work
    ADD COLUMN project_id  text COLLATE "C",
    ADD COLUMN endpoint_id text COLLATE "C";

-- What is there gets what a rebuild would give it.
UPDATE due_work d SET project_id = k.project_id, endpoint_id = k.endpoint_id FROM keys k WHERE k.id = d.key_id;
UPDATE rotations r SET grace_expires_at = k.grace_expires_at
    FROM keys k WHERE k.id = r.from_key_id AND r.acknowledged_at IS NOT NULL;
UPDATE rotations r SET state = 'aborted', reason = t.revoked_reason
    FROM keys f, keys t
    WHERE f.id = r.from_key_id AND t.id = r.to_key_id AND r.state = 'completed'
        AND f.state = 'revoked' AND f.revoked_at = r.ended_at AND t.state = 'revoked' AND t.revoked_at = r.ended_at;
UPDATE rotations r SET reason = 'expired'
    FROM keys t WHERE t.id = r.to_key_id AND r.state = 'aborted' AND r.reason IS NULL AND t.state = 'expired';

ALTER TABLE rotations
    ADD CONSTRAINT rotations_ended CHECK ((state IN ('delivering', 'stalled', 'overlap')) = (ended_at IS NULL)),
    ADD CONSTRAINT rotations_arrived CHECK (state NOT IN ('delivering', 'stalled') OR acknowledged_at IS NULL),
    ADD CONSTRAINT rotations_overlap CHECK (state <> 'overlap' OR acknowledged_at IS NOT NULL AND grace_expires_at IS NOT NULL);
-- No key has a deadline before its successor has arrived (guarantee G2). Those in grace have one, and those that had one
-- when they ended keep it, for the history.
ALTER TABLE keys
    ADD CONSTRAINT keys_no_deadline CHECK (state NOT IN ('pending', 'active') OR grace_expires_at IS NULL);

-- Serve the lists, newest first.
CREATE INDEX rotations_organization ON rotations (organization_id, id);
CREATE INDEX rotations_project ON rotations (project_id, id);
CREATE INDEX rotations_lineage ON rotations (lineage_id, id);
-- Serves the question what waits, of an organization whose rotations are mostly completed.
CREATE INDEX rotations_waiting ON rotations (organization_id, id) WHERE state IN ('delivering', 'stalled');

-- Of a lineage at most one key is active and at most one is pending. An index could say that, but it would name the state
-- (00008_lists.sql); so each statement looks at the lineages whose keys it wrote: at the thousand generations next to the
-- latest that it wrote, which bounds its price. A lineage that begins has one key.
-- +goose StatementBegin
CREATE FUNCTION assert_lineages() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    IF EXISTS (
        SELECT FROM (SELECT lineage_id, max(generation) AS last FROM written
            WHERE generation > 1 AND state IN ('pending', 'active') GROUP BY lineage_id) w
        JOIN keys k ON k.lineage_id = w.lineage_id AND k.generation BETWEEN w.last - 1000 AND w.last + 1000 AND k.state IN ('pending', 'active')
        GROUP BY w.lineage_id, k.state HAVING count(*) > 1
    ) THEN
        RAISE EXCEPTION 'a lineage would have two keys that are active, or two that are pending'
            USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'keys_one_active';
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

CREATE TRIGGER keys_one_active_made AFTER INSERT ON keys REFERENCING NEW TABLE AS written
    FOR EACH STATEMENT EXECUTE FUNCTION assert_lineages();
CREATE TRIGGER keys_one_active_moved AFTER UPDATE ON keys REFERENCING NEW TABLE AS written
    FOR EACH STATEMENT EXECUTE FUNCTION assert_lineages();
REVOKE ALL ON FUNCTION assert_lineages FROM PUBLIC;
GRANT EXECUTE ON FUNCTION assert_lineages TO rekey_app;
