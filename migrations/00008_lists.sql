-- Indexes of lists that go through a whole organization.
--
-- None of them names the state of a key, although only live keys are listed: a key changes its state at each rotation,
-- and an update that touches no indexed column needs no new entry in any index of the table.

-- +goose Up

-- Serves the keys of an organization, by their age.
CREATE INDEX keys_organization ON keys (organization_id, id);
-- Serves the keys that end soon.
CREATE INDEX keys_expiring ON keys (organization_id, expires_at, id) WHERE expires_at IS NOT NULL;
