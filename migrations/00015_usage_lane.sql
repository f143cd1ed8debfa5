-- Usage as part of the log: each flush of a replica appends what it counted to the lane "usage", a few events for all keys,
-- and that is all it writes. A reader of the lane adds it to the counts of keys and to series by the hour and the day, a
-- little later. Events and series are dropped by age, a partition at a time.

-- +goose Up

-- The functions below run with the owner's rights: see 00001_event_log.sql.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

-- Up to when each replica has written what it counted, and up to when that is in the tables. A replica that was not heard of
-- for a while and has not said that it ended has crashed, or is cut off: what it counted after complete_until is missing, for
-- ever or for now. The defaults are for replicas of the version before, which do not know the columns: they hold nobody back.
ALTER TABLE usage_flushes
    ADD COLUMN complete_until timestamptz,
    ADD COLUMN applied_until  timestamptz,
    ADD COLUMN ended          boolean NOT NULL DEFAULT true;
COMMENT ON COLUMN usage_flushes.flushed_at IS 'when the replica was heard of last';

-- Replicas of the version before write rows of their own, by these columns. Nobody else needs them.
ALTER TABLE key_usage ALTER COLUMN boot_id SET DEFAULT '-', ALTER COLUMN flush_number SET DEFAULT 0;

-- How much of the lane is in the tables. Who adds to them holds the row's lock, so that is one process at a time.
CREATE TABLE usage_projection (
    one        boolean PRIMARY KEY DEFAULT true CHECK (one),
    position   bigint NOT NULL,      -- all up to it is in the tables
    applied_at timestamptz NOT NULL, -- when somebody looked last
    resumes_at timestamptz NOT NULL  -- before that the reader rests, whoever it is
) WITH (fillfactor = 20);
INSERT INTO usage_projection VALUES (true, 0, now(), now());
GRANT SELECT, UPDATE ON usage_projection TO rekey_app;

-- Uses by the hour and by the day (UTC): of each key, and of each project as the sum of its keys.
CREATE TABLE usage_hours (
    subject_id      text COLLATE "C" NOT NULL, -- the key or the project
    start           timestamptz NOT NULL,
    organization_id text COLLATE "C" NOT NULL,
    project_id      text COLLATE "C" NOT NULL,
    lineage_id      text COLLATE "C" NOT NULL, -- of a key; empty: the row is a project's
    use_count       bigint NOT NULL,           -- verifies that said valid, and requests to rekey itself
    denied_count    bigint NOT NULL,           -- verifies that found the key and did not say valid
    PRIMARY KEY (subject_id, start)
) PARTITION BY RANGE (start);
CREATE TABLE usage_days (
    subject_id      text COLLATE "C" NOT NULL,
    start           timestamptz NOT NULL,
    organization_id text COLLATE "C" NOT NULL,
    project_id      text COLLATE "C" NOT NULL,
    lineage_id      text COLLATE "C" NOT NULL,
    use_count       bigint NOT NULL,
    denied_count    bigint NOT NULL,
    PRIMARY KEY (subject_id, start)
) PARTITION BY RANGE (start);
-- Serve the sums over a lineage, and over the projects of an organization (whose rows have an empty lineage).
CREATE INDEX usage_hours_lineage ON usage_hours (organization_id, lineage_id, start);
CREATE INDEX usage_days_lineage ON usage_days (organization_id, lineage_id, start);

GRANT SELECT, INSERT, UPDATE ON usage_hours, usage_days TO rekey_app;
GRANT SELECT ON usage_hours, usage_days TO rekey_tenant;

-- Since when each series is there: what is older was dropped, or was used before there were series.
CREATE TABLE usage_series (
    name  text COLLATE "C" PRIMARY KEY,
    since timestamptz NOT NULL
);
INSERT INTO usage_series SELECT name, CASE WHEN EXISTS (SELECT FROM key_usage) THEN now() ELSE '-infinity' END
    FROM unnest(ARRAY['usage_hours', 'usage_days']) AS s(name);
GRANT SELECT ON usage_series TO rekey_app;

-- The second wall between tenants (00005_walls.sql).
ALTER TABLE usage_hours ENABLE ROW LEVEL SECURITY;
ALTER TABLE usage_days ENABLE ROW LEVEL SECURITY;
CREATE POLICY service ON usage_hours TO rekey_app USING (true) WITH CHECK (true);
CREATE POLICY service ON usage_days TO rekey_app USING (true) WITH CHECK (true);
CREATE POLICY tenant ON usage_hours FOR SELECT TO rekey_tenant
    USING (organization_id = nullif(current_setting('rekey.organization', true), ''));
CREATE POLICY tenant ON usage_days FOR SELECT TO rekey_tenant
    USING (organization_id = nullif(current_setting('rekey.organization', true), ''));

-- Makes the partitions of the series that a moment falls into: a week of hours, a month of days. Returns how many it made.
-- +goose StatementBegin
CREATE FUNCTION make_series_partitions(p_at timestamptz) RETURNS int LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET timezone = 'UTC' AS $$
DECLARE
    series record;
    made   int := 0;
    child  text;
BEGIN
    FOR series IN VALUES
        ('usage_hours', date_trunc('week', p_at), date_trunc('week', p_at) + interval '1 week'),
        ('usage_days', date_trunc('month', p_at), date_trunc('month', p_at) + interval '1 month')
    LOOP
        child := format('%s_%s', series.column1, to_char(series.column2, 'YYYYMMDD'));
        CONTINUE WHEN to_regclass(child) IS NOT NULL;
        PERFORM pg_advisory_xact_lock(hashtext('rekey.series'));
        -- Another replica may have been first. The catalog is asked by a statement: what is cached of it may be older.
        CONTINUE WHEN EXISTS (SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                              WHERE i.inhparent = series.column1::regclass AND c.relname = child);
        -- Rows change each second; room on the page keeps the updates off the indexes. Attached, not created in place: that
        -- would wait for every reader of the series.
        EXECUTE format('CREATE TABLE %I (LIKE %I) WITH (fillfactor = 70)', child, series.column1);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', series.column1, child, series.column2, series.column3);
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;
-- +goose StatementEnd

-- The partitions of the lane "usage". They should hold about a day each, so that what is too old can be dropped, and nobody
-- knows how many events a day will have: each new one is twice as large as the last if that filled in less than a day, and
-- half as large if it took more than two.
CREATE TABLE usage_partitions (
    first_position bigint PRIMARY KEY,
    end_position   bigint NOT NULL, -- exclusive
    made_at        timestamptz NOT NULL
);
GRANT SELECT ON usage_partitions TO rekey_app;

-- Keeps one empty partition behind what is there and p_more events beyond. The caller's transaction holds the lane: few rows
-- come between two calls, because this is looked after at each append.
-- +goose StatementBegin
CREATE FUNCTION make_usage_partitions(p_more bigint) RETURNS int LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET enable_seqscan = off AS $$
DECLARE
    smallest CONSTANT bigint := 1000;
    largest  CONSTANT bigint := 1000000000;
    head     bigint;
    last     usage_partitions;
    size     bigint := 10000; -- the first one's
    made     int := 0;
    child    text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('rekey.lane'), 2);
    SELECT e.position INTO head FROM events e WHERE e.lane = 2 ORDER BY e.position DESC LIMIT 1;
    head := coalesce(head, 0);
    LOOP
        SELECT * INTO last FROM usage_partitions p ORDER BY p.first_position DESC LIMIT 1;
        EXIT WHEN last.first_position > head + p_more;
        IF last.first_position IS NOT NULL THEN
            -- The last one was made when the one before it began to be filled, and that is about to be over.
            size := last.end_position - last.first_position;
            size := CASE WHEN last.made_at > clock_timestamp() - interval '1 day' THEN size * 2
                         WHEN last.made_at < clock_timestamp() - interval '2 days' THEN size / 2 ELSE size END;
            size := least(greatest(size, smallest), largest);
        END IF;
        last.first_position := coalesce(last.end_position, 0);
        child := format('events_usage_%s', lpad(last.first_position::text, 15, '0'));
        EXECUTE format('CREATE TABLE %I (LIKE events)', child);
        -- Ids are random: to compress them costs much and saves little.
        EXECUTE format('ALTER TABLE %I ALTER COLUMN data SET STORAGE EXTERNAL', child);
        -- A second wall behind the numbers of flushes: the same event is not appended twice.
        EXECUTE format('CREATE UNIQUE INDEX %I ON %I (stream_id, version)', child || '_stream', child);
        EXECUTE format('ALTER TABLE events_usage ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
                       child, last.first_position, last.first_position + size);
        INSERT INTO usage_partitions VALUES (last.first_position, last.first_position + size, clock_timestamp());
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;
-- +goose StatementEnd

-- Nothing was ever written to the lane: its partitions of a fixed size give way. Should somebody have written all the same,
-- the migration stops rather than drop it.
-- +goose StatementBegin
DO $$
DECLARE
    child regclass;
BEGIN
    IF EXISTS (SELECT FROM events WHERE lane = 2) THEN
        RAISE EXCEPTION 'the lane usage has events that no version of rekey wrote; look at SELECT * FROM events WHERE lane = 2';
    END IF;
    FOR child IN SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'events_usage'::regclass LOOP
        EXECUTE format('DROP TABLE %s', child);
    END LOOP;
END
$$;
-- +goose StatementEnd

-- As before for the lane "lifecycle"; the other one's partitions, and those of the series, have rules of their own.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION ensure_partitions() RETURNS int LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    size  CONSTANT bigint := 10000000; -- positions per partition
    head  bigint;
    first bigint;
    made  int := 0;
    child text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('rekey.partitions'));
    SELECT coalesce(max(e.position), 0) INTO head FROM events e WHERE e.lane = 1;
    FOR i IN 0..3 LOOP
        first := (head / size + i) * size;
        child := format('events_lifecycle_%s', lpad((first / size)::text, 6, '0'));
        IF to_regclass(child) IS NULL THEN
            -- Attached, not created in place: that would wait for every reader of the log, and make appends wait.
            EXECUTE format('CREATE TABLE %I (LIKE events)', child);
            -- Serves folding one stream and the history of a key. It is unique, as a second wall behind the heads: an
            -- index over all partitions could not be.
            EXECUTE format('CREATE UNIQUE INDEX %I ON %I (stream_id, version)', child || '_stream', child);
            EXECUTE format('ALTER TABLE events_lifecycle ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)', child, first, first + size);
            made := made + 1;
        END IF;
    END LOOP;
    made := made + make_series_partitions(now()) + make_series_partitions(now() + interval '7 days');
    RETURN made + make_usage_partitions(0);
END
$$;
-- +goose StatementEnd
SELECT ensure_partitions();

-- Up to when the counts of all replicas are complete: what one is known to have written and is not in the tables yet holds the
-- moment back, and so does what one that was heard of lately may still write. One that was not is a gap.
-- It is STABLE so that it sees what the statement sees that asks: the moment fits the counts that are read beside it.
-- +goose StatementBegin
CREATE FUNCTION usage_complete_until() RETURNS timestamptz LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$
    SELECT min(applied_until) FROM usage_flushes
        WHERE applied_until < complete_until OR NOT ended AND flushed_at > clock_timestamp() - interval '30 seconds'
$$;
-- +goose StatementEnd

-- Writes one flush: its number, up to when the replica's uses are complete with it, and its events, all or nothing. One that is
-- there already finds its number and adds nothing; one that may still be at work, on a connection that was given up, is waited
-- for by the conflict. p_from is up to when they were complete before. Returns what the database's clock says.
--
-- The lane is held over the insert of few events and the commit: nothing but that comes after this statement.
-- +goose StatementBegin
CREATE FUNCTION write_usage(
    p_boot text, p_number bigint, p_from timestamptz, p_until timestamptz, p_ended boolean, e_id text[], e_version bigint[],
    e_organization text[], e_project text[], e_type text, e_revision smallint, e_actor text, e_data text[]
) RETURNS timestamptz LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    n int := cardinality(e_id);
BEGIN
    INSERT INTO usage_flushes AS f (boot_id, number, flushed_at, complete_until, applied_until, ended)
        VALUES (p_boot, p_number, clock_timestamp(), p_until, p_from, p_ended)
        ON CONFLICT (boot_id) DO UPDATE SET number = excluded.number, flushed_at = excluded.flushed_at, ended = excluded.ended,
            complete_until = greatest(excluded.complete_until, f.complete_until)
            WHERE f.number < excluded.number;
    IF FOUND AND n > 0 THEN
        PERFORM make_usage_partitions(n); -- takes the lane
        PERFORM append_events(2::smallint, e_id, array_fill(p_boot, ARRAY[n]), e_version, e_organization, e_project,
            array_fill(e_type, ARRAY[n]), array_fill(e_revision, ARRAY[n]), array_fill(clock_timestamp(), ARRAY[n]),
            array_fill(e_actor, ARRAY[n]), array_fill(''::text, ARRAY[n]), e_data);
    END IF;
    RETURN clock_timestamp();
END
$$;
-- +goose StatementEnd

-- Drops at most one partition of what is older than it need be, and returns how many it dropped: the caller comes again
-- until that is none. To drop one, every reader of its table must have ended; who reads for long makes this give up, and is not
-- waited for, because all others would wait behind. The last partition of the lane that has events stays: it tells the head. So
-- does every one with an event that is not in the tables yet.
-- +goose StatementBegin
CREATE FUNCTION drop_old_usage(p_events interval, p_hours interval, p_days interval) RETURNS int LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET timezone = 'UTC' SET lock_timeout = '200ms' SET enable_seqscan = off AS $$
DECLARE
    oldest usage_partitions;
    newest timestamptz;
    series record;
BEGIN
    IF least(p_events, p_hours, p_days) < interval '1 day' THEN
        RAISE EXCEPTION 'usage is kept for a day at least' USING ERRCODE = '22023';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('rekey.drop_usage'));
    SELECT * INTO oldest FROM usage_partitions p ORDER BY p.first_position LIMIT 1;
    SELECT e.occurred_at INTO newest FROM events e WHERE e.lane = 2 AND e.position = oldest.end_position - 1;
    IF newest < now() - p_events AND oldest.end_position <= (SELECT p.position + 1 FROM usage_projection p) AND EXISTS (SELECT FROM events e WHERE e.lane = 2 AND e.position = oldest.end_position) THEN
        EXECUTE format('DROP TABLE %I', format('events_usage_%s', lpad(oldest.first_position::text, 15, '0')));
        DELETE FROM usage_partitions p WHERE p.first_position = oldest.first_position;
        RETURN 1;
    END IF;
    SELECT p.* INTO series FROM (
            SELECT 'usage_hours' AS name, c.relname AS child, to_date(right(c.relname, 8), 'YYYYMMDD') + interval '1 week' AS end_at, p_hours AS kept
            FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'usage_hours'::regclass
            UNION ALL
            SELECT 'usage_days', c.relname, to_date(right(c.relname, 8), 'YYYYMMDD') + interval '1 month', p_days
            FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'usage_days'::regclass
        ) p WHERE p.end_at <= now() - p.kept ORDER BY p.child LIMIT 1;
    IF series.child IS NULL THEN
        RETURN 0;
    END IF;
    EXECUTE format('DROP TABLE %I', series.child);
    UPDATE usage_series s SET since = greatest(s.since, series.end_at) WHERE s.name = series.name;
    RETURN 1;
EXCEPTION WHEN lock_not_available THEN
    RETURN 0; -- the next run tries again
END
$$;
-- +goose StatementEnd

REVOKE ALL ON FUNCTION make_series_partitions, make_usage_partitions, usage_complete_until, write_usage, drop_old_usage FROM PUBLIC;
GRANT EXECUTE ON FUNCTION make_series_partitions, usage_complete_until, write_usage, drop_old_usage TO rekey_app;
GRANT EXECUTE ON FUNCTION usage_complete_until TO rekey_tenant;
