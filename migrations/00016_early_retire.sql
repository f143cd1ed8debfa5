-- Old keys that end ahead of their grace because nobody uses them: what finds them.

-- +goose Up

-- Which projects want that, and which rotations of theirs are in overlap. Where no project does, the question ends at an index
-- that is empty.
CREATE INDEX projects_early_retire ON projects (id) WHERE policy->>'early_retire_seconds' IS NOT NULL;
CREATE INDEX rotations_overlap ON rotations (project_id, id) WHERE state = 'overlap';
