-- What requests with an Idempotency-Key were answered, so that a retry gets the same answer with the same secret.

-- +goose Up

-- One row per caller and key, for a day. The id is a digest of both, and the answer is sealed with the master key, because
-- it may hold a secret: the database alone tells nothing of either.
CREATE TABLE answers (
    id         bytea PRIMARY KEY,
    sealed     bytea NOT NULL,
    expires_at timestamptz NOT NULL
);
-- Serves the maintenance that removes what has run out.
CREATE INDEX answers_expires_at ON answers (expires_at);

-- Keeps an answer in the transaction that makes it true. A request that was answered before must not be carried out again,
-- so the transaction of the second one fails, on whichever replica it is: there is no lock that could outlive its holder.
-- +goose StatementBegin
CREATE FUNCTION keep_answer(p_id bytea, p_sealed bytea, p_at timestamptz, p_expires_at timestamptz) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO answers (id, sealed, expires_at) VALUES (p_id, p_sealed, p_expires_at)
        ON CONFLICT (id) DO UPDATE SET sealed = excluded.sealed, expires_at = excluded.expires_at
            WHERE answers.expires_at <= p_at;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'a request with this key was answered already' USING ERRCODE = 'RK002';
    END IF;
END
$$;
-- +goose StatementEnd

REVOKE ALL ON FUNCTION keep_answer FROM PUBLIC;
GRANT EXECUTE ON FUNCTION keep_answer TO rekey_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON answers TO rekey_app;
