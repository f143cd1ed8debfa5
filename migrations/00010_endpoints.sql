-- Webhook endpoints as a resource: their states, how secrets travel to them, and signing secrets that replace each other.

-- +goose Up

SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

-- The defaults are what every endpoint was so far: a key's own address, taken at its word, for plain secrets.
ALTER TABLE webhook_endpoints
    ADD COLUMN version                bigint NOT NULL DEFAULT 1, -- of the stream when this row was last written
    ADD COLUMN state                  text NOT NULL DEFAULT 'active',
    ADD COLUMN reason                 text,
    ADD COLUMN secret_mode            text NOT NULL DEFAULT 'plain',
    ADD COLUMN ack_level              text NOT NULL DEFAULT 'accepted',
    ADD COLUMN receiver_key           jsonb,                     -- id and public key; NULL: nothing can be sealed
    ADD COLUMN proposed               jsonb,                     -- a target that the receiver has yet to prove
    ADD COLUMN signing_public_key     text,
    ADD COLUMN old_secrets_expire_at  timestamptz,               -- when the last replaced signing secret ends; may be past
    ADD COLUMN updated_at             timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN verified_at            timestamptz,
    ADD COLUMN deleted_at             timestamptz,
    ADD CONSTRAINT webhook_endpoints_state CHECK (state IN ('unverified', 'active', 'paused', 'disabled')),
    ADD CONSTRAINT webhook_endpoints_mode CHECK (secret_mode IN ('plain', 'sealed', 'claim')),
    ADD CONSTRAINT webhook_endpoints_level CHECK (ack_level IN ('accepted', 'proof', 'first_use')),
    -- A second wall behind the decision: nothing can be sealed without a key.
    ADD CONSTRAINT webhook_endpoints_sealed CHECK (secret_mode <> 'sealed' OR receiver_key IS NOT NULL);
UPDATE webhook_endpoints e SET updated_at = e.created_at, version = s.version FROM streams s WHERE s.stream_id = e.id;
-- Serves the list of an organization, newest first.
CREATE INDEX webhook_endpoints_organization ON webhook_endpoints (organization_id, id);

-- An endpoint signs with a shared secret (v1) and a key pair (v1a); replaced ones sign too until they expire. A replica
-- of the version before writes its one secret with the defaults.
ALTER TABLE endpoint_secrets
    ADD COLUMN kind       text NOT NULL DEFAULT 'v1',
    ADD COLUMN version    bigint NOT NULL DEFAULT 1, -- of the endpoint's stream when it was made
    ADD COLUMN expires_at timestamptz,               -- NULL: it is in use until it is replaced
    ADD CONSTRAINT endpoint_secrets_kind CHECK (kind IN ('v1', 'v1a')),
    DROP CONSTRAINT endpoint_secrets_pkey,
    ADD PRIMARY KEY (endpoint_id, version, kind);
-- One of a kind is in use at a time.
CREATE UNIQUE INDEX endpoint_secrets_current ON endpoint_secrets (endpoint_id, kind) WHERE expires_at IS NULL;
-- Serves shredding those that have run out.
CREATE INDEX endpoint_secrets_expired ON endpoint_secrets (expires_at) WHERE expires_at IS NOT NULL;

-- Serve the question who uses an endpoint. A key changes its endpoint only when its settings are edited.
CREATE INDEX keys_endpoint ON keys (endpoint_id) WHERE endpoint_id IS NOT NULL;
CREATE INDEX rotations_endpoint ON rotations (endpoint_id) WHERE state IN ('delivering', 'stalled');

-- Fails the transaction if live keys use an endpoint, or a rotation waits for it. Whoever deletes an endpoint calls it
-- after moving the endpoint's head, which waits for every command that points a key to it (they hold the head) and keeps
-- new ones out until the commit.
-- +goose StatementBegin
CREATE FUNCTION assert_endpoint_unused(p_endpoint text) RETURNS void LANGUAGE plpgsql
SET search_path FROM CURRENT SET enable_seqscan = off AS $$
BEGIN
    IF EXISTS (SELECT FROM keys k WHERE k.endpoint_id = p_endpoint AND k.state IN ('pending', 'active', 'grace'))
        OR EXISTS (SELECT FROM rotations r WHERE r.endpoint_id = p_endpoint AND r.state IN ('delivering', 'stalled')) THEN
        RAISE EXCEPTION 'live keys use the endpoint' USING ERRCODE = 'RK003';
    END IF;
END
$$;
-- +goose StatementEnd

-- Fails the transaction if a live key that uses an endpoint may more than those that the caller was judged by: a key that
-- comes to an endpoint while its address is changed must not have its secrets sent where its owner did not choose.
-- +goose StatementBegin
CREATE FUNCTION assert_endpoint_rights(
    p_endpoint text, s_scopes text[], s_resources text[], s_operator boolean[], s_expires_at timestamptz[]
) RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT SET enable_seqscan = off AS $$
BEGIN
    IF EXISTS (
        SELECT FROM keys k
        WHERE k.endpoint_id = p_endpoint AND k.state IN ('pending', 'active', 'grace') AND NOT EXISTS (
            SELECT FROM unnest(s_scopes, s_resources, s_operator, s_expires_at) AS s(scopes, resources, operator, expires_at)
            WHERE s.scopes::jsonb = k.scopes AND s.resources::jsonb IS NOT DISTINCT FROM k.resources AND s.operator = k.operator
                AND (s.expires_at IS NULL OR k.expires_at <= s.expires_at))
    ) THEN
        RAISE EXCEPTION 'other keys use the endpoint by now' USING ERRCODE = '40001';
    END IF;
END
$$;
-- +goose StatementEnd

REVOKE ALL ON FUNCTION assert_endpoint_unused, assert_endpoint_rights FROM PUBLIC;
GRANT EXECUTE ON FUNCTION assert_endpoint_unused, assert_endpoint_rights TO rekey_app;
