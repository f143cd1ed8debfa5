-- The event log: stream heads, events by lane, consumers' checkpoints, and the one function that may append.

-- +goose Up

-- The role the service works as (SET ROLE after connecting). It may read the log and append to it through the function
-- below; it can never change or remove an event.
-- +goose StatementBegin
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'rekey_app') THEN
        CREATE ROLE rekey_app NOLOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL; -- another database of this cluster was migrated at the same moment
END
$$;
-- +goose StatementEnd

-- The functions below run with the owner's rights, on this schema whatever path their caller has set (they keep the one of
-- this transaction). Temporary tables come last: a caller's table of the same name, and its triggers, must not get in.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

-- The head of each stream: the authority for optimistic concurrency, locked by every command on the stream. The folded
-- state lies beside the version, so a command loads both with one row lock instead of reading the stream again.
CREATE TABLE streams (
    stream_id      text COLLATE "C" PRIMARY KEY,
    version        bigint NOT NULL CHECK (version > 0),
    state_revision smallint NOT NULL, -- another revision than the program's: the stream is folded again
    state          text NOT NULL
) WITH (fillfactor = 80); -- heads are updated in place; room on the page keeps the updates off the index

-- One table of events. The position is contiguous per lane, so a reader that sees no hole has seen everything.
CREATE TABLE events (
    lane            smallint NOT NULL, -- 1 lifecycle (kept), 2 usage (dropped by age)
    position        bigint NOT NULL,
    event_id        text COLLATE "C" NOT NULL,
    stream_id       text COLLATE "C" NOT NULL,
    version         bigint NOT NULL,
    organization_id text COLLATE "C" NOT NULL,
    project_id      text COLLATE "C" NOT NULL, -- empty for events of an organization
    type            text COLLATE "C" NOT NULL,
    revision        smallint NOT NULL,
    occurred_at     timestamptz NOT NULL,
    actor           text NOT NULL,
    request_id      text NOT NULL,
    data            json NOT NULL, -- json, not jsonb: the text stays as written, so that hashes over it stay stable
    PRIMARY KEY (lane, position)
) PARTITION BY LIST (lane);

CREATE TABLE events_lifecycle PARTITION OF events FOR VALUES IN (1) PARTITION BY RANGE (position);
CREATE TABLE events_usage PARTITION OF events FOR VALUES IN (2) PARTITION BY RANGE (position);

-- Serves the audit feed of one organization.
CREATE INDEX events_organization ON events (organization_id, lane, position);

-- Where each reader of the log has got to.
CREATE TABLE consumers (
    name       text PRIMARY KEY,
    lane       smallint NOT NULL,
    position   bigint NOT NULL,
    updated_at timestamptz NOT NULL
);

-- Keeps at least three empty partitions ahead of each lane's head and returns how many it made. Called by the
-- migration, at start-up and by maintenance; without it an append would one day find no partition.
-- +goose StatementBegin
CREATE FUNCTION ensure_partitions() RETURNS int LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    size   CONSTANT bigint := 10000000; -- positions per partition
    lanes  CONSTANT text[] := ARRAY['lifecycle', 'usage'];
    lane_n int;
    head   bigint;
    first  bigint;
    made   int := 0;
    child  text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('rekey.partitions'));
    FOR lane_n IN 1..2 LOOP
        SELECT coalesce(max(e.position), 0) INTO head FROM events e WHERE e.lane = lane_n;
        FOR i IN 0..3 LOOP
            first := (head / size + i) * size;
            child := format('events_%s_%s', lanes[lane_n], lpad((first / size)::text, 6, '0'));
            IF to_regclass(child) IS NULL THEN
                -- Attached, not created in place: that would wait for every reader of the log, and make appends wait.
                EXECUTE format('CREATE TABLE %I (LIKE events)', child);
                -- Serves folding one stream and the history of a key. It is unique, as a second wall behind the heads: an
                -- index over all partitions could not be.
                EXECUTE format('CREATE UNIQUE INDEX %I ON %I (stream_id, version)', child || '_stream', child);
                EXECUTE format('ALTER TABLE events_%s ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
                               lanes[lane_n], child, first, first + size);
                made := made + 1;
            END IF;
        END LOOP;
    END LOOP;
    RETURN made;
END
$$;
-- +goose StatementEnd

SELECT ensure_partitions();

-- Moves the heads of streams from the versions they must be at, and makes sure that streams which were only looked at are
-- still at theirs. A head that is elsewhere fails the transaction: what was decided is out of date. It is called before
-- any other row is written, so that locks are taken in the order heads (moved, read, new), rows, lane.
-- Every access is by key; the planner is kept from scanning, since a plan made while a table was empty may live long.
-- +goose StatementBegin
CREATE FUNCTION move_heads(
    h_stream text[], h_expected bigint[], h_version bigint[], h_revision smallint, h_state text[],
    r_stream text[], r_version bigint[]
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    moved bigint;
    fresh bigint;
    found bigint;
BEGIN
    UPDATE streams s SET version = h.version, state_revision = h_revision, state = h.state
        FROM unnest(h_stream, h_expected, h_version, h_state) AS h(stream, expected, version, state)
        WHERE h.expected > 0 AND s.stream_id = h.stream AND s.version = h.expected;
    GET DIAGNOSTICS moved = ROW_COUNT;
    PERFORM FROM streams s WHERE s.stream_id = ANY (r_stream) AND s.version = r_version[array_position(r_stream, s.stream_id)]
        ORDER BY s.stream_id FOR SHARE;
    GET DIAGNOSTICS found = ROW_COUNT;
    INSERT INTO streams (stream_id, version, state_revision, state)
        SELECT h.stream, h.version, h_revision, h.state
        FROM unnest(h_stream, h_expected, h_version, h_state) AS h(stream, expected, version, state)
        WHERE h.expected = 0
        ON CONFLICT (stream_id) DO NOTHING;
    GET DIAGNOSTICS fresh = ROW_COUNT;
    IF moved + fresh <> cardinality(h_stream) OR found <> cardinality(r_stream) THEN
        RAISE EXCEPTION 'a stream is not at its expected version' USING ERRCODE = '40001';
    END IF;
END
$$;
-- +goose StatementEnd

-- Appends events; returns the position of the first. It must be the last statement before the commit and be sent
-- together with it: the lane lock, which makes positions contiguous in commit order, is then held only over the insert and
-- the commit. The lock is a statement of its own before the head is read, because a lock taken inside the reading statement
-- would come after that statement's snapshot.
-- +goose StatementBegin
CREATE FUNCTION append_events(
    p_lane smallint, e_id text[], e_stream text[], e_version bigint[], e_organization text[], e_project text[],
    e_type text[], e_revision smallint[], e_occurred_at timestamptz[], e_actor text[], e_request text[], e_data text[]
) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET enable_seqscan = off AS $$
DECLARE
    head bigint;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'append_events needs READ COMMITTED: under % the head of the lane would be stale',
            current_setting('transaction_isolation') USING ERRCODE = '25001';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('rekey.lane'), p_lane);
    SELECT e.position INTO head FROM events e WHERE e.lane = p_lane ORDER BY e.position DESC LIMIT 1;
    head := coalesce(head, 0);
    INSERT INTO events (lane, position, event_id, stream_id, version, organization_id, project_id, type, revision,
                        occurred_at, actor, request_id, data)
        SELECT p_lane, head + e.n, e.id, e.stream, e.version, e.organization, e.project, e.type, e.revision,
               e.occurred_at, e.actor, e.request, e.data::json
        FROM unnest(e_id, e_stream, e_version, e_organization, e_project, e_type, e_revision, e_occurred_at, e_actor, e_request, e_data)
             WITH ORDINALITY
             AS e(id, stream, version, organization, project, type, revision, occurred_at, actor, request, data, n);
    RETURN head + 1;
END
$$;
-- +goose StatementEnd

REVOKE ALL ON FUNCTION move_heads, append_events, ensure_partitions FROM PUBLIC;
GRANT EXECUTE ON FUNCTION move_heads, append_events, ensure_partitions TO rekey_app;
-- Heads are locked by commands (SELECT ... FOR UPDATE needs UPDATE on some column); the function alone writes them.
GRANT SELECT, UPDATE (state_revision) ON streams TO rekey_app;
GRANT SELECT ON events TO rekey_app;
GRANT SELECT, INSERT, UPDATE ON consumers TO rekey_app;
