-- The second wall between tenants. Every read for a tenant names its organization in its own WHERE; should one forget to,
-- row security still shows it nothing of anybody else. Such reads run as a role that may read tenants' rows and nothing
-- else, and that sees those of one organization only: the one named by the setting rekey.organization, which lasts for one
-- transaction. Without it there is nothing to see.
--
-- A later table with tenants' rows needs the same three statements (and the grant, if tenants read it). A test in this
-- folder fails for a table that has none.

-- +goose Up

-- +goose StatementBegin
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'rekey_tenant') THEN
        CREATE ROLE rekey_tenant NOLOGIN;
    END IF;
    -- Whoever may work as the service may step down to a tenant. Only to grant it takes rights.
    IF NOT pg_has_role('rekey_app', 'rekey_tenant', 'MEMBER') THEN
        GRANT rekey_tenant TO rekey_app;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL; -- another database of this cluster was migrated at the same moment
END
$$;
-- +goose StatementEnd

-- What tenants never read: sealed secrets, what waits to be done, and states that commands are decided on. Row security
-- without a policy for them keeps it so, whatever is granted by mistake.
-- +goose StatementBegin
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['streams', 'due_work', 'endpoint_secrets', 'pending_secrets'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY service ON %I TO rekey_app USING (true) WITH CHECK (true)', name);
    END LOOP;
END
$$;
-- +goose StatementEnd

-- What tenants read, each its own. After a transaction the setting is not unset but empty, which must not be the name of
-- an organization either. The policy of the service is a constant that the planner removes: it costs nothing.
-- +goose StatementBegin
DO $$
DECLARE
    own CONSTANT text := '= nullif(current_setting(''rekey.organization'', true), '''')';
    wall record;
BEGIN
    FOR wall IN VALUES
        ('organizations', 'id ' || own),
        ('projects', 'organization_id ' || own),
        ('environments', 'organization_id ' || own),
        ('keys', 'organization_id ' || own),
        ('rotations', 'organization_id ' || own),
        ('webhook_endpoints', 'organization_id ' || own),
        ('webhook_deliveries', 'organization_id ' || own),
        ('webhook_attempts', 'EXISTS (SELECT FROM webhook_deliveries d WHERE d.id = delivery_id AND d.organization_id ' || own || ')'),
        ('events', 'organization_id ' || own)
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', wall.column1);
        EXECUTE format('CREATE POLICY service ON %I TO rekey_app USING (true) WITH CHECK (true)', wall.column1);
        EXECUTE format('CREATE POLICY tenant ON %I FOR SELECT TO rekey_tenant USING (%s)', wall.column1, wall.column2);
        EXECUTE format('GRANT SELECT ON %I TO rekey_tenant', wall.column1);
    END LOOP;
END
$$;
-- +goose StatementEnd
