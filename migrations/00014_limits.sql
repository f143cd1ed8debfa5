-- What limits the use of keys: settings of a lineage, and how much of its allowances replicas have taken.

-- +goose Up

SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

ALTER TABLE keys
    ADD COLUMN disabled    boolean NOT NULL DEFAULT false,
    ADD COLUMN allowed_ips jsonb, -- networks; NULL: anywhere
    ADD COLUMN rate_limit  jsonb, -- NULL: none
    ADD COLUMN usage_limit jsonb; -- NULL: none

-- One row per allowance of a lineage, whose current period it has: a later period begins it anew. An allowance is named by
-- its kind and the length of its windows, so that a limit that is changed and changed back has not begun anew.
CREATE TABLE limit_budgets (
    lineage_id     text COLLATE "C" NOT NULL,
    kind           text COLLATE "C" NOT NULL, -- rate, total, day, month
    window_seconds int NOT NULL,              -- of a rate; else 0
    starts_at      timestamptz NOT NULL,      -- of the period
    ends_at        timestamptz NOT NULL,      -- infinity: never
    reserved       bigint NOT NULL,           -- what replicas have spent, or may spend without asking
    PRIMARY KEY (lineage_id, kind, window_seconds),
    CONSTRAINT limit_budgets_kind CHECK (kind IN ('rate', 'total', 'day', 'month') AND (kind = 'rate') = (window_seconds > 0)),
    CONSTRAINT limit_budgets_reserved CHECK (reserved >= 0)
) WITH (fillfactor = 50); -- rows change as often as chunks are reserved
-- Serves the removal of what ended long ago.
CREATE INDEX limit_budgets_ended ON limit_budgets (ends_at) WHERE ends_at < 'infinity';

-- What of it each replica holds.
CREATE TABLE limit_shares (
    lineage_id     text COLLATE "C" NOT NULL,
    kind           text COLLATE "C" NOT NULL,
    window_seconds int NOT NULL,
    boot_id        text COLLATE "C" NOT NULL, -- a start of a replica
    starts_at      timestamptz NOT NULL,      -- of the period that it is for
    allowance      bigint NOT NULL,           -- up to how many uses it may count to
    number         bigint NOT NULL,           -- of the request that was carried out last
    asked_at       timestamptz NOT NULL,
    PRIMARY KEY (lineage_id, kind, window_seconds, boot_id)
) WITH (fillfactor = 50);
-- Serves the removal of shares of replicas that ended.
CREATE INDEX limit_shares_asked ON limit_shares (asked_at);

GRANT SELECT, INSERT, UPDATE, DELETE ON limit_budgets, limit_shares TO rekey_app;

-- The second wall between tenants (00005_walls.sql): none of it is for them.
ALTER TABLE limit_budgets ENABLE ROW LEVEL SECURITY;
CREATE POLICY service ON limit_budgets TO rekey_app USING (true) WITH CHECK (true);
ALTER TABLE limit_shares ENABLE ROW LEVEL SECURITY;
CREATE POLICY service ON limit_shares TO rekey_app USING (true) WITH CHECK (true);

-- Carries out one request of a replica for each of the allowances: it has counted to `spent` in the period that starts at
-- `period`, and wants up to `wanted` more; none wanted gives back what is left and ends the share.
--
-- Requests are absolute and numbered. One that is carried out twice, or late, finds its number and does nothing: then it has
-- no row in the answer. What a share's allowance was is the only thing that is ever taken off `reserved`, so the sum over
-- all replicas never exceeds the limit, whichever answers are lost.
--
-- A share gets what it wants, up to its part of half of what is left, so that no replica takes all while others ask, and
-- the more is left the less often it is asked. Each statement here has a snapshot of its own, which is why this is a
-- function: under the lock of the allowance's row, the rest is as the last request left it. Rows are locked in the order of
-- the arrays.
-- +goose StatementBegin
CREATE FUNCTION reserve_uses(
    p_boot text, a_lineage text[], a_kind text[], a_window int[], a_limit bigint[], a_period timestamptz[], a_spent bigint[],
    a_wanted bigint[], a_number bigint[]
) RETURNS TABLE (number bigint, starts_at timestamptz, granted bigint, unreserved bigint, left_micros bigint) LANGUAGE plpgsql
SET search_path FROM CURRENT SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    at      timestamptz;
    budget  limit_budgets;
    share   limit_shares;
    sharers bigint;
    first   timestamptz;
    last    timestamptz;
    held    bigint;
    spent   bigint;
    rest    bigint;
    chunk   bigint;
BEGIN
    FOR i IN 1 .. cardinality(a_lineage) LOOP
        INSERT INTO limit_budgets VALUES (a_lineage[i], a_kind[i], a_window[i], '-infinity', '-infinity', 0) ON CONFLICT DO NOTHING;
        SELECT * INTO budget FROM limit_budgets b
            WHERE b.lineage_id = a_lineage[i] AND b.kind = a_kind[i] AND b.window_seconds = a_window[i] FOR UPDATE;
        SELECT * INTO share FROM limit_shares s
            WHERE s.lineage_id = a_lineage[i] AND s.kind = a_kind[i] AND s.window_seconds = a_window[i] AND s.boot_id = p_boot;
        CONTINUE WHEN share.number >= a_number[i];

        -- The period, by the clock after the lock. A clock that was set back does not bring an earlier period back.
        at := clock_timestamp();
        CASE a_kind[i]
            WHEN 'rate' THEN
                first := to_timestamp(floor(extract(epoch FROM at) / a_window[i]) * a_window[i]);
            WHEN 'total' THEN
                first := to_timestamp(0);
            ELSE
                first := date_trunc(a_kind[i], at, 'UTC');
        END CASE;
        first := greatest(first, budget.starts_at);
        CASE a_kind[i]
            WHEN 'rate' THEN
                last := first + make_interval(secs => a_window[i]);
            WHEN 'total' THEN
                last := 'infinity';
            ELSE
                last := (first AT TIME ZONE 'UTC' + ('1 ' || a_kind[i])::interval) AT TIME ZONE 'UTC';
        END CASE;
        IF budget.starts_at < first THEN
            budget.reserved := 0;
        END IF;

        -- What was counted in another period is over. A count beyond its share is of a request that comes after the one that
        -- ended the share, and is in `reserved` already.
        spent := CASE WHEN a_period[i] = first THEN a_spent[i] ELSE 0 END;
        held := CASE WHEN share.starts_at = first THEN share.allowance ELSE 0 END;
        IF spent > held THEN
            CONTINUE WHEN a_wanted[i] > 0;
            spent := held;
        END IF;

        rest := greatest(0, a_limit[i] - (budget.reserved - held + spent));
        SELECT count(*) INTO sharers FROM limit_shares s
            WHERE s.lineage_id = a_lineage[i] AND s.kind = a_kind[i] AND s.window_seconds = a_window[i] AND s.boot_id <> p_boot
                AND s.starts_at = first AND s.asked_at > at - interval '10 seconds';
        chunk := least(a_wanted[i], (rest + 2 * sharers + 1) / (2 * (sharers + 1)));

        UPDATE limit_budgets b SET starts_at = first, ends_at = last, reserved = budget.reserved - held + spent + chunk
            WHERE b.lineage_id = a_lineage[i] AND b.kind = a_kind[i] AND b.window_seconds = a_window[i];
        IF a_wanted[i] = 0 THEN
            DELETE FROM limit_shares s
                WHERE s.lineage_id = a_lineage[i] AND s.kind = a_kind[i] AND s.window_seconds = a_window[i] AND s.boot_id = p_boot;
        ELSE
            INSERT INTO limit_shares VALUES (a_lineage[i], a_kind[i], a_window[i], p_boot, first, spent + chunk, a_number[i], at)
            ON CONFLICT (lineage_id, kind, window_seconds, boot_id) DO UPDATE SET
                starts_at = excluded.starts_at, allowance = excluded.allowance, number = excluded.number, asked_at = excluded.asked_at;
        END IF;

        number := a_number[i];
        starts_at := first;
        granted := chunk;
        unreserved := rest - chunk;
        left_micros := CASE WHEN last = 'infinity' THEN NULL ELSE floor(extract(epoch FROM last - at) * 1000000) END;
        RETURN NEXT;
    END LOOP;
END
$$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION reserve_uses FROM PUBLIC;
GRANT EXECUTE ON FUNCTION reserve_uses TO rekey_app;
